//! Decides when the app is checked, and which outcomes count: one check at a time, none while the app's process is away.

use std::net::SocketAddr;
use std::time::Duration;

use leasehold::member::AppHealth;
use registry::backoff::Backoff;
use registry::time::Tick;

use super::health::{Health, Verdict};
use super::{Check, ProbeConfig};
use crate::supervise::Exit;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The address of the app was found.
    Located(SocketAddr),
    /// The outcome of [`Action::Check`]: a failure says what was seen.
    Checked(Result<(), String>),
    /// The process of the app has ended. No check is needed to find that out.
    AppEnded(Exit),
    /// The process of the app was started, at first or again.
    AppStarted,
    /// The moment of [`Prober::wake_at`] has come.
    Woke,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Check the app at this address.
    Check(SocketAddr),
    /// The health of the app has changed.
    Health(AppHealth),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The address of the app is not known yet.
    Locating { app_ended: bool },
    /// A check is under way. One that the app did not outlive does not count.
    Checking { target: SocketAddr, begun: Tick, app: DuringCheck },
    /// The next check is due at `due`.
    Waiting { target: SocketAddr, due: Tick },
    /// The process of the app has ended: there is nothing to check.
    AppEnded { target: SocketAddr },
}

/// What the app's process did while a check was under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DuringCheck {
    Lived,
    Ended,
    /// It ended and was restarted.
    Restarted,
}

/// The machine of one app's checks.
#[derive(Clone, Debug)]
pub struct Prober {
    health: Health,
    interval: Duration,
    spread: Backoff,
    state: State,
}

impl Prober {
    /// Starts with an app that has just been started, at an address that is not known yet. `seed` spreads the checks of many
    /// registrars.
    #[must_use]
    pub fn new(config: &ProbeConfig, now: Tick, seed: u64) -> Self {
        // Without a check the app is healthy as soon as it runs.
        let rise = if config.check == Check::None { 1 } else { config.rise };
        Self {
            health: Health::new(rise, config.fall, now.plus(config.start_grace)),
            interval: config.interval,
            spread: Backoff::new(config.interval, config.interval, seed),
            state: State::Locating { app_ended: false },
        }
    }

    /// When [`Input::Woke`] is due.
    #[must_use]
    pub fn wake_at(&self) -> Option<Tick> {
        match self.state {
            State::Waiting { due, .. } => Some(due),
            State::Locating { .. } | State::Checking { .. } | State::AppEnded { .. } => None,
        }
    }

    /// The next actions.
    pub fn step(&mut self, now: Tick, input: Input) -> Vec<Action> {
        match (self.state, input) {
            (State::Locating { app_ended: true }, Input::Located(target)) => {
                self.state = State::AppEnded { target };
                vec![]
            }
            (State::Locating { app_ended: false }, Input::Located(target))
            | (State::AppEnded { target }, Input::AppStarted) => self.check(now, target),
            (State::Checking { target, begun, app }, Input::Checked(outcome)) => {
                self.checked(now, target, begun, app, outcome)
            }
            (State::Waiting { target, due }, Input::Woke) if now >= due => self.check(now, target),
            (state, Input::AppEnded(exit)) => {
                self.state = match state {
                    State::Locating { .. } => State::Locating { app_ended: true },
                    State::Checking { target, begun, .. } => {
                        State::Checking { target, begun, app: DuringCheck::Ended }
                    }
                    State::Waiting { target, .. } | State::AppEnded { target } => State::AppEnded { target },
                };
                let verdict = self.health.ended(format!("the app {exit}"));
                health(verdict, None)
            }
            (State::Locating { .. }, Input::AppStarted) => {
                self.state = State::Locating { app_ended: false };
                vec![]
            }
            (State::Checking { target, begun, app: DuringCheck::Ended }, Input::AppStarted) => {
                self.state = State::Checking { target, begun, app: DuringCheck::Restarted };
                vec![]
            }
            // An answer, a wake-up or a restart that is not due.
            (_, Input::Located(_) | Input::Checked(_) | Input::AppStarted | Input::Woke) => vec![],
        }
    }

    fn check(&mut self, now: Tick, target: SocketAddr) -> Vec<Action> {
        self.state = State::Checking { target, begun: now, app: DuringCheck::Lived };
        vec![Action::Check(target)]
    }

