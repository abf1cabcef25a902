//! Decides the life of one program: the app, or a sidecar.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use registry::backoff::Backoff;
use registry::time::Tick;

use super::Exit;

/// Bounds of the wait before a restart.
const RESTART_FIRST: Duration = Duration::from_millis(250);
const RESTART_MAX: Duration = Duration::from_secs(10);
/// A program that has run for so long has started well: its restart count is reset.
const STEADY: Duration = Duration::from_mins(1);
/// Longest wait for a process after KILL. Only one that is stuck in the kernel takes longer.
const KILLED_MAX: Duration = Duration::from_secs(5);
/// A program that exits with this code is not restarted, as in s6.
const EXIT_FOR_GOOD: u8 = 125;

/// When a program that has ended is restarted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restart {
    /// Never.
    #[default]
    No,
    /// Unless it exited with 0.
    OnFailure,
    /// Always.
    Always,
}

/// The text is not a restart policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a restart policy: write no, on-failure or always")]
pub struct RestartError(String);

impl FromStr for Restart {
    type Err = RestartError;

    fn from_str(text: &str) -> Result<Self, RestartError> {
        match text {
            "no" => Ok(Self::No),
            "on-failure" => Ok(Self::OnFailure),
            "always" => Ok(Self::Always),
            _ => Err(RestartError(text.chars().take(80).collect())),
        }
    }
}

impl fmt::Display for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::No => "no",
            Self::OnFailure => "on-failure",
            Self::Always => "always",
        })
    }
}

/// How a program is restarted and stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// When it is restarted.
    pub restart: Restart,
    /// Most restarts in a row, each after a run shorter than one minute. `None`: no limit.
    pub restarts_max: Option<u32>,
    /// Time to end after TERM, before KILL.
    pub stop_grace: Duration,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Run it.
    Start,
    /// It has ended, or could not be started.
    Exited(Exit),
    /// Stop it.
    Stop,
    /// Stop it at once.
    Kill,
    /// The moment of [`Program::wake_at`] has come.
    Woke,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start it.
    Spawn,
    /// Send it TERM.
    Term,
    /// Send it KILL.
    Kill,
    /// It has ended, and is restarted after this time.
    Restart(Exit, Duration),
    /// It has ended for good.
    Over {
        /// How it ended last.
        exit: Exit,
        /// The limit of restarts was reached.
        gave_up: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Running {
        since: Tick,
    },
    /// It has ended, and is restarted at `until`.
    Waiting {
        until: Tick,
    },
    /// TERM was sent. KILL follows at `kill_at`.
    Stopping {
        kill_at: Tick,
    },
    /// KILL was sent. The wait for its end ends at `until`.
    Killed {
        until: Tick,
    },
    Over,
}

/// The machine of one program.
#[derive(Clone, Debug)]
pub struct Program {
    policy: Policy,
    state: State,
    /// Restarts in a row.
    restarts: u32,
    backoff: Backoff,
}

impl Program {
    /// Starts idle. `seed` spreads the restarts of many registrars.
    #[must_use]
    pub fn new(policy: Policy, seed: u64) -> Self {
        let backoff = Backoff::new(RESTART_FIRST, RESTART_MAX, seed);
        Self { policy, state: State::Idle, restarts: 0, backoff }
    }

    /// Whether it has ended for good.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Rules out any further restart. A restart that is due later is cancelled.
    pub fn cancel_restart(&mut self) {
        self.policy.restart = Restart::No;
        if matches!(self.state, State::Waiting { .. }) {
            self.state = State::Over;
        }
    }

    /// When [`Input::Woke`] is due.
    #[must_use]
    pub fn wake_at(&self) -> Option<Tick> {
        match self.state {
            State::Waiting { until } | State::Killed { until } => Some(until),
            State::Stopping { kill_at } => Some(kill_at),
            State::Idle | State::Running { .. } | State::Over => None,
        }
    }

    /// The next action, if any.
    pub fn step(&mut self, now: Tick, input: Input) -> Option<Action> {
        match (self.state, input) {
            (State::Idle, Input::Start) => Some(self.spawn(now)),
            (State::Running { since }, Input::Exited(exit)) => Some(self.exited(now, since, exit)),
            (State::Stopping { .. } | State::Killed { .. }, Input::Exited(exit)) => {
                Some(self.over(exit, false))
            }
            (State::Running { .. }, Input::Stop) => {
                self.state = State::Stopping { kill_at: now.plus(self.policy.stop_grace) };
                Some(Action::Term)
            }
            (State::Running { .. } | State::Stopping { .. }, Input::Kill) => Some(self.kill(now)),
            (State::Idle | State::Waiting { .. }, Input::Stop | Input::Kill) => {
                Some(self.over(Exit::Code(0), false))
            }
            (State::Waiting { until }, Input::Woke) if now >= until => Some(self.spawn(now)),
            (State::Stopping { kill_at }, Input::Woke) if now >= kill_at => Some(self.kill(now)),
            (State::Killed { until }, Input::Woke) if now >= until => Some(self.over(Exit::Signal(9), false)),
            _ => None,
        }
    }

    fn spawn(&mut self, now: Tick) -> Action {
        self.state = State::Running { since: now };
        Action::Spawn
    }

    fn kill(&mut self, now: Tick) -> Action {
        self.state = State::Killed { until: now.plus(KILLED_MAX) };
        Action::Kill
    }

