//! The life of the whole process: it runs, leaves the registry, stops the app, releases the lease, ends.

use std::time::Duration;

use registry::time::Tick;

use super::Exit;

/// Longest wait for an app that was killed: only one stuck in the kernel takes longer.
const KILLED_MAX: Duration = Duration::from_secs(5);
/// Longest wait for the lease to be revoked; after that it ends by itself within its ttl.
const RELEASE_MAX: Duration = Duration::from_secs(3);
/// Exit code of a process that ended because of a failure of its own.
const EXIT_FAILED: u8 = 1;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// We are asked to stop; again and again by who cannot wait.
    Stop,
    /// The app has ended.
    AppEnded(Exit),
    /// Every member has left, or has waited long enough.
    Left,
    /// The lease is revoked, or given up.
    Released,
    /// A part of us ended that should not have.
    Broken,
    /// The moment of [`Life::wake_at`] has come.
    Woke,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Take every member out of rotation.
    Leave,
    /// Ask the app to end.
    Term,
    /// End the app.
    Kill,
    /// Revoke the lease: whatever still stands is gone.
    Release,
    /// End this process, with this code.
    End(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    /// Members are leaving; the app still serves.
    Leaving,
    /// The app was asked to end, and is killed at `kill_at`.
    Stopping {
        kill_at: Tick,
    },
    /// The app was killed; it is not waited for after `until`.
    Killed {
        until: Tick,
    },
    /// The lease is being revoked; that is not waited for after `until`.
    Releasing {
        until: Tick,
    },
    Ended,
}

/// The machine of the process's life.
#[derive(Clone, Debug)]
pub struct Life {
    state: State,
    /// There is an app of ours, and it has not ended.
    app_lives: bool,
    stop_grace: Duration,
    code: u8,
}

impl Life {
    /// Starts running, with an app of ours or as a sidecar.
    #[must_use]
    pub fn new(has_app: bool, stop_grace: Duration) -> Self {
        Self { state: State::Running, app_lives: has_app, stop_grace, code: 0 }
    }

    /// Whether members may want traffic.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state == State::Running
    }

    /// When [`Input::Woke`] is due.
    #[must_use]
    pub fn wake_at(&self) -> Option<Tick> {
        match self.state {
            State::Stopping { kill_at } => Some(kill_at),
            State::Killed { until } | State::Releasing { until } => Some(until),
            State::Running | State::Leaving | State::Ended => None,
        }
    }

    /// The next actions.
    pub fn step(&mut self, now: Tick, input: Input) -> Vec<Action> {
        match input {
            Input::Stop => self.stop(now),
            Input::AppEnded(exit) => self.app_ended(now, exit),
            Input::Left => match self.state {
                State::Leaving => self.stop_app(now),
                _ => vec![],
            },
            Input::Released => match self.state {
                State::Releasing { .. } => self.end(),
                _ => vec![],
            },
            Input::Broken => self.broken(now),
            Input::Woke => self.woke(now),
        }
    }

    fn stop(&mut self, now: Tick) -> Vec<Action> {
        match self.state {
            State::Running => {
                self.state = State::Leaving;
                vec![Action::Leave]
            }
            State::Leaving => self.stop_app(now),
            State::Stopping { .. } => self.kill(now),
            State::Killed { .. } | State::Ended => vec![],
            State::Releasing { .. } => self.end(),
        }
    }

    /// A dead app cannot drain: its lease goes at once, and takes it out of rotation.
    fn app_ended(&mut self, now: Tick, exit: Exit) -> Vec<Action> {
        if !self.app_lives {
            return vec![];
        }
        self.app_lives = false;
        if self.code == 0 {
            self.code = exit.code();
        }
        self.release(now)
    }

    fn broken(&mut self, now: Tick) -> Vec<Action> {
        match self.state {
            State::Running | State::Leaving => {
                self.code = EXIT_FAILED;
                self.stop_app(now)
            }
            State::Stopping { .. } | State::Killed { .. } | State::Releasing { .. } | State::Ended => vec![],
        }
    }

    fn woke(&mut self, now: Tick) -> Vec<Action> {
        match self.state {
            State::Stopping { kill_at } if now >= kill_at => self.kill(now),
            State::Killed { until } if now >= until => {
                self.code = Exit::Signal(9).code();
                self.release(now)
            }
            State::Releasing { until } if now >= until => self.end(),
            _ => vec![],
        }
    }

    fn stop_app(&mut self, now: Tick) -> Vec<Action> {
        if !self.app_lives {
            return self.release(now);
        }
        self.state = State::Stopping { kill_at: now.plus(self.stop_grace) };
        vec![Action::Term]
    }

    fn kill(&mut self, now: Tick) -> Vec<Action> {
        self.state = State::Killed { until: now.plus(KILLED_MAX) };
        vec![Action::Kill]
    }

    fn release(&mut self, now: Tick) -> Vec<Action> {
        if matches!(self.state, State::Releasing { .. } | State::Ended) {
            return vec![];
        }
        self.state = State::Releasing { until: now.plus(RELEASE_MAX) };
        vec![Action::Release]
    }

    fn end(&mut self) -> Vec<Action> {
        self.state = State::Ended;
        vec![Action::End(self.code)]
    }
}

#[cfg(test)]
#[path = "life_tests.rs"]
mod tests;
