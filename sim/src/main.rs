//! `sim`: runs schedules of the whole from seeds, and scripts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use clap::{Parser, Subcommand};
use sim::run::{Outcome, run, shrink};
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
        seeds: std::ops::Range<u64>,
        /// How many at a time.
        #[arg(short, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
        j: u64,
        /// Only these kinds of operations, by name (roll, reload, wipe, …).
        #[arg(long, value_delimiter = ',')]
        only: Option<Vec<String>>,
        /// Stop after so many broken schedules.
        #[arg(long, default_value_t = 5)]
        failures_max: u64,
        /// Write each shrunk script into this folder.
        #[arg(long)]
        save: Option<PathBuf>,
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
    /// Print the script of a seed.
    Show {
        /// The seed.
        seed: u64,
    },
}

fn range(text: &str) -> Result<std::ops::Range<u64>, String> {
    let illegal = || "write FIRST..END, for example 0..1000".to_owned();
    let (first, end) = text.split_once("..").ok_or_else(illegal)?;
    Ok(first.parse().map_err(|_| illegal())?..end.parse().map_err(|_| illegal())?)
}

fn main() -> ExitCode {
    let (text, code) = match Cli::parse().verb {
        Verb::Run { seeds, j, only, failures_max, save } => {
            run_seeds(seeds, j, only.as_deref(), failures_max, save.as_deref())
        }
        Verb::Replay { scripts, trace } => replay(&scripts, trace),
        Verb::Show { seed } => (Script::draw(seed, None).to_string(), 0),
    };
    // A closed pipe is no failure of a schedule.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::from(code)
}

#[derive(Default)]
struct Counts {
    schedules: u64,
    events: u64,
    requests: u64,
    failed: u64,
    leaves: u64,
    timed_out: u64,
    marks: BTreeMap<&'static str, u64>,
}

impl Counts {
    fn add(&mut self, outcome: &Outcome) {
        self.schedules += 1;
        self.events += outcome.counts.events;
        self.requests += outcome.counts.requests;
        self.failed += outcome.counts.failed;
        self.leaves += outcome.counts.leaves;
        self.timed_out += outcome.counts.timed_out;
        for mark in outcome.marks.keys() {
            *self.marks.entry(mark).or_default() += 1;
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "how long it took is what is told")]
fn run_seeds(
    seeds: std::ops::Range<u64>,
    j: u64,
    only: Option<&[String]>,
    failures_max: u64,
    save: Option<&Path>,
) -> (String, u8) {
    let started = Instant::now();
    let (mut counts, mut broken, mut text) = (Counts::default(), 0, String::new());
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let (send, results) = mpsc::sync_channel(64);
        for _ in 0..j {
            let (send, next, stop) = (send.clone(), &next, &stop);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= seeds.end || stop.load(Ordering::Relaxed) >= failures_max {
                        return;
                    }
                    let script = Script::draw(number, only);
                    let outcome = run(&script, false);
                    let shrunk = outcome.violation.as_ref().map(|violation| shrink(&script, violation));
                    if send.send((number, outcome, shrunk)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        for (seed, outcome, shrunk) in results {
            counts.add(&outcome);
            let Some((script, violation, runs)) = shrunk else { continue };
            broken += 1;
            stop.fetch_add(1, Ordering::Relaxed);
            // Writing to a String cannot fail.
            let _ =
                writeln!(text, "seed {seed}: {violation}\n  shrunk in {runs} runs:\n# {violation}\n{script}");
            if let Some(folder) = save {
                let saved = std::fs::create_dir_all(folder).and_then(|()| {
                    std::fs::write(folder.join(format!("{seed}.txt")), format!("# {violation}\n{script}"))
                });
                if let Err(error) = saved {
                    let _ = writeln!(text, "cannot write to {}: {error}", folder.display());
                }
            }
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    let rate = f64::from(u32::try_from(counts.schedules).unwrap_or(u32::MAX)) / seconds;
    let _ = writeln!(
        text,
        "{} schedules in {seconds:.1} s ({rate:.0}/s), {} events, {} requests ({} failed, all accounted for), {} leaves acked, {} at their deadline; {broken} broken",
        counts.schedules, counts.events, counts.requests, counts.failed, counts.leaves, counts.timed_out
    );
    for (mark, count) in &counts.marks {
        let _ = writeln!(text, "  {count:>8}  {mark}");
    }
    (text, u8::from(broken > 0))
}

fn replay(scripts: &[PathBuf], trace: bool) -> (String, u8) {
    let (mut text, mut code) = (String::new(), 0);
    for path in scripts {
        let read = std::fs::read_to_string(path).map_err(|error| error.to_string());
        let outcome = match read.and_then(|text| text.parse::<Script>()) {
            Ok(script) => run(&script, trace),
            Err(error) => {
                let _ = writeln!(text, "error: {}: {error}", path.display());
                code = 1;
                continue;
            }
        };
        for line in &outcome.trace {
            let _ = writeln!(text, "{line}");
        }
        match outcome.violation {
            None => {
                let _ = writeln!(text, "{}: holds", path.display());
            }
            Some(violation) => {
                let _ = writeln!(text, "{}: {violation}", path.display());
                code = 1;
            }
        }
    }
    (text, code)
}
