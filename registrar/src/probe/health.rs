//! Counts passes and failures: when an app is taken for healthy, and when no longer.

use std::time::Duration;

use registry::time::Tick;

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
    /// It has not become healthy within `fall` checks, nor within its start grace; said once.
    NotYet(String),
    /// It is healthy now.
    Up,
    /// It is healthy no longer.
    Down(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Never healthy so far: `passed` in a row, `failed` altogether; whether that was told.
    Starting { passed: u32, failed: u32, told: bool },
    /// Healthy; `failed` in a row, or `passed` in a row.
    Up { failed: u32, passed: u32 },
    /// Unhealthy; `passed` in a row. `anew`: the app has been started again, and is checked as at its first start.
    Down { passed: u32, anew: bool },
}

/// The machine of one app's health.
#[derive(Clone, Debug)]
pub struct Health {
    rise: u32,
    fall: u32,
    /// Until then failures are nothing to be told.
    grace_until: Tick,
    state: State,
    /// Falls that are not forgotten.
    falls: u32,
}

impl Health {
    /// Starts with an app that is not yet healthy; `rise` passes or `fall` failures in a row change that.
    #[must_use]
    pub fn new(rise: u32, fall: u32, grace_until: Tick) -> Self {
        Self {
            rise,
            fall,
            grace_until,
            state: State::Starting { passed: 0, failed: 0, told: false },
            falls: 0,
        }
    }

    /// The app has ended (`cause`), which no check needs to find out; what that changed, if anything.
    pub fn ended(&mut self, cause: String) -> Option<Verdict> {
        match self.state {
            State::Starting { told, .. } => {
                self.state = State::Starting { passed: 0, failed: 0, told: true };
                (!told).then_some(Verdict::NotYet(cause))
            }
            State::Up { .. } => {
                self.state = State::Down { passed: 0, anew: true };
                self.falls = self.falls.saturating_add(1);
                Some(Verdict::Down(cause))
            }
            State::Down { .. } => {
                self.state = State::Down { passed: 0, anew: true };
                None
            }
        }
    }

    /// Passes in a row that make it healthy, as things stand.
    fn needed(&self) -> u32 {
        let times = 1_u32.checked_shl(self.falls.saturating_sub(1)).unwrap_or(DAMPING_MAX).min(DAMPING_MAX);
        self.rise.saturating_mul(times)
    }

    /// Takes in a check's outcome (a failure with its cause); what it changed, if anything.
    pub fn step(&mut self, now: Tick, outcome: Result<(), String>) -> Option<Verdict> {
        let needed = self.needed();
        match (&mut self.state, outcome) {
            (State::Starting { passed, .. } | State::Down { passed, .. }, Ok(())) => {
                *passed += 1;
                if *passed < needed {
                    return None;
                }
                self.state = State::Up { failed: 0, passed: 0 };
                Some(Verdict::Up)
            }
            (State::Starting { passed, failed, told }, Err(cause)) => {
                *passed = 0;
                *failed = failed.saturating_add(1);
                let tell = !*told && *failed >= self.fall && now >= self.grace_until;
                *told |= tell;
                tell.then_some(Verdict::NotYet(cause))
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
                self.state = State::Down { passed: 0, anew: false };
                self.falls = self.falls.saturating_add(1);
                Some(Verdict::Down(cause))
            }
            (State::Down { passed, .. }, Err(_)) => {
                *passed = 0;
                None
            }
        }
    }

