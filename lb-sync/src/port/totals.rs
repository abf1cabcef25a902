//! What the pass has counted since its start.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus::{Histogram, HistogramOpts};

use haproxy::Command;

/// Counts since the start; they only grow.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Passes in which something was looked at.
    pub passes: u64,
    /// Times that everything was read from HAProxy anew: at each connection and audit.
    pub resyncs: u64,
    /// Servers that were found changed by hand.
    pub audit_findings: u64,
    /// Times that HAProxy's check of an instance began to fail.
    pub checks_failed: u64,
    /// Times that HAProxy was lost: a restart, a reload, a broken socket.
    pub haproxy_lost: u64,
    /// Times that the view fell out of sync with etcd.
    pub out_of_sync: u64,
    /// Steps that were planned and carried out, one for each server and pass: the size of plans.
    pub steps: u64,
    /// Times that a watch of etcd ended and was begun anew.
    pub watch_restarts: u64,
    /// Commands, by kind and by whether HAProxy took them.
    pub commands: BTreeMap<(&'static str, bool), u64>,
    /// From a change of the registry until HAProxy serves by it. Clones count together.
    pub(super) serving: Option<Histogram>,
    /// From a change of the registry until HAProxy sends no more new clients.
    pub(super) removed: Option<Histogram>,
}

/// Upper bounds, in seconds: a change takes a millisecond, and thousands at once take seconds.
const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

fn histogram(name: &str, help: &str) -> Option<Histogram> {
    // Cannot fail: the name is one, and the bounds rise.
    Histogram::with_opts(HistogramOpts::new(name, help).buckets(BUCKETS.to_vec())).ok()
}

impl Default for Metrics {
    fn default() -> Self {
        let serving = histogram(
            "leasehold_lb_serving_seconds",
            "From taking up a change of the registry until HAProxy serves by it.",
        );
        let removed = histogram(
            "leasehold_lb_removed_seconds",
            "From taking up a change of the registry until HAProxy sends no more new clients.",
        );
        Self {
            passes: 0,
            resyncs: 0,
            audit_findings: 0,
            checks_failed: 0,
            haproxy_lost: 0,
            out_of_sync: 0,
            steps: 0,
            watch_restarts: 0,
            commands: BTreeMap::new(),
            serving,
            removed,
        }
    }
}

/// What a step did for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It gets them from now on.
    Serves,
    /// It gets no new ones.
    Removed,
}

impl Metrics {
    /// A change that was taken up `after` ago has come to HAProxy.
    pub fn took_effect(&mut self, effect: Effect, after: Duration) {
        let histogram = match effect {
            Effect::Serves => &self.serving,
            Effect::Removed => &self.removed,
        };
        if let Some(histogram) = histogram {
            histogram.observe(after.as_secs_f64());
        }
    }

    /// Commands of one step were sent; HAProxy `took` all of them, or the step was refused.
    pub fn sent<'a>(&mut self, commands: impl IntoIterator<Item = &'a Command>, took: bool) {
        for command in commands {
            *self.commands.entry((command.kind(), took)).or_default() += 1;
        }
    }
}
