//! When to reload HAProxy: only to bring in a backend that it has not, never for a server, and not often.

use std::collections::BTreeSet;
use std::time::Duration;

use registry::name::ServiceName;
use registry::time::Tick;

/// Wait after a reload before the next, should there still be something missing, doubling: a reload leaves an old worker
/// behind for as long as its connections live, and one that was in vain will be again.
const AGAIN_FIRST: Duration = Duration::from_secs(5);
const AGAIN_MAX: Duration = Duration::from_mins(5);

/// Why HAProxy is reloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A service has no backend yet.
    NewBackend,
    /// Thousands of servers are missing, which a reload brings in faster than commands would.
    ColdStart,
}

/// Reloads so far.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    /// Reloads in a row after which something was still missing.
    attempts: u32,
    not_before: Tick,
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
    /// `missing`: backends whose file is in place and that HAProxy has not. `by_hand`: those with servers of ours that are
    /// in no file of ours.
    pub(super) fn step(
        &mut self,
        now: Tick,
        missing: &BTreeSet<ServiceName>,
        by_hand: &BTreeSet<ServiceName>,
    ) -> Step {
        if missing.is_empty() {
            self.attempts = 0;
            return Step::Rest;
        }
        if !by_hand.is_empty() {
            return Step::Blocked;
        }
        if now < self.not_before {
            return Step::Wait(self.not_before);
        }
        let wait = AGAIN_FIRST.saturating_mul(1 << self.attempts.min(10)).min(AGAIN_MAX);
        self.attempts = self.attempts.saturating_add(1);
        self.not_before = now.plus(wait);
        Step::Reload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reloads_are_few_and_never_cost_a_member() {
        let at = |s: u64| Tick::from_ms(1_000 * s);
        let set = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<BTreeSet<_>>();
        let (none, api) = (set(&[]), set(&["api"]));
        let mut reloads = Reloads::default();
        assert_eq!(reloads.step(at(1), &none, &none), Step::Rest);
        assert_eq!(reloads.step(at(1), &api, &set(&["web"])), Step::Blocked);
        assert_eq!(reloads.step(at(1), &api, &none), Step::Reload);
        assert_eq!(reloads.step(at(2), &api, &none), Step::Wait(at(6)));
        assert_eq!(reloads.step(at(6), &api, &none), Step::Reload);
        assert_eq!(reloads.step(at(7), &api, &none), Step::Wait(at(16)));
        let hour = (16..3_616).filter(|s| reloads.step(at(*s), &api, &none) == Step::Reload).count();
        assert!(hour < 20, "{hour}");
        assert_eq!(reloads.step(at(3_616), &none, &none), Step::Rest);
    }
}
