//! What the clients noticed, as figures.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::Tick;
use testkit::load::{Move, Report};

use super::Plan;
use super::footprint::Footprint;
use crate::table::{Rows, ms};

/// Most of the failures and losses that are printed one by one.
const SHOWN_MAX: usize = 10;

/// What the clients got in one time.
#[derive(Debug)]
pub(super) struct Loads {
    /// Short answers.
    pub(super) short: Report,
    /// Answers that take seconds.
    pub(super) long: Report,
}

/// How it went.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The load while nothing was done.
    pub(super) calm: Loads,
    /// The load while everything was done.
    pub(super) busy: Loads,
    /// How long that took.
    pub(super) took: Duration,
    /// Clients that another instance answered although their own was neither replaced nor draining.
    pub(super) lost: Vec<Move>,
    /// How often another HAProxy worker took over.
    pub(super) reloads: u32,
    /// What it took to serve them.
    pub(super) footprint: Footprint,
}

/// Of all moves of clients those that had no need: the instance they came from had not been told to leave by then.
pub(super) fn lost(moves: &[Move], farewells: &BTreeMap<String, Tick>) -> Vec<Move> {
    let needed = |it: &&Move| farewells.get(&it.from).is_some_and(|told| *told <= it.at);
    moves.iter().filter(|it| !needed(it)).cloned().collect()
}

impl Loads {
    fn failed(&self) -> u64 {
        self.short.failed + self.long.failed
    }
}

impl Outcome {
    /// Whether no client noticed anything.
    pub(super) fn is_clean(&self) -> bool {
        self.calm.failed() == 0 && self.busy.failed() == 0 && self.lost.is_empty() && self.reloads == 0
    }

    /// For people.
    pub(super) fn table(&self, who: &str, plan: &Plan) -> String {
        let (calm, busy) = (&self.calm, &self.busy);
        let mut rows = Rows::new(
            &format!("{who}, {} req/s, {} clients", plan.rate, plan.clients),
            &["calm", &format!("in {:.1} s", self.took.as_secs_f64())],
        );
        let none = "0".to_owned();
        rows.push("instances replaced", [&none, &plan.replacements.to_string()]);
        rows.push("instances moved to another port", [&none, &plan.moves.to_string()]);
        rows.push("weights changed", [&none, &plan.weights.to_string()]);
        let failed = |load: &Report| format!("{} of {}", load.failed, load.sent);
        rows.push("failed: short answers", [failed(&calm.short), failed(&busy.short)]);
        rows.push("failed: answers of 3 s", [failed(&calm.long), failed(&busy.long)]);
        let lost = [calm.short.moves.len(), self.lost.len()].map(|count| count.to_string());
        rows.push("clients lost without need", lost);
        rows.push("clients moved as their instance left", [none.clone(), self.needed().to_string()]);
        rows.push("reloads", [none, self.reloads.to_string()]);
        for ((name, in_calm), (_, in_churn)) in times(&calm.short).into_iter().zip(times(&busy.short)) {
            rows.push(name, [in_calm, in_churn].map(|time| ms(1_000.0 * time.as_secs_f64())));
        }
        let Footprint { processes, memory_kb } = self.footprint;
        rows.push("processes, at most", ["", &processes.to_string()]);
        rows.push("memory, at most", ["", &format!("{:.1} MB", memory_kb / 1_024.0)]);
        let all = [&calm.short, &calm.long, &busy.short, &busy.long];
        let failures = all.into_iter().flat_map(|load| &load.failures).take(SHOWN_MAX);
        let failures = failures.map(|it| format!("\nfailed after {:?}: {}", it.at.since(it.due), it.what));
        let lost = self.lost.iter().take(SHOWN_MAX).map(|it| format!("\nlost: {it:?}"));
        rows.to_string() + &failures.chain(lost).collect::<String>()
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let load = |loads: &Loads| {
            let Loads { short, long } = loads;
            let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
            let times: BTreeMap<_, _> =
                times(short).into_iter().map(|(name, time)| (name, us(time))).collect();
            json!({ "short": { "requests": short.sent, "failed": short.failed, "us": times },
                "long": { "requests": long.sent, "failed": long.failed } })
        };
        json!({
            "seconds": self.took.as_secs_f64(),
            "failed": self.busy.failed(),
            "lost_without_need": self.lost.len(),
            "moved_with_need": self.needed(),
            "reloads": self.reloads,
            "processes": self.footprint.processes,
            "memory_mb": self.footprint.memory_kb / 1_024.0,
            "calm": load(&self.calm), "churn": load(&self.busy),
            "slowest_ms_by_second": self.busy.short.slowest_by_second(),
        })
    }

    fn needed(&self) -> usize {
        self.busy.short.moves.len() - self.lost.len()
    }
}

/// The times that are shown, from when a request was due to its answer.
fn times(load: &Report) -> [(&'static str, Duration); 3] {
    [("median", load.p50), ("p99", load.p99), ("slowest", load.max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_lost_unless_its_instance_was_told_to_leave() {
        let at = Tick::from_ms;
        let came = |from: &str, ms| Move { client: 0, from: from.into(), to: "c".into(), at: at(ms) };
        let moves = [came("a", 9), came("a", 11), came("b", 11)];
        let farewells = BTreeMap::from([("a".to_owned(), at(10))]);
        assert_eq!(lost(&moves, &farewells), [came("a", 9), came("b", 11)]);
    }
}