    fn exited(&mut self, now: Tick, since: Tick, exit: Exit) -> Action {
        let restarts = match self.policy.restart {
            Restart::No => false,
            Restart::OnFailure => exit != Exit::Code(0),
            Restart::Always => true,
        };
        if !restarts || exit == Exit::Code(EXIT_FOR_GOOD) {
            return self.over(exit, false);
        }
        if now.since(since) >= STEADY {
            self.restarts = 0;
            self.backoff.reset();
        }
        if self.policy.restarts_max.is_some_and(|max| self.restarts >= max) {
            return self.over(exit, true);
        }
        self.restarts = self.restarts.saturating_add(1);
        let wait = self.backoff.after_failure();
        self.state = State::Waiting { until: now.plus(wait) };
        Action::Restart(exit, wait)
    }

    fn over(&mut self, exit: Exit, gave_up: bool) -> Action {
        self.state = State::Over;
        Action::Over { exit, gave_up }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Tick = Tick::from_ms(1_000);
    const GRACE: Duration = Duration::from_secs(10);

    fn program(restart: Restart, restarts_max: Option<u32>) -> Program {
        let mut program = Program::new(Policy { restart, restarts_max, stop_grace: GRACE }, 1);
        assert_eq!(program.step(NOW, Input::Start), Some(Action::Spawn));
        program
    }

    #[test]
    fn a_policy_says_which_end_is_the_last() {
        for (restart, code, again) in [
            (Restart::No, 0, false),
            (Restart::No, 1, false),
            (Restart::OnFailure, 0, false),
            (Restart::OnFailure, 1, true),
            (Restart::OnFailure, 125, false),
            (Restart::Always, 0, true),
            (Restart::Always, 125, false),
        ] {
            let mut program = program(restart, None);
            let action = program.step(NOW, Input::Exited(Exit::Code(code)));
            assert_eq!(matches!(action, Some(Action::Restart(..))), again, "{restart} {code}");
            assert_eq!(program.is_over(), !again);
        }
    }

    #[test]
    fn who_ends_again_and_again_is_given_up_and_who_lasts_is_forgiven() {
        let mut program = program(Restart::Always, Some(3));
        let mut now = NOW;
        let end = |program: &mut Program, now: Tick| program.step(now, Input::Exited(Exit::Signal(9)));
        for _ in 0..3 {
            assert!(matches!(end(&mut program, now), Some(Action::Restart(..))));
            now = program.wake_at().unwrap();
            assert_eq!(program.step(now, Input::Woke), Some(Action::Spawn));
        }
        let mut steady = program.clone();
        assert_eq!(end(&mut program, now), Some(Action::Over { exit: Exit::Signal(9), gave_up: true }));
        let Some(Action::Restart(_, wait)) = end(&mut steady, now.plus(STEADY)) else {
            panic!("it has lasted")
        };
        assert!(wait <= RESTART_FIRST, "{wait:?}");
    }

    #[test]
    fn a_stop_has_its_grace_then_kills_and_is_bounded() {
        let mut program = program(Restart::Always, None);
        assert_eq!(program.step(NOW, Input::Stop), Some(Action::Term));
        assert_eq!(program.step(NOW, Input::Woke), None);
        let kill_at = program.wake_at().unwrap();
        assert_eq!(program.step(kill_at, Input::Woke), Some(Action::Kill));
        let until = program.wake_at().unwrap();
        assert_eq!(
            program.step(until, Input::Woke),
            Some(Action::Over { exit: Exit::Signal(9), gave_up: false })
        );
    }

    #[test]
    fn who_waits_to_be_started_again_ends_at_once() {
        let mut program = program(Restart::Always, None);
        program.step(NOW, Input::Exited(Exit::Code(1)));
        assert!(matches!(program.step(NOW, Input::Stop), Some(Action::Over { .. })));
        assert_eq!(program.wake_at(), None);
    }

    #[test]
    fn a_policy_reads_back() {
        for text in ["no", "on-failure", "always"] {
            assert_eq!(text.parse::<Restart>().unwrap().to_string(), text);
        }
        assert!("never".parse::<Restart>().unwrap_err().to_string().contains("on-failure"));
    }

    proptest! {
        /// There is never a second process, never a signal to none, and once over it stays so.
        #[test]
        fn it_runs_once_at_most(
            inputs in proptest::collection::vec((0_u64..30_000, 0_u8..5), 0..60),
            restart in prop_oneof![Just(Restart::No), Just(Restart::OnFailure), Just(Restart::Always)],
        ) {
            let mut program = Program::new(Policy { restart, restarts_max: Some(4), stop_grace: GRACE }, 7);
            let (mut now, mut lives, mut over) = (NOW, false, false);
            for (ms, input) in inputs {
                now = now.plus(Duration::from_millis(ms));
                let input = match input {
                    0 => Input::Start,
                    // Only who lives can end.
                    1 if !lives => continue,
                    1 => { lives = false; Input::Exited(Exit::Code(1)) }
                    2 => Input::Stop,
                    3 => Input::Kill,
                    _ => Input::Woke,
                };
                let action = program.step(now, input);
                prop_assert!(!over || action.is_none());
                match action {
                    Some(Action::Spawn) => { prop_assert!(!lives); lives = true; }
                    Some(Action::Term | Action::Kill) => prop_assert!(lives),
                    Some(Action::Restart(..)) => prop_assert!(!lives),
                    Some(Action::Over { .. }) => { over = true; lives = false; }
                    None => {}
                }
                prop_assert_eq!(program.is_over(), over);
            }
        }
    }
}
