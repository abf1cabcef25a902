//! `sim run`: runs the schedules of many seeds, on several threads.

use std::fmt::Write as _;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::marks::{self, Marks};
use crate::oracles::Violation;
use crate::run::{Outcome, run, shrink};
use crate::script::Script;

/// What to run.
#[derive(Clone, Debug)]
pub struct Schedules {
    /// The seeds.
    pub seeds: Range<u64>,
    /// Threads.
    pub threads: u64,
    /// Only these kinds of operations.
    pub only: Option<Vec<String>>,
    /// Stop after so many broken schedules.
    pub failures_max: u64,
    /// Whether a broken schedule is made smaller.
    pub shrinks: bool,
    /// Write each script that breaks an oracle into this folder.
    pub save: Option<PathBuf>,
}

/// A schedule that broke an oracle.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Its seed.
    pub seed: u64,
    /// What it broke.
    pub violation: Violation,
    /// The script, shrunk where that was wanted.
    pub script: Script,
    /// Runs that shrinking took.
    pub runs: u32,
}

/// What came of all of them.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Schedules that were run.
    pub schedules: u64,
    /// Events, requests, requests that failed, leaves that were acked, and those that were not in time.
    pub counts: crate::world::Counts,
    /// Schedules that reached each mark.
    pub marks: Marks,
    /// Those that broke an oracle.
    pub broken: Vec<Broken>,
    /// How long it took.
    pub took: Duration,
}

impl Summary {
    fn add(&mut self, outcome: &Outcome) {
        self.schedules += 1;
        self.counts.add(&outcome.counts);
        for mark in outcome.marks.keys() {
            marks::count(&mut self.marks, mark);
        }
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        for Broken { seed, violation, script, runs } in &self.broken {
            let _ = writeln!(text, "seed {seed}: {violation}");
            if *runs > 0 {
                let _ = writeln!(text, "  shrunk in {runs} runs:");
            }
            let _ = writeln!(text, "# {violation}\n{script}");
        }
        let seconds = self.took.as_secs_f64();
        let rate = f64::from(u32::try_from(self.schedules).unwrap_or(u32::MAX)) / seconds.max(0.001);
        let (schedules, counts, broken) = (self.schedules, &self.counts, self.broken.len());
        let _ = writeln!(
            text,
            "{schedules} schedules in {seconds:.1} s ({rate:.0}/s), {} events, {} requests ({} failed, all accounted for), {} leaves acked, {} at their deadline; {broken} broken",
            counts.events, counts.requests, counts.failed, counts.leaves, counts.timed_out
        );
        for (mark, count) in &self.marks {
            let _ = writeln!(text, "  {count:>8}  {mark}");
        }
        text
    }
}

/// Runs them.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "how long it took is what is told")]
pub fn run_all(schedules: &Schedules) -> Summary {
    let started = Instant::now();
    let mut summary = Summary::default();
    let next_seed = AtomicU64::new(schedules.seeds.start);
    let failures = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let (send, results) = mpsc::sync_channel(64);
        for _ in 0..schedules.threads {
            let (send, next_seed, failures) = (send.clone(), &next_seed, &failures);
            scope.spawn(move || {
                loop {
                    let number = next_seed.fetch_add(1, Ordering::Relaxed);
                    let is_over = failures.load(Ordering::Relaxed) >= schedules.failures_max;
                    if number >= schedules.seeds.end
                        || is_over
                        || send.send(run_one(schedules, number)).is_err()
                    {
                        return;
                    }
                }
            });
        }
        drop(send);
        for (outcome, broken) in results {
            summary.add(&outcome);
            let Some(broken) = broken else { continue };
            failures.fetch_add(1, Ordering::Relaxed);
            summary.broken.push(broken);
        }
    });
    summary.took = started.elapsed();
    summary
}

fn run_one(schedules: &Schedules, seed: u64) -> (Outcome, Option<Broken>) {
    let script = Script::draw(seed, schedules.only.as_deref());
    let outcome = run(&script, false);
    let broken = outcome.violation.clone().map(|violation| {
        let (script, violation, runs) =
            if schedules.shrinks { shrink(&script, &violation) } else { (script, violation, 0) };
        Broken { seed, violation, script, runs }
    });
    (outcome, broken)
}

/// Writes each broken schedule's script into `folder`, named by its seed.
pub fn save(folder: &Path, broken: &[Broken]) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for Broken { seed, violation, script, .. } in broken {
        std::fs::write(folder.join(format!("{seed}.txt")), format!("# {violation}\n{script}"))?;
    }
    Ok(())
}
