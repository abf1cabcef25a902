//! The life of the whole process: it starts its programs in order, leaves the registry, stops them in reverse, releases
//! the lease, ends.

use std::time::Duration;

use registry::time::Tick;

use super::Exit;
use super::program::{self, Program};

/// Longest wait for the lease to be revoked; after that it ends by itself within its ttl.
const RELEASE_MAX: Duration = Duration::from_secs(3);
/// Exit code of a process that ended because of a failure of its own.
const EXIT_FAILED: u8 = 1;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Everything is to run.
    Start,
    /// We are asked to stop; again and again by who cannot wait.
    Stop,
    /// The program of this number has ended, or could not be started again.
    Exited(usize, Exit),
    /// Every member has left, or has waited long enough.
    Left,
    /// The lease is revoked, or given up.
    Released,
    /// A part of us ended that should not have.
    Broken,
    /// The moment of [`Life::wake_at`] has come.
    Woke,
}

/// What to do. Programs are named by their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start it.
    Spawn(usize),
    /// Ask it to end.
    Term(usize),
    /// End it.
    Kill(usize),
    /// Tell people: it has ended, and is started again after this time.
    Again(usize, Exit, Duration),
    /// Tell people: it has been started again too often, and everything is stopped for it.
    GaveUp(usize),
    /// Take every member out of rotation.
    Leave,
    /// Revoke the lease: whatever still stands is gone.
    Release,
    /// End this process, with this code.
    End(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// Members are leaving; the app still serves.
    Leaving,
    /// The programs are stopped one after the other, the one started last first.
    Stopping,
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lease {
    Held,
    /// It is not waited for after `until`.
    Releasing {
        until: Tick,
    },
    Released,
}

/// The machine of the process's life.
#[derive(Clone, Debug)]
pub struct Life {
    phase: Phase,
    lease: Lease,
    /// In the order of their start.
    programs: Vec<Program>,
    /// The number of the app among them; its end is ours. `None`: a sidecar.
    app: Option<usize>,
    code: u8,
}

impl Life {
    /// Starts with `programs` in the order of their start; `app` is the number of the one whose end is ours.
    #[must_use]
    pub fn new(programs: Vec<Program>, app: Option<usize>) -> Self {
        Self { phase: Phase::Running, lease: Lease::Held, programs, app, code: 0 }
    }

    /// Whether members may want traffic.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// When [`Input::Woke`] is due.
    #[must_use]
    pub fn wake_at(&self) -> Option<Tick> {
        let release = match self.lease {
            Lease::Releasing { until } => Some(until),
            Lease::Held | Lease::Released => None,
        };
        self.programs.iter().filter_map(Program::wake_at).chain(release).min()
    }

    /// The next actions.
    pub fn step(&mut self, now: Tick, input: Input) -> Vec<Action> {
        let mut actions = vec![];
        match input {
            Input::Start => {
                for number in 0..self.programs.len() {
                    self.tell(now, number, program::Input::Start, &mut actions);
                }
            }
            Input::Stop => self.stop(now, &mut actions),
            Input::Exited(number, exit) => {
                self.tell(now, number, program::Input::Exited(exit), &mut actions);
            }
            Input::Left => {
                if self.phase == Phase::Leaving {
                    self.phase = Phase::Stopping;
                }
            }
            Input::Released => {
                if self.lease != Lease::Held {
                    self.lease = Lease::Released;
                }
            }
            Input::Broken => {
                if matches!(self.phase, Phase::Running | Phase::Leaving) {
                    self.code = EXIT_FAILED;
                    self.phase = Phase::Stopping;
                }
            }
            Input::Woke => {
                for number in 0..self.programs.len() {
                    self.tell(now, number, program::Input::Woke, &mut actions);
                }
                if matches!(self.lease, Lease::Releasing { until } if now >= until) {
                    self.lease = Lease::Released;
                }
            }
        }
        self.advance(now, &mut actions);
        actions
    }

    fn stop(&mut self, now: Tick, actions: &mut Vec<Action>) {
        match self.phase {
            Phase::Running => {
                self.phase = Phase::Leaving;
                actions.push(Action::Leave);
            }
            Phase::Leaving => self.phase = Phase::Stopping,
            Phase::Stopping => {
                if self.programs.iter().all(Program::is_over) {
                    self.lease = Lease::Released;
                }
                for number in 0..self.programs.len() {
                    self.tell(now, number, program::Input::Kill, actions);
                }
            }
            Phase::Ended => {}
        }
    }

    /// Hands `input` to one program and takes in what comes of it.
    fn tell(&mut self, now: Tick, number: usize, input: program::Input, actions: &mut Vec<Action>) {
        let Some(action) = self.programs.get_mut(number).and_then(|one| one.step(now, input)) else { return };
        match action {
            program::Action::Spawn => actions.push(Action::Spawn(number)),
            program::Action::Term => actions.push(Action::Term(number)),
            program::Action::Kill => actions.push(Action::Kill(number)),
            program::Action::Again(exit, wait) => actions.push(Action::Again(number, exit, wait)),
            program::Action::Over { exit, gave_up } => {
                if gave_up {
                    actions.push(Action::GaveUp(number));
                }
                self.over(number, exit, gave_up, actions);
            }
        }
    }

    fn over(&mut self, number: usize, exit: Exit, gave_up: bool, actions: &mut Vec<Action>) {
        let is_app = self.app == Some(number);
        if (is_app || gave_up) && self.code == 0 {
            self.code = if gave_up { exit.code().max(EXIT_FAILED) } else { exit.code() };
        }
        if is_app {
            // A dead app cannot drain: its lease goes at once, and takes it out of rotation.
            if matches!(self.phase, Phase::Running | Phase::Leaving) {
                self.phase = Phase::Stopping;
            }
        } else if gave_up && self.phase == Phase::Running {
            self.phase = Phase::Leaving;
            actions.push(Action::Leave);
        }
    }

    /// Goes on with what the phase wants next.
    fn advance(&mut self, now: Tick, actions: &mut Vec<Action>) {
        if self.phase != Phase::Stopping {
            return;
        }
        self.programs.iter_mut().for_each(Program::let_go);
        let last = self.programs.iter().rposition(|one| !one.is_over());
        if let Some(last) = last {
            self.tell(now, last, program::Input::Stop, actions);
        }
        let served =
            self.app.or(last).is_some_and(|number| !self.programs.get(number).is_none_or(Program::is_over));
        if self.lease == Lease::Held && !served {
            self.lease = Lease::Releasing { until: now.plus(RELEASE_MAX) };
            actions.push(Action::Release);
        }
        if last.is_none() && self.lease == Lease::Released {
            self.phase = Phase::Ended;
            actions.push(Action::End(self.code));
        }
    }
}

#[cfg(test)]
#[path = "life_tests.rs"]
mod tests;