    fn checked(
        &mut self,
        now: Tick,
        target: SocketAddr,
        begun: Tick,
        app: DuringCheck,
        outcome: Result<(), String>,
    ) -> Vec<Action> {
        match app {
            DuringCheck::Ended => {
                self.state = State::AppEnded { target };
                vec![]
            }
            DuringCheck::Restarted => self.check(now, target),
            DuringCheck::Lived => {
                let verdict = self.health.step(now, outcome);
                // Counted from the beginning of the check, so that slow checks are not also rare ones. A check that took
                // longer than the pause is followed by the next at once.
                let pause = self.spread.jittered(self.health.pause(self.interval));
                self.state = State::Waiting { target, due: begun.plus(pause) };
                health(verdict, Some(target))
            }
        }
    }
}

/// The action for a verdict. An app whose process has ended (`target` is `None`) is never found healthy.
fn health(verdict: Option<Verdict>, target: Option<SocketAddr>) -> Vec<Action> {
    let health = match (verdict, target) {
        (Some(Verdict::NotYet(cause)), _) => AppHealth::NotYet(cause),
        (Some(Verdict::Down(cause)), _) => AppHealth::Down(cause),
        (Some(Verdict::Up), Some(target)) => AppHealth::Up(target),
        (Some(Verdict::Up), None) | (None, _) => return vec![],
    };
    vec![Action::Health(health)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probe::Expected;

    const NOW: Tick = Tick::from_ms(1_000);
    const INTERVAL: Duration = Duration::from_secs(2);
    const EXIT: Exit = Exit::Code(3);

    fn at() -> SocketAddr {
        "10.0.0.5:3000".parse().unwrap()
    }

    fn prober(check: &str) -> Prober {
        let config = ProbeConfig {
            check: check.parse().unwrap(),
            expected: Expected::default(),
            tls: None,
            start_grace: Duration::ZERO,
            interval: INTERVAL,
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 2,
        };
        Prober::new(&config, NOW, 1)
    }

    fn failed() -> Input {
        Input::Checked(Err("refused".into()))
    }

    fn passed() -> Input {
        Input::Checked(Ok(()))
    }

    fn down() -> Action {
        Action::Health(AppHealth::Down("the app exited with code 3".into()))
    }

    /// Waits for the next check and has it answered.
    fn next(prober: &mut Prober, outcome: Input) -> Vec<Action> {
        let due = prober.wake_at().unwrap();
        assert_eq!(prober.step(due, Input::Woke), [Action::Check(at())]);
        prober.step(due, outcome)
    }

    fn up() -> Prober {
        let mut prober = prober("tcp");
        assert_eq!(prober.step(NOW, Input::Located(at())), [Action::Check(at())]);
        assert_eq!(prober.step(NOW, passed()), []);
        assert_eq!(next(&mut prober, passed()), [Action::Health(AppHealth::Up(at()))]);
        prober
    }

    #[test]
    fn an_app_that_comes_goes_and_returns_is_reported_each_time() {
        let mut prober = prober("tcp");
        assert_eq!(prober.step(NOW, Input::Woke), [], "the address is not known");
        assert_eq!(prober.step(NOW, Input::Located(at())), [Action::Check(at())]);
        assert_eq!(prober.step(NOW, failed()), []);
        assert_eq!(next(&mut prober, failed()), [Action::Health(AppHealth::NotYet("refused".into()))]);
        assert_eq!(next(&mut prober, passed()), []);
        assert_eq!(next(&mut prober, passed()), [Action::Health(AppHealth::Up(at()))]);
        assert_eq!(next(&mut prober, failed()), []);
        assert_eq!(next(&mut prober, failed()), [Action::Health(AppHealth::Down("refused".into()))]);
        assert_eq!(next(&mut prober, passed()), []);
        assert_eq!(next(&mut prober, passed()), [Action::Health(AppHealth::Up(at()))]);
    }

    #[test]
    fn a_pause_counts_from_the_beginning_of_its_check() {
        let mut prober = up();
        let due = prober.wake_at().unwrap();
        prober.step(due, Input::Woke);
        let answered = due.plus(Duration::from_millis(900));
        prober.step(answered, passed());
        let next = prober.wake_at().unwrap();
        assert!(next <= due.plus(INTERVAL) && next > due.plus(INTERVAL / 2), "jitter is a tenth at most");
        assert_eq!(prober.step(answered, Input::Woke), [], "it is not due");
        prober.step(next, Input::Woke);
        let late = next.plus(INTERVAL * 2);
        prober.step(late, passed());
        assert!(prober.wake_at().unwrap() < late, "a slow check is followed by the next at once");
    }

    #[test]
    fn an_app_that_ends_is_down_without_a_check_and_is_checked_when_it_is_restarted() {
        let mut prober = up();
        assert_eq!(prober.step(NOW, Input::AppEnded(EXIT)), [down()]);
        assert_eq!((prober.wake_at(), prober.step(NOW, Input::Woke)), (None, vec![]));
        assert_eq!(prober.step(NOW, Input::AppEnded(Exit::Code(127))), [], "it could not be restarted");
        assert_eq!(prober.step(NOW, Input::AppStarted), [Action::Check(at())]);
        assert_eq!(prober.step(NOW, passed()), []);
        assert_eq!(next(&mut prober, passed()), [Action::Health(AppHealth::Up(at()))]);
    }

    #[test]
    fn a_check_that_the_app_did_not_outlive_does_not_count() {
        for restarted in [false, true] {
            let mut prober = up();
            let due = prober.wake_at().unwrap();
            prober.step(due, Input::Woke);
            assert_eq!(prober.step(due, Input::AppEnded(EXIT)), [down()]);
            if restarted {
                assert_eq!(prober.step(due, Input::AppStarted), [], "one check at a time");
                assert_eq!(prober.step(due, passed()), [Action::Check(at())]);
                assert_eq!(prober.step(due, passed()), []);
            } else {
                assert_eq!(prober.step(due, passed()), []);
                assert_eq!(prober.wake_at(), None);
            }
        }
    }

    #[test]
    fn an_app_that_ends_before_its_address_is_known_is_reported_and_not_checked() {
        let mut prober = prober("tcp");
        let not_yet = Action::Health(AppHealth::NotYet("the app exited with code 3".into()));
        assert_eq!(prober.step(NOW, Input::AppEnded(EXIT)), [not_yet]);
        assert_eq!(prober.step(NOW, Input::Located(at())), []);
        assert_eq!(prober.step(NOW, Input::AppStarted), [Action::Check(at())]);
    }

    #[test]
    fn without_a_check_the_app_is_healthy_as_soon_as_it_runs() {
        let mut prober = prober("none");
        prober.step(NOW, Input::Located(at()));
        assert_eq!(prober.step(NOW, passed()), [Action::Health(AppHealth::Up(at()))]);
        assert_eq!(prober.step(NOW, Input::AppEnded(EXIT)), [down()]);
        prober.step(NOW, Input::AppStarted);
        assert_eq!(prober.step(NOW, passed()), [Action::Health(AppHealth::Up(at()))]);
    }

    proptest! {
        /// Whatever happens: one check at a time, none while the process is away, and health only for a living process.
        #[test]
        fn one_check_at_a_time_and_none_of_a_process_that_has_ended(
            inputs in proptest::collection::vec(0..6_u8, 0..100),
        ) {
            let mut prober = prober("tcp");
            let (mut now, mut checking, mut runs) = (NOW, false, true);
            for input in inputs {
                now = prober.wake_at().map_or(now, |due| due.max(now));
                let input = match input {
                    0 => Input::Located(at()),
                    1 if checking => passed(),
                    2 if checking => failed(),
                    3 => Input::AppEnded(EXIT),
                    4 if !runs => Input::AppStarted,
                    _ => Input::Woke,
                };
                checking &= !matches!(input, Input::Checked(_));
                match input {
                    Input::AppEnded(_) => runs = false,
                    Input::AppStarted => runs = true,
                    _ => {}
                }
                for action in prober.step(now, input) {
                    match action {
                        Action::Check(_) => {
                            prop_assert!(!checking && runs);
                            checking = true;
                        }
                        Action::Health(health) => prop_assert!(runs || !matches!(health, AppHealth::Up(_))),
                    }
                }
            }
        }
    }
}
