//! Decides what the whole process does: programs, checks and memberships, composed.

use std::net::SocketAddr;
use std::time::Duration;

use leasehold::Status;
use leasehold::member;
use leasehold::members::{self, Members};
use nix::sys::signal::Signal;
use registry::name::ServiceName;
use registry::time::Tick;

use crate::probe::prober::{self, Prober};
use crate::supervise::Exit;
use crate::supervise::supervisor::{self, Supervisor};

/// What happened. Programs are named by their number, services by their index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// All programs are to run.
    Start,
    /// A stop is requested. Each further one skips the wait that it finds.
    Stop,
    /// A signal for the app.
    Forward(Signal),
    /// A program has ended, or could not be started.
    Exited(usize, Exit),
    /// A program was started.
    Spawned(usize),
    /// The address of a service's app was found.
    Located(usize, SocketAddr),
    /// The outcome of a check.
    Checked(usize, Result<(), String>),
    /// An input of the members.
    Members(members::Input),
    /// A task of this process has ended.
    PartEnded,
    /// The moment of [`Registrar::wake_at`] has come.
    Woke,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a program. [`Input::Spawned`] or [`Input::Exited`] is the answer.
    Spawn(usize),
    /// Send a program TERM.
    Term(usize),
    /// Send a program KILL.
    Kill(usize),
    /// Forward a signal to a program.
    Forward(usize, Signal),
    /// Log that a program has ended, and is restarted after this time.
    ReportRestart(usize, Exit, Duration),
    /// Log that a program was restarted too often, and that everything stops for it.
    ReportGaveUp(usize),
    /// Log that a part of this process has ended unexpectedly.
    ReportBroken,
    /// Check the app of a service at this address.
    Check(usize, SocketAddr),
    /// Perform this for the members.
    Members(members::Action),
    /// End this process with this code.
    End(u8),
}

/// The machine of the whole process: [`Supervisor`] over the programs, one [`Prober`] for each service, and [`Members`].
#[derive(Debug)]
pub struct Registrar {
    supervisor: Supervisor,
    /// In the order of the members.
    probers: Vec<Prober>,
    members: Members,
    /// The number of the app.
    app: Option<usize>,
}

impl Registrar {
    /// Composes the machines. `probers` are in the order of `members`; `app` is the number of the app.
    #[must_use]
    pub fn new(supervisor: Supervisor, probers: Vec<Prober>, members: Members, app: Option<usize>) -> Self {
        Self { supervisor, probers, members, app }
    }

    /// Whether members may want traffic: `false` from the first stop on.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.supervisor.is_running()
    }

    /// The status of each member, with its service.
    #[must_use]
    pub fn statuses(&self) -> Vec<(ServiceName, Status)> {
        self.members.statuses()
    }

    /// When [`Input::Woke`] is due.
    #[must_use]
    pub fn wake_at(&self) -> Option<Tick> {
        let probers = self.probers.iter().filter_map(Prober::wake_at);
        probers.chain(self.supervisor.wake_at()).chain(self.members.wake_at()).min()
    }

    /// The next actions.
    pub fn step(&mut self, now: Tick, input: Input) -> Vec<Action> {
        let mut actions = vec![];
        let out = &mut actions;
        match input {
            Input::Start => self.supervise(now, supervisor::Input::Start, out),
            Input::Stop => self.supervise(now, supervisor::Input::Stop, out),
            Input::Forward(signal) => out.extend(self.app.map(|app| Action::Forward(app, signal))),
            Input::Exited(number, exit) => {
                // The record first: it says `down` before the supervisor may release the lease.
                if self.app == Some(number) {
                    self.probe_each(now, &prober::Input::AppEnded(exit), out);
                }
                self.supervise(now, supervisor::Input::Exited(number, exit), out);
            }
            Input::Spawned(number) => {
                if self.app == Some(number) {
                    self.probe_each(now, &prober::Input::AppStarted, out);
                }
            }
            Input::Located(index, at) => self.probe(now, index, prober::Input::Located(at), out),
            Input::Checked(index, outcome) => self.probe(now, index, prober::Input::Checked(outcome), out),
            Input::Members(input) => self.step_members(now, input, out),
            // The lease's task ends when the lease is released.
            Input::PartEnded if self.members.are_released() => {}
            Input::PartEnded => {
                out.push(Action::ReportBroken);
                self.supervise(now, supervisor::Input::Broken, out);
            }
            Input::Woke => {
                self.supervise(now, supervisor::Input::Woke, out);
                self.probe_each(now, &prober::Input::Woke, out);
                self.step_members(now, members::Input::Woke, out);
            }
        }
        self.report_members(now, out);
        actions
    }

    /// Tells the supervisor how far the members are. It ignores what it does not wait for.
    fn report_members(&mut self, now: Tick, out: &mut Vec<Action>) {
        loop {
            let known = out.len();
            if self.members.are_released() {
                self.supervise(now, supervisor::Input::Released, out);
            } else if self.members.have_left() {
                self.supervise(now, supervisor::Input::Left, out);
            }
            if out.len() == known {
                return;
            }
        }
    }

    fn supervise(&mut self, now: Tick, input: supervisor::Input, out: &mut Vec<Action>) {
        for action in self.supervisor.step(now, input) {
            out.push(match action {
                supervisor::Action::Spawn(number) => Action::Spawn(number),
                supervisor::Action::Term(number) => Action::Term(number),
                supervisor::Action::Kill(number) => Action::Kill(number),
                supervisor::Action::ReportRestart(number, exit, wait) => {
                    Action::ReportRestart(number, exit, wait)
                }
                supervisor::Action::ReportGaveUp(number) => Action::ReportGaveUp(number),
                supervisor::Action::Leave => {
                    self.step_members(now, members::Input::Leave, out);
                    continue;
                }
                supervisor::Action::Release => {
                    self.step_members(now, members::Input::Release, out);
                    continue;
                }
                supervisor::Action::End(code) => Action::End(code),
            });
        }
    }

    fn probe_each(&mut self, now: Tick, input: &prober::Input, out: &mut Vec<Action>) {
        for index in 0..self.probers.len() {
            self.probe(now, index, input.clone(), out);
        }
    }

    fn probe(&mut self, now: Tick, index: usize, input: prober::Input, out: &mut Vec<Action>) {
        let Some(prober) = self.probers.get_mut(index) else { return };
        for action in prober.step(now, input) {
            match action {
                prober::Action::Check(target) => out.push(Action::Check(index, target)),
                prober::Action::Health(health) => {
                    let health = member::machine::Input::Health(health);
                    self.step_members(now, members::Input::Member(index, health), out);
                }
            }
        }
    }

    fn step_members(&mut self, now: Tick, input: members::Input, out: &mut Vec<Action>) {
        out.extend(self.members.step(now, input).into_iter().map(Action::Members));
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
