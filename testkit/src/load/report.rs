//! What a load has counted.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use registry::time::Tick;

/// Most successes that are kept one by one: an hour at 300 a second.
const HITS_MAX: usize = 1_000_000;
/// Most failures that are kept one by one; the count goes on.
const FAILURES_MAX: usize = 10_000;
/// Most changes of a sticky client's instance that are kept: 200 clients, moved by every one of 500 leaves.
const MOVES_MAX: usize = 100_000;

/// A request that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When it was due, and sent.
    pub due: Tick,
    /// When that was known.
    pub at: Tick,
    /// The status or the error.
    pub what: String,
}

/// A request that was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// When it was due, and sent.
    pub due: Tick,
    /// When the answer was there.
    pub at: Tick,
    /// Its instance's place in the order in which instances were first seen.
    instance: usize,
}

/// A sticky client that was served by another instance than the last time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Which client.
    pub client: usize,
    /// Who served it before.
    pub from: String,
    /// Who did then.
    pub to: String,
    /// When that answer was there.
    pub at: Tick,
}

/// How a load went.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Requests sent.
    pub sent: u64,
    /// Requests served: a success, from an app, with its whole body.
    pub ok: u64,
    /// All others that have ended.
    pub failed: u64,
    /// The first of the failures.
    pub failures: Vec<Failure>,
    /// How many each instance served.
    pub served_by: BTreeMap<String, u64>,
    /// Sticky clients that did not stay.
    pub moves: Vec<Move>,
    /// Half of the answers were there so long after the request was due, or sooner.
    pub p50: Duration,
    /// So were 99 of 100.
    pub p99: Duration,
    /// So were all.
    pub max: Duration,
    hits: Vec<Hit>,
    instances: Vec<String>,
}

/// A report in the making.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) sent: u64,
    ok: u64,
    failed: u64,
    failures: Vec<Failure>,
    hits: Vec<Hit>,
    instances: Vec<(String, u64)>,
    /// Who served each sticky client last, and since when.
    homes: Vec<Option<(usize, Tick)>>,
    moves: Vec<Move>,
}

impl Log {
    pub(super) fn new(sticky_clients: usize) -> Self {
        Self {
            sent: 0,
            ok: 0,
            failed: 0,
            failures: Vec::new(),
            hits: Vec::new(),
            instances: Vec::new(),
            homes: vec![None; sticky_clients],
            moves: Vec::new(),
        }
    }

    pub(super) fn failed(&mut self, failure: Failure) {
        self.failed += 1;
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(failure);
        }
    }

    pub(super) fn served(&mut self, due: Tick, at: Tick, by: &str, who: Option<usize>) {
        self.ok += 1;
        let known = self.instances.iter().position(|(name, _)| name == by);
        let instance = known.unwrap_or_else(|| {
            self.instances.push((by.into(), 0));
            self.instances.len() - 1
        });
        self.instances[instance].1 += 1;
        if self.hits.len() < HITS_MAX {
            self.hits.push(Hit { due, at, instance });
        }
        if let Some(client) = who {
            self.seen_at(client, instance, due, at);
        }
    }

    /// A sticky client was served by `instance`.
    fn seen_at(&mut self, client: usize, instance: usize, due: Tick, at: Tick) {
        match self.homes[client] {
            Some((home, _)) if home == instance => return,
            // Asked before the client was told of its present home: a late answer, which moves no client.
            Some((_, since)) if due < since => return,
            Some((home, _)) if self.moves.len() < MOVES_MAX => {
                let name = |instance: usize| self.instances[instance].0.clone();
                self.moves.push(Move { client, from: name(home), to: name(instance), at });
            }
            _ => {}
        }
        self.homes[client] = Some((instance, at));
    }

    pub(super) fn served_by(&self, instance: &str) -> u64 {
        let mut instances = self.instances.iter();
        instances.find(|(name, _)| name == instance).map_or(0, |(_, count)| *count)
    }

    pub(super) fn report(&self) -> Report {
        let mut times: Vec<Duration> = self.hits.iter().map(|hit| hit.at.since(hit.due)).collect();
        times.sort_unstable();
        Report {
            sent: self.sent,
            ok: self.ok,
            failed: self.failed,
            failures: self.failures.clone(),
            served_by: self.instances.iter().cloned().collect(),
            moves: self.moves.clone(),
            p50: share(&times, 50),
            p99: share(&times, 99),
            max: share(&times, 100),
            hits: self.hits.clone(),
            instances: self.instances.iter().map(|(name, _)| name.clone()).collect(),
        }
    }
}

