//! Decides the life of the process: start the programs in order, leave the registry, stop the programs in reverse order,
//! release the lease, end.

use std::time::Duration;

use registry::time::Tick;

use super::Exit;
use super::program::{self, Program};

/// Longest wait for the lease to be revoked. After it the lease ends within its ttl.
const RELEASE_MAX: Duration = Duration::from_secs(3);
/// Exit code when this process itself has failed.
const EXIT_FAILED: u8 = 1;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// All programs are to run.
    Start,
    /// A stop is requested. Each further one skips the wait that it finds.
    Stop,
    /// The program of this number has ended, or could not be restarted.
    Exited(usize, Exit),
    /// Every member has left, or has waited long enough.
    Left,
    /// The lease is revoked, or given up.
    Released,
    /// A part of this process has ended unexpectedly.
    Broken,
    /// The moment of [`Supervisor::wake_at`] has come.
    Woke,
}

/// What to do. Programs are named by their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start the program.
    Spawn(usize),
    /// Send it TERM.
    Term(usize),
    /// Send it KILL.
    Kill(usize),
    /// Log that it has ended, and is restarted after this time.
    ReportRestart(usize, Exit, Duration),
    /// Log that it was restarted too often, and that everything stops for it.
    ReportGaveUp(usize),
    /// Take every member out of rotation.
    Leave,
    /// Revoke the lease: records that still stand go with it.
    Release,
    /// End this process with this code.
    End(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// Members are leaving. The app still serves.
    Leaving,
    /// The programs are stopped one after the other, in reverse order of their start.
    Stopping,
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lease {
    Held,
    /// The wait for it ends at `until`.
    Releasing {
        until: Tick,
    },
    Released,
}

/// The machine of the whole process.
#[derive(Clone, Debug)]
pub struct Supervisor {
    phase: Phase,
    lease: Lease,
    /// In the order of their start.
    programs: Vec<Program>,
    /// The number of the app. When it ends, so does this process. `None`: a plain sidecar of an app started elsewhere.
    app: Option<usize>,
    code: u8,
}

impl Supervisor {
    /// Starts with `programs` in the order of their start; `app` is the number of the app.
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
                    self.step_program(now, number, program::Input::Start, &mut actions);
                }
            }
            Input::Stop => self.stop(now, &mut actions),
            Input::Exited(number, exit) => {
                self.step_program(now, number, program::Input::Exited(exit), &mut actions);
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
                if self.phase == Phase::Running {
                    // Not waited for. A member must not register an app that is being stopped.
                    actions.push(Action::Leave);
                }
                if matches!(self.phase, Phase::Running | Phase::Leaving) {
                    self.code = EXIT_FAILED;
                    self.phase = Phase::Stopping;
                }
            }
            Input::Woke => {
                for number in 0..self.programs.len() {
                    self.step_program(now, number, program::Input::Woke, &mut actions);
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
                    self.step_program(now, number, program::Input::Kill, actions);
                }
            }
            Phase::Ended => {}
        }
    }

    /// Steps one program, and handles its action.
    fn step_program(&mut self, now: Tick, number: usize, input: program::Input, actions: &mut Vec<Action>) {
        let Some(action) = self.programs.get_mut(number).and_then(|one| one.step(now, input)) else { return };
        match action {
            program::Action::Spawn => actions.push(Action::Spawn(number)),
            program::Action::Term => actions.push(Action::Term(number)),
            program::Action::Kill => actions.push(Action::Kill(number)),
            program::Action::Restart(exit, wait) => actions.push(Action::ReportRestart(number, exit, wait)),
            program::Action::Over { exit, gave_up } => {
                if gave_up {
                    actions.push(Action::ReportGaveUp(number));
                }
                self.program_over(number, exit, gave_up, actions);
            }
        }
    }

    fn program_over(&mut self, number: usize, exit: Exit, gave_up: bool, actions: &mut Vec<Action>) {
        let is_app = self.app == Some(number);
        if (is_app || gave_up) && self.code == 0 {
            self.code = if gave_up { exit.code().max(EXIT_FAILED) } else { exit.code() };
        }
        if is_app {
            // A dead app cannot drain. Releasing the lease at once takes it out of rotation.
            if matches!(self.phase, Phase::Running | Phase::Leaving) {
                self.phase = Phase::Stopping;
            }
        } else if gave_up && self.phase == Phase::Running {
            self.phase = Phase::Leaving;
            actions.push(Action::Leave);
        }
    }

    /// Does what the phase requires next.
    fn advance(&mut self, now: Tick, actions: &mut Vec<Action>) {
        if self.phase != Phase::Stopping {
            return;
        }
        self.programs.iter_mut().for_each(Program::cancel_restart);
        let last = self.programs.iter().rposition(|one| !one.is_over());
        if let Some(last) = last {
            self.step_program(now, last, program::Input::Stop, actions);
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
#[path = "supervisor_tests.rs"]
mod tests;
