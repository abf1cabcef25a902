//! Counts passes and failures: when an app is taken for healthy, and when no longer.

use std::time::Duration;

/// Time between checks until the app is first healthy, so that it joins within that of being ready.
const STARTING_INTERVAL: Duration = Duration::from_millis(100);

/// An app that has fallen more than once needs twice as many passes to rise each time, up to so many times as usual: its
/// clients are not to be moved to and fro. How fast it falls does not change.
const DAMPING_MAX: u32 = 16;
/// Passes in a row after which earlier falls are forgotten.
const STEADY: u32 = 60;

/// What changed. A cause is the last failure's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has not become healthy within `fall` checks; said once.
    NotYet(String),
    /// It is healthy now.
    Up,
    /// It is healthy no longer.
    Down(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Never healthy so far: `passed` in a row, `failed` altogether.
    Starting { passed: u32, failed: u32 },
    /// Healthy; `failed` in a row, or `passed` in a row.
    Up { failed: u32, passed: u32 },
    /// Unhealthy; `passed` in a row.
    Down { passed: u32 },
}

/// The machine of one app's health.
#[derive(Clone, Debug)]
pub struct Health {
    rise: u32,
    fall: u32,
    state: State,
    /// Falls that are not forgotten.
    falls: u32,
}

impl Health {
    /// Starts with an app that is not yet healthy; `rise` passes or `fall` failures in a row change that.
    #[must_use]
    pub fn new(rise: u32, fall: u32) -> Self {
        Self { rise, fall, state: State::Starting { passed: 0, failed: 0 }, falls: 0 }
    }

    /// Passes in a row that make it healthy, as things stand.
    fn needed(&self) -> u32 {
        let times = 1_u32.checked_shl(self.falls.saturating_sub(1)).unwrap_or(DAMPING_MAX).min(DAMPING_MAX);
        self.rise.saturating_mul(times)
    }

    /// Takes in a check's outcome (a failure with its cause); what it changed, if anything.
    pub fn step(&mut self, outcome: Result<(), String>) -> Option<Verdict> {
        let needed = self.needed();
        match (&mut self.state, outcome) {
            (State::Starting { passed, .. } | State::Down { passed }, Ok(())) => {
                *passed += 1;
                if *passed < needed {
                    return None;
                }
                self.state = State::Up { failed: 0, passed: 0 };
                Some(Verdict::Up)
            }
            (State::Starting { passed, failed }, Err(cause)) => {
                *passed = 0;
                *failed = failed.saturating_add(1);
                (*failed == self.fall).then_some(Verdict::NotYet(cause))
            }
            (State::Up { failed, passed }, Ok(())) => {
                *failed = 0;
                *passed = passed.saturating_add(1);
                if *passed >= STEADY {
                    self.falls = 0;
                }
                None
            }
            (State::Up { failed, passed }, Err(cause)) => {
                *passed = 0;
                *failed += 1;
                if *failed < self.fall {
                    return None;
                }
                self.state = State::Down { passed: 0 };
                self.falls = self.falls.saturating_add(1);
                Some(Verdict::Down(cause))
            }
            (State::Down { passed }, Err(_)) => {
                *passed = 0;
                None
            }
        }
    }

    /// How long to wait before the next check, where `interval` is the usual time.
    #[must_use]
    pub fn pause(&self, interval: Duration) -> Duration {
        match self.state {
            State::Starting { .. } => interval.min(STARTING_INTERVAL),
            State::Up { .. } | State::Down { .. } => interval,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fail() -> Result<(), String> {
        Err("refused".into())
    }

    #[test]
    fn it_rises_and_falls_by_counts_in_a_row() {
        let mut health = Health::new(2, 3);
        assert_eq!(health.step(Ok(())), None);
        assert_eq!(health.step(fail()), None);
        assert_eq!(health.step(Ok(())), None, "the count begins again");
        assert_eq!(health.step(Ok(())), Some(Verdict::Up));
        for outcome in [fail(), fail(), Ok(()), fail(), fail()] {
            assert_eq!(health.step(outcome), None);
        }
        assert_eq!(health.step(fail()), Some(Verdict::Down("refused".into())));
        for outcome in [fail(), Ok(()), fail(), Ok(())] {
            assert_eq!(health.step(outcome), None);
        }
        assert_eq!(health.step(Ok(())), Some(Verdict::Up));
    }

    #[test]
    fn an_app_that_never_becomes_healthy_is_told_of_once() {
        let mut health = Health::new(1, 2);
        assert_eq!(health.step(fail()), None);
        assert_eq!(health.step(fail()), Some(Verdict::NotYet("refused".into())));
        for _ in 0..100 {
            assert_eq!(health.step(fail()), None);
        }
    }

    /// How many checks in a row it takes to get `verdict`.
    fn count(health: &mut Health, outcome: &Result<(), String>, verdict: &Verdict) -> u32 {
        (1..1_000).find(|_| health.step(outcome.clone()).as_ref() == Some(verdict)).unwrap()
    }

    #[test]
    fn who_falls_again_and_again_rises_ever_later_and_falls_as_fast_as_ever() {
        let mut health = Health::new(2, 3);
        let mut rises = vec![];
        for _ in 0..8 {
            rises.push(count(&mut health, &Ok(()), &Verdict::Up));
            assert_eq!(count(&mut health, &fail(), &Verdict::Down("refused".into())), 3);
        }
        assert_eq!(rises, [2, 2, 4, 8, 16, 32, 32, 32]);
        count(&mut health, &Ok(()), &Verdict::Up);
        for _ in 0..STEADY {
            health.step(Ok(()));
        }
        count(&mut health, &fail(), &Verdict::Down("refused".into()));
        assert_eq!(count(&mut health, &Ok(()), &Verdict::Up), 2, "forgotten");
    }

    #[test]
    fn checks_are_quick_only_until_it_is_first_healthy() {
        let usual = Duration::from_secs(2);
        let mut health = Health::new(1, 1);
        assert_eq!(health.pause(usual), STARTING_INTERVAL);
        assert_eq!(health.pause(Duration::from_millis(20)), Duration::from_millis(20));
        health.step(Ok(()));
        assert_eq!(health.pause(usual), usual);
        health.step(fail());
        assert_eq!(health.pause(usual), usual);
    }

    proptest! {
        /// Against a model that looks back over the whole history.
        #[test]
        fn a_verdict_comes_exactly_when_the_last_checks_agree(
            rise in 1_u32..5, fall in 1_u32..5, outcomes in proptest::collection::vec(any::<bool>(), 0..80),
        ) {
            let mut health = Health::new(rise, fall);
            let (mut up, mut since, mut falls) = (false, 0, 0_u32);
            for (n, passed) in outcomes.iter().enumerate() {
                let verdict = health.step(if *passed { Ok(()) } else { fail() });
                // 80 checks are too few to forget more than a fall or two: whoever was steady is left out.
                prop_assume!(!(up && n - since >= STEADY as usize));
                let times = (1 << falls.saturating_sub(1).min(10)).min(DAMPING_MAX);
                let needed = if up { fall } else { rise * times } as usize;
                let seen = &outcomes[since..=n];
                let turns = seen.len() >= needed && seen[seen.len() - needed..].iter().all(|passed| *passed != up);
                match verdict {
                    Some(Verdict::Up) => prop_assert!(turns && !up),
                    Some(Verdict::Down(_)) => prop_assert!(turns && up),
                    None | Some(Verdict::NotYet(_)) => prop_assert!(!turns),
                }
                if turns {
                    falls += u32::from(up);
                    (up, since) = (!up, n + 1);
                }
            }
        }
    }
}