impl Report {
    /// How many `instance` served.
    #[must_use]
    pub fn served(&self, instance: &str) -> u64 {
        self.served_by.get(instance).copied().unwrap_or(0)
    }

    /// The first requests that succeeded, up to a million, with who served each.
    pub fn hits(&self) -> impl Iterator<Item = (&Hit, &str)> {
        self.hits.iter().map(|hit| (hit, self.instances[hit.instance].as_str()))
    }

    /// The longest time to an answer, in milliseconds, of the requests that were due in each second of the load.
    #[must_use]
    pub fn slowest_by_second(&self) -> Vec<f64> {
        let start = self.hits.iter().map(|hit| hit.due).min().unwrap_or_default();
        let mut slowest: Vec<f64> = Vec::new();
        for hit in &self.hits {
            let second = usize::try_from(hit.due.since(start).as_secs()).unwrap_or(usize::MAX).min(HITS_MAX);
            slowest.resize(slowest.len().max(second + 1), 0.0);
            slowest[second] = slowest[second].max(1_000.0 * hit.at.since(hit.due).as_secs_f64());
        }
        slowest
    }

    /// How many each instance served of those that were sent within a span.
    #[must_use]
    pub fn served_between(&self, from: Tick, to: Tick) -> BTreeMap<&str, u64> {
        let mut counts = BTreeMap::new();
        for (_, by) in self.hits().filter(|(hit, _)| (from..to).contains(&hit.due)) {
            *counts.entry(by).or_default() += 1;
        }
        counts
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, ok, failed, p50, p99, max, .. } = self;
        write!(f, "{failed} failed of {sent} requests, {ok} served by {:?}", self.served_by)?;
        write!(f, "; half within {p50:?}, 99 of 100 within {p99:?}, all within {max:?}")?;
        let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
        for failure in &self.failures {
            *kinds.entry(&failure.what).or_default() += 1;
        }
        kinds.iter().take(10).try_for_each(|(what, count)| write!(f, "\n  {count} × {what}"))
    }
}

/// The smallest time that `percent` of `sorted` do not exceed.
fn share(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_who_served_what_and_who_moved() {
        let mut log = Log::new(1);
        let at = Tick::from_ms;
        log.served(at(0), at(2), "a", Some(0));
        log.served(at(1), at(2), "b", None);
        log.served(at(5), at(9), "b", Some(0));
        log.served(at(8), at(10), "a", Some(0));
        log.failed(Failure { due: at(6), at: at(6), what: "status 503".into() });

        let report = log.report();

        assert_eq!((report.ok, report.failed, report.served("b")), (4, 1, 2));
        let moved = Move { client: 0, from: "a".into(), to: "b".into(), at: at(9) };
        assert_eq!(report.moves, [moved], "the answer that was late is none");
        assert_eq!(report.served_between(at(1), at(5)), BTreeMap::from([("b", 1)]));
        assert_eq!((report.p50, report.max), (Duration::from_millis(2), Duration::from_millis(4)));
        assert!(report.to_string().contains("1 × status 503"));
    }

    #[test]
    fn shares_of_nothing_and_of_one() {
        assert_eq!(share(&[], 99), Duration::ZERO);
        assert_eq!(share(&[Duration::from_millis(7)], 50), Duration::from_millis(7));
    }
}
