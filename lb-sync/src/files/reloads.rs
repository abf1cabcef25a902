//! When to reload HAProxy: only to bring in a backend that it has not, or thousands of servers at a cold start; never
//! for a member, and not often.

use std::collections::BTreeSet;
use std::time::Duration;

use registry::name::ServiceName;
use registry::time::Tick;

/// Wait after a reload before the next, doubling with each that changed nothing.
const RETRY_FIRST: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_mins(5);
/// How many reloads there may be in a row, and how long it takes to earn another: each leaves an old worker behind for
/// as long as its connections live.
const CREDIT_MAX: u32 = 10;
const CREDIT_EVERY: Duration = Duration::from_mins(1);

/// Why HAProxy is reloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A service has no backend yet.
    NewBackend,
    /// Thousands of servers are missing, which a reload brings in faster than commands would.
    ColdStart,
}

impl Reason {
    /// As it stands in logs and metrics.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::NewBackend => "new backend",
            Self::ColdStart => "cold start",
        }
    }
}

/// Reloads so far.
#[derive(Debug)]
pub(super) struct Reloads {
    /// What the last reload was to bring in.
    tried: BTreeSet<ServiceName>,
    /// What a reload before the last was to bring in, and was still missing at the last.
    still_missing: BTreeSet<ServiceName>,
    /// Reloads in a row, the last included, with one service missing at each.
    in_a_row: u32,
    last: Option<Tick>,
    credit: u32,
    credited_at: Tick,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing is missing.
    Rest,
    /// Reload now.
    Reload,
    /// Too soon after the last.
    Wait(Tick),
    /// These backends would lose their members for a moment, since they are in no file of ours.
    Blocked,
}

impl Reloads {
    /// There were none yet.
    pub(super) fn new() -> Self {
        Self {
            tried: BTreeSet::new(),
            still_missing: BTreeSet::new(),
            in_a_row: 0,
            last: None,
            credit: CREDIT_MAX,
            credited_at: Tick::default(),
        }
    }

    /// Services that a reload was to bring in, and that were missing still when the last [`Step::Reload`] was given.
    pub(super) const fn still_missing(&self) -> &BTreeSet<ServiceName> {
        &self.still_missing
    }

    /// `missing`: backends whose file is in place and that HAProxy has not. `by_hand`: those with servers of ours that are
    /// in no file of ours. The wait grows for a service that a reload did not bring in; it does not grow for another
    /// that is missing beside it.
    pub(super) fn step(
        &mut self,
        now: Tick,
        missing: &BTreeSet<ServiceName>,
        by_hand: &BTreeSet<ServiceName>,
    ) -> Step {
        self.tried.retain(|service| missing.contains(service));
        if missing.is_empty() {
            return Step::Rest;
        }
        if !by_hand.is_empty() {
            return Step::Blocked;
        }
        let doublings = if self.tried.len() == missing.len() { self.in_a_row.saturating_sub(1) } else { 0 };
        let wait = RETRY_FIRST.saturating_mul(1 << doublings.min(10)).min(RETRY_MAX);
        if let Some(until) = self.last.map(|last| last.plus(wait)).filter(|until| now < *until) {
            return Step::Wait(until);
        }
        self.earn(now);
        if self.credit == 0 {
            return Step::Wait(self.credited_at.plus(CREDIT_EVERY));
        }
        self.credit -= 1;
        self.in_a_row = if self.tried.is_empty() { 1 } else { self.in_a_row.saturating_add(1) };
        self.still_missing = std::mem::replace(&mut self.tried, missing.clone());
        self.last = Some(now);
        Step::Reload
    }

    fn earn(&mut self, now: Tick) {
        while self.credit < CREDIT_MAX && now >= self.credited_at.plus(CREDIT_EVERY) {
            self.credit += 1;
            self.credited_at = self.credited_at.plus(CREDIT_EVERY);
        }
        if self.credit == CREDIT_MAX {
            self.credited_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Tick {
        Tick::from_ms(1_000 * s)
    }

    fn set(names: &[&str]) -> BTreeSet<ServiceName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn a_fruitless_one_is_retried_with_growing_waits_and_none_costs_a_member() {
        let (none, api) = (set(&[]), set(&["api"]));
        let mut reloads = Reloads::new();
        assert_eq!(reloads.step(at(1), &none, &none), Step::Rest);
        assert_eq!(reloads.step(at(1), &api, &set(&["web"])), Step::Blocked);
        assert_eq!(reloads.step(at(1), &api, &none), Step::Reload);
        assert_eq!(reloads.still_missing(), &none);
        assert_eq!(reloads.step(at(2), &api, &none), Step::Wait(at(6)));
        assert_eq!(reloads.step(at(6), &api, &none), Step::Reload);
        assert_eq!(reloads.still_missing(), &api);
        assert_eq!(reloads.step(at(7), &api, &none), Step::Wait(at(16)));
        let mut reloaded = |s| matches!(reloads.step(at(s), &api, &none), Step::Reload);
        assert!((16..3_616).filter(|s| reloaded(*s)).count() < 20);
    }

    #[test]
    fn a_service_that_no_reload_brings_in_does_not_hold_up_another() {
        let none = set(&[]);
        let mut reloads = Reloads::new();
        assert_eq!(reloads.step(at(1), &set(&["web"]), &none), Step::Reload);
        // `web` came and `api` is new: nothing was without effect.
        assert_eq!(reloads.step(at(2), &set(&["api"]), &none), Step::Wait(at(6)));
        assert_eq!(reloads.step(at(6), &set(&["api"]), &none), Step::Reload);
        assert_eq!(reloads.still_missing(), &none);
        for s in [11, 21, 41, 81] {
            assert_eq!(reloads.step(at(s), &set(&["api"]), &none), Step::Reload, "{s}");
        }
        assert_eq!(reloads.step(at(82), &set(&["api"]), &none), Step::Wait(at(161)));
        assert_eq!(reloads.step(at(86), &set(&["api", "new"]), &none), Step::Reload);
        assert_eq!(reloads.still_missing(), &set(&["api"]));
    }

    #[test]
    fn services_that_keep_appearing_do_not_make_a_storm() {
        let mut reloads = Reloads::new();
        let mut count = 0;
        for s in 100_000..103_600 {
            let missing = set(&["another"]);
            count += u32::from(matches!(reloads.step(at(s), &missing, &set(&[])), Step::Reload));
            reloads.step(at(s), &set(&[]), &set(&[]));
        }
        assert!((60..=71).contains(&count), "{count} in an hour");
    }
}
