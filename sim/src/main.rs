//! `sim`: runs schedules of the whole from seeds, and scripts.

use std::fmt::Write as _;
use std::io::Write as _;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sim::cli::seeds::{Schedules, run_all, save};
use sim::cli::{replay, step};
use sim::marks;
use sim::script::Script;

/// Runs the whole of Leasehold in virtual time, from seeds or from scripts.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the schedules of these seeds. Exits with 1 if an oracle was broken.
    Run {
        /// The seeds, as FIRST..END.
        #[arg(long, value_parser = range, default_value = "0..1000")]
        seeds: Range<u64>,
        /// How many at a time.
        #[arg(short, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
        j: u64,
        /// Only these kinds of operations, by name (roll, reload, wipe, …).
        #[arg(long, value_delimiter = ',')]
        only: Option<Vec<String>>,
        /// Stop after so many broken schedules.
        #[arg(long, default_value_t = 5)]
        failures_max: u64,
        /// Leave broken schedules as they were drawn.
        #[arg(long)]
        no_shrink: bool,
        /// Write each shrunk script into this folder.
        #[arg(long)]
        save: Option<PathBuf>,
        /// Exit with 1, too, if a coverage mark was reached in one schedule of a thousand or fewer.
        #[arg(long)]
        require_marks: bool,
    },
    /// Run scripts. Exits with 1 if an oracle was broken.
    Replay {
        /// The scripts.
        #[arg(required = true)]
        scripts: Vec<PathBuf>,
        /// Print every event.
        #[arg(long)]
        trace: bool,
    },
    /// Walk through a script, an event at a time, with the state of every machine.
    Step {
        /// The script.
        script: PathBuf,
        /// Begin at this time, in milliseconds.
        #[arg(long, default_value_t = 0)]
        from_ms: u64,
    },
    /// Print the script of a seed.
    Show {
        /// The seed.
        seed: u64,
        /// As in `run`.
        #[arg(long, value_delimiter = ',')]
        only: Option<Vec<String>>,
    },
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let illegal = || "write FIRST..END, for example 0..1000".to_owned();
    let (first, end) = text.split_once("..").ok_or_else(illegal)?;
    Ok(first.parse().map_err(|_| illegal())?..end.parse().map_err(|_| illegal())?)
}

fn main() -> ExitCode {
    let (text, holds) = match Cli::parse().verb {
        Verb::Run { seeds, j, only, failures_max, no_shrink, save: folder, require_marks } => {
            let schedules =
                Schedules { seeds, threads: j, only, failures_max, shrinks: !no_shrink, save: folder };
            run_seeds(&schedules, require_marks)
        }
        Verb::Replay { scripts, trace } => replay::replay(&scripts, trace),
        Verb::Step { script, from_ms } => step_through(&script, from_ms),
        Verb::Show { seed, only } => (Script::draw(seed, only.as_deref()).to_string(), true),
    };
    // A closed pipe is no failure of a schedule.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::from(u8::from(!holds))
}

fn run_seeds(schedules: &Schedules, require_marks: bool) -> (String, bool) {
    let summary = run_all(schedules);
    let (mut text, mut holds) = (summary.text(), summary.broken.is_empty());
    let saved = schedules.save.as_ref().map_or(Ok(()), |folder| save(folder, &summary.broken));
    if let Err(error) = saved {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "error: cannot write the scripts: {error}");
        holds = false;
    }
    let missed = marks::missed(summary.schedules, &summary.marks);
    if require_marks && !missed.is_empty() {
        let _ =
            writeln!(text, "error: reached in one schedule of a thousand or fewer: {}", missed.join("; "));
        holds = false;
    }
    (text, holds)
}

fn step_through(path: &PathBuf, from_ms: u64) -> (String, bool) {
    let read = std::fs::read_to_string(path).map_err(|error| error.to_string());
    let script = match read.and_then(|text| text.parse::<Script>()) {
        Ok(script) => script,
        Err(error) => return (format!("error: {}: {error}\n", path.display()), false),
    };
    let stepped = step::step(&script, from_ms, &mut std::io::stdin().lock(), &mut std::io::stdout().lock());
    (String::new(), stepped.is_ok())
}