    /// How long to wait before the next check, where `interval` is the usual time.
    #[must_use]
    pub fn pause(&self, interval: Duration) -> Duration {
        match self.state {
            State::Starting { .. } | State::Down { anew: true, .. } => interval.min(STARTING_INTERVAL),
            State::Up { .. } | State::Down { .. } => interval,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Tick = Tick::from_ms(1_000);

    fn fail() -> Result<(), String> {
        Err("refused".into())
    }

    #[test]
    fn it_rises_and_falls_by_counts_in_a_row() {
        let mut health = Health::new(2, 3, NOW);
        assert_eq!(health.step(NOW, Ok(())), None);
        assert_eq!(health.step(NOW, fail()), None);
        assert_eq!(health.step(NOW, Ok(())), None, "the count begins again");
        assert_eq!(health.step(NOW, Ok(())), Some(Verdict::Up));
        for outcome in [fail(), fail(), Ok(()), fail(), fail()] {
            assert_eq!(health.step(NOW, outcome), None);
        }
        assert_eq!(health.step(NOW, fail()), Some(Verdict::Down("refused".into())));
        for outcome in [fail(), Ok(()), fail(), Ok(())] {
            assert_eq!(health.step(NOW, outcome), None);
        }
        assert_eq!(health.step(NOW, Ok(())), Some(Verdict::Up));
    }

    #[test]
    fn an_app_that_never_becomes_healthy_is_told_of_once() {
        let mut health = Health::new(1, 2, NOW);
        assert_eq!(health.step(NOW, fail()), None);
        assert_eq!(health.step(NOW, fail()), Some(Verdict::NotYet("refused".into())));
        for _ in 0..100 {
            assert_eq!(health.step(NOW, fail()), None);
        }
    }

    #[test]
    fn a_slow_starter_is_not_told_of_within_its_grace() {
        let until = NOW.plus(Duration::from_mins(1));
        let mut health = Health::new(1, 2, until);
        for _ in 0..10 {
            assert_eq!(health.step(NOW, fail()), None);
        }
        assert_eq!(health.step(until, fail()), Some(Verdict::NotYet("refused".into())));
        assert_eq!(health.step(until, fail()), None);
        assert_eq!(health.step(until, Ok(())), Some(Verdict::Up));
    }

    #[test]
    fn an_app_that_ends_is_down_at_once_and_checked_quickly_once_it_is_back() {
        let usual = Duration::from_secs(2);
        let mut health = Health::new(1, 3, NOW);
        assert_eq!(health.step(NOW, Ok(())), Some(Verdict::Up));
        assert_eq!(health.ended("exited".into()), Some(Verdict::Down("exited".into())));
        assert_eq!(health.ended("exited".into()), None);
        assert_eq!(health.pause(usual), STARTING_INTERVAL);
        assert_eq!(health.step(NOW, Ok(())), Some(Verdict::Up));
        assert_eq!(health.pause(usual), usual);
    }

    /// How many checks in a row it takes to get `verdict`.
    fn count(health: &mut Health, outcome: &Result<(), String>, verdict: &Verdict) -> u32 {
        (1..1_000).find(|_| health.step(NOW, outcome.clone()).as_ref() == Some(verdict)).unwrap()
    }

    #[test]
    fn who_falls_again_and_again_rises_ever_later_and_falls_as_fast_as_ever() {
        let mut health = Health::new(2, 3, NOW);
        let mut rises = vec![];
        for _ in 0..8 {
            rises.push(count(&mut health, &Ok(()), &Verdict::Up));
            assert_eq!(count(&mut health, &fail(), &Verdict::Down("refused".into())), 3);
        }
        assert_eq!(rises, [2, 2, 4, 8, 16, 32, 32, 32]);
        count(&mut health, &Ok(()), &Verdict::Up);
        for _ in 0..STEADY {
            health.step(NOW, Ok(()));
        }
        count(&mut health, &fail(), &Verdict::Down("refused".into()));
        assert_eq!(count(&mut health, &Ok(()), &Verdict::Up), 2, "forgotten");
    }

    #[test]
    fn checks_are_quick_only_until_it_is_first_healthy() {
        let usual = Duration::from_secs(2);
        let mut health = Health::new(1, 1, NOW);
        assert_eq!(health.pause(usual), STARTING_INTERVAL);
        assert_eq!(health.pause(Duration::from_millis(20)), Duration::from_millis(20));
        health.step(NOW, Ok(()));
        assert_eq!(health.pause(usual), usual);
        health.step(NOW, fail());
        assert_eq!(health.pause(usual), usual);
    }

    proptest! {
        /// Against a model that looks back over the whole history.
        #[test]
        fn a_verdict_comes_exactly_when_the_last_checks_agree(
            rise in 1_u32..5, fall in 1_u32..5, outcomes in proptest::collection::vec(any::<bool>(), 0..80),
        ) {
            let mut health = Health::new(rise, fall, NOW);
            let (mut up, mut since, mut falls) = (false, 0, 0_u32);
            for (n, passed) in outcomes.iter().enumerate() {
                let verdict = health.step(NOW, if *passed { Ok(()) } else { fail() });
                // 80 checks are too few to forget more than a fall or two: an app that was steady is left out.
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
