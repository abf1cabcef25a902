//! What the clients noticed, as figures.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use stack::Tick;
use stack::load::{Move, Report};

use super::Plan;
use crate::table::{Rows, ms};

/// Most of the failures and losses that are printed one by one.
const SHOWN_MAX: usize = 10;

/// How it went.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The load while nothing was done.
    pub(super) calm: Report,
    /// The load while everything was done.
    pub(super) busy: Report,
    /// How long that took.
    pub(super) took: Duration,
    /// Clients that another instance answered although their own was neither replaced nor draining.
    pub(super) lost: Vec<Move>,
    /// Whether another HAProxy process answers than before.
    pub(super) reloads: u32,
}

/// Of all moves of clients those that had no need: the instance they came from had not been told to leave by then.
pub(super) fn lost(moves: &[Move], farewells: &BTreeMap<String, Tick>) -> Vec<Move> {
    let needed = |it: &&Move| farewells.get(&it.from).is_some_and(|told| *told <= it.at);
    moves.iter().filter(|it| !needed(it)).cloned().collect()
}

impl Outcome {
    /// Whether nobody noticed anything.
    pub(super) fn is_clean(&self) -> bool {
        self.calm.failed == 0 && self.busy.failed == 0 && self.lost.is_empty() && self.reloads == 0
    }

    /// For people.
    pub(super) fn table(&self, plan: &Plan) -> String {
        let Plan { rate, clients, replacements, moves, weights, .. } = plan;
        let (calm, busy) = (&self.calm, &self.busy);
        let mut rows = Rows::new(
            &format!("{rate} req/s from {clients} sticky clients"),
            &["calm", &format!("in {:.1} s", self.took.as_secs_f64())],
        );
        let none = "0".to_owned();
        rows.push("instances replaced", [&none, &replacements.to_string()]);
        rows.push("instances moved to another port", [&none, &moves.to_string()]);
        rows.push("weights changed", [&none, &weights.to_string()]);
        rows.push("requests", [calm.sent.to_string(), busy.sent.to_string()]);
        rows.push("failed", [calm.failed.to_string(), busy.failed.to_string()]);
        let lost = [calm.moves.len(), self.lost.len()].map(|count| count.to_string());
        rows.push("clients lost without need", lost);
        rows.push("clients moved as their instance left", [none.clone(), self.needed().to_string()]);
        rows.push("reloads", [none, self.reloads.to_string()]);
        for ((name, in_calm), (_, in_churn)) in times(calm).into_iter().zip(times(busy)) {
            rows.push(name, [in_calm, in_churn].map(|time| ms(1_000.0 * time.as_secs_f64())));
        }
        let failures = calm.failures.iter().chain(&busy.failures).take(SHOWN_MAX);
        let failures = failures.map(|it| format!("\nfailed after {:?}: {}", it.at.since(it.due), it.what));
        let lost = self.lost.iter().take(SHOWN_MAX).map(|it| format!("\nlost: {it:?}"));
        rows.to_string() + &failures.chain(lost).collect::<String>()
    }

    /// For programs.
    pub(super) fn json(&self, plan: &Plan, about: &str) -> Value {
        let load = |load: &Report| {
            let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
            let times: BTreeMap<_, _> =
                times(load).into_iter().map(|(name, time)| (name, us(time))).collect();
            json!({ "requests": load.sent, "failed": load.failed, "us": times })
        };
        json!({
            "on": about.lines().collect::<Vec<_>>(),
            "rate": plan.rate, "clients": plan.clients, "seconds": self.took.as_secs_f64(),
            "replacements": plan.replacements, "moves": plan.moves, "weights": plan.weights,
            "failed": self.busy.failed,
            "lost_without_need": self.lost.len(),
            "reloads": self.reloads,
            "moved_with_need": self.needed(),
            "calm": load(&self.calm), "churn": load(&self.busy),
        })
    }

    fn needed(&self) -> usize {
        self.busy.moves.len() - self.lost.len()
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
