//! Counts passes and failures: when an app is taken for healthy, and when no longer.

use std::time::Duration;

/// Time between checks until the app is first healthy, so that it joins within that of being ready.
const STARTING_INTERVAL: Duration = Duration::from_millis(100);

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
    /// Healthy; `failed` in a row.
    Up { failed: u32 },
    /// Unhealthy; `passed` in a row.
    Down { passed: u32 },
}

/// The machine of one app's health.
#[derive(Clone, Debug)]
pub struct Health {
    rise: u32,
    fall: u32,
    state: State,
}

impl Health {
    /// Starts with an app that is not yet healthy; `rise` passes or `fall` failures in a row change that.
    #[must_use]
    pub fn new(rise: u32, fall: u32) -> Self {
        Self { rise, fall, state: State::Starting { passed: 0, failed: 0 } }
    }

    /// Takes in a check's outcome (a failure with its cause); what it changed, if anything.
    pub fn step(&mut self, outcome: Result<(), String>) -> Option<Verdict> {
        match (&mut self.state, outcome) {
            (State::Starting { passed, .. } | State::Down { passed }, Ok(())) => {
                *passed += 1;
                if *passed < self.rise {
                    return None;
                }
                self.state = State::Up { failed: 0 };
                Some(Verdict::Up)
            }
            (State::Starting { passed, failed }, Err(cause)) => {
                *passed = 0;
                *failed = failed.saturating_add(1);
                (*failed == self.fall).then_some(Verdict::NotYet(cause))
            }
            (State::Up { failed }, Ok(())) => {
                *failed = 0;
                None
            }
            (State::Up { failed }, Err(cause)) => {
                *failed += 1;
                if *failed < self.fall {
                    return None;
                }
                self.state = State::Down { passed: 0 };
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
            let (mut up, mut since) = (false, 0);
            for (n, passed) in outcomes.iter().enumerate() {
                let verdict = health.step(if *passed { Ok(()) } else { fail() });
                let needed = if up { fall } else { rise } as usize;
                let seen = &outcomes[since..=n];
                let turns = seen.len() >= needed && seen[seen.len() - needed..].iter().all(|passed| *passed != up);
                match verdict {
                    Some(Verdict::Up) => prop_assert!(turns && !up),
                    Some(Verdict::Down(_)) => prop_assert!(turns && up),
                    None | Some(Verdict::NotYet(_)) => prop_assert!(!turns),
                }
                if turns {
                    (up, since) = (!up, n + 1);
                }
            }
        }
    }
}
