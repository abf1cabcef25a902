//! `HAProxy`s: sessions on their runtime sockets, checks, reloads and deaths.

use std::sync::Arc;
use std::time::Duration;

use ::haproxy::DialogueError;
use lb_sync::balancer::Input;
use lb_sync::files::{Desired, WriterRequests};
use registry::time::Tick;

use super::{Delivery, Event, Process, Session, World, service_name};

/// How long `haproxy -c` takes: some 500 ms at 10,000 servers.
const CHECK_MS_MIN: u64 = 30;
const CHECK_MS_MAX: u64 = 500;
/// Between the end of a HAProxy and its start with another configuration.
const RESTART_TAKES: Duration = Duration::from_millis(50);
/// What an operator changed by hand is found and taken back within this: lb-sync reads all every 30 s.
const HAND_EDIT_STANDS: Duration = Duration::from_secs(31);
/// Longest that a kept client connection waits with its last request after a reload.
const KEPT_MS: u64 = 500;

impl World {
    fn send_to_balancer(&mut self, at: usize, wait: Duration, input: Input) {
        let life = self.balancers[at].life;
        let delivery = Delivery::Balancer(input);
        self.after(wait, Event::Deliver { to: Process::Balancer(at), life, delivery });
    }

    /// Something that the present session says, in order; nothing arrives of one that was given up.
    fn send_in_session(&mut self, at: usize, wait: Duration, input: Input) {
        let (now, slot) = (self.now, &mut self.balancers[at]);
        let (life, due) = (slot.life, now.plus(wait).max(slot.heard_at));
        slot.heard_at = due.plus(Duration::from_micros(1));
        let delivery = Delivery::Session(slot.sessions, input);
        self.at(due, Event::Deliver { to: Process::Balancer(at), life, delivery });
    }

    pub(super) fn connect(&mut self, at: usize) {
        let wait = self.draws.latency(Self::entity(Process::Balancer(at)), "connect");
        let slot = &mut self.balancers[at];
        slot.sessions += 1;
        let number = slot.sessions;
        slot.session = slot.haproxy.current().map(|worker| Session { worker, number });
        slot.is_loss_told = slot.session.is_none();
        let input = match slot.session {
            Some(_) => Input::Connected,
            None => Input::Lost(DialogueError::Spent),
        };
        self.send_in_session(at, wait, input);
    }

    /// HAProxy's master says how many old workers there are.
    pub(super) fn count_old_workers(&mut self, at: usize) {
        let wait = self.draws.latency(Self::entity(Process::Balancer(at)), "master");
        let slot = &self.balancers[at];
        let old = slot.haproxy.workers.values().filter(|worker| worker.stopping).count();
        let count = slot.haproxy.current().map(|_| old);
        self.send_to_balancer(at, wait, Input::OldWorkers(count));
    }

    /// lb-sync's writer takes the files in: HAProxy checks them before they are put in place.
    pub(super) fn write_files(&mut self, at: usize, desired: Arc<Desired>) {
        let writer = &mut self.balancers[at].writer;
        if writer.is_busy {
            writer.next = Some(desired);
            return;
        }
        writer.is_busy = true;
        let entity = Self::entity(Process::Balancer(at));
        let wait_ms = CHECK_MS_MIN + self.draws.below(entity, "files", CHECK_MS_MAX - CHECK_MS_MIN);
        let life = self.balancers[at].life;
        self.after(Duration::from_millis(wait_ms), Event::FilesWritten { balancer: at, life, desired });
    }

    pub(super) fn files_written(&mut self, at: usize, life: u32, desired: &Desired) {
        let (now, slot) = (self.now, &mut self.balancers[at]);
        if slot.life != life {
            return;
        }
        slot.haproxy.write_files(now, desired.lines().map(|(service, line)| (service.as_str(), line)));
        slot.writer.is_busy = false;
        let next = slot.writer.next.take();
        self.send_to_balancer(at, Duration::ZERO, Input::Files(WriterRequests::settled(desired.drawing())));
        if let Some(next) = next {
            self.write_files(at, next);
        }
    }

    pub(super) fn send_commands(&mut self, at: usize, lines: Vec<String>) {
        let wait = self.draws.latency(Self::entity(Process::Balancer(at)), "ask");
        let Some(session) = self.balancers[at].session else {
            // The process that accepted it has ended.
            if !std::mem::replace(&mut self.balancers[at].is_loss_told, true) {
                self.send_in_session(at, wait, Input::Lost(DialogueError::Spent));
            }
            return;
        };
        let life = self.balancers[at].life;
        self.after(wait, Event::Commands { balancer: at, life, session, lines });
    }

    /// HAProxy takes a request. A process that was killed may have sent it: then no one gets the answer.
    pub(super) fn take_commands(&mut self, at: usize, life: u32, session: Session, lines: Vec<String>) {
        let (now, worker) = (self.now, session.worker);
        if now < self.balancers[at].hung_until {
            // Read in the end, though the one who sent it may have given up.
            let until = self.balancers[at].hung_until;
            self.at(until, Event::Commands { balancer: at, life, session, lines });
            return;
        }
        let mut answers = Vec::with_capacity(lines.len());
        for line in &lines {
            self.check_id(at, line);
            let takes_out = line.ends_with("state maint") || line.ends_with("state drain");
            let before = takes_out.then(|| self.selectable(at));
            match self.balancers[at].haproxy.ask(now, worker, line) {
                Ok((answer, cut)) => {
                    answers.push(answer);
                    for stream in cut {
                        self.request_cut(at, worker, stream);
                    }
                }
                Err(crash) => {
                    self.violate("crash", format!("lb-{at}: {}: after `{line}`", crash.0));
                    return;
                }
            }
            if let Some(before) = before {
                self.check_guard(at, &before, line);
            }
        }
        self.schedule_checks(at);
        let slot = &self.balancers[at];
        if slot.life != life || slot.session != Some(session) {
            return;
        }
        let wait = self.draws.latency(Self::entity(Process::Balancer(at)), "haproxy answers");
        let gone = !self.balancers[at].haproxy.workers.contains_key(&worker);
        let input = if gone { Input::Lost(DialogueError::Spent) } else { Input::Answers(answers) };
        self.send_in_session(at, wait, input);
    }

    pub(super) fn schedule_checks(&mut self, at: usize) {
        let slot = &mut self.balancers[at];
        let next = slot.haproxy.next_check();
        if next.is_some() && (slot.checks_at.is_none() || next < slot.checks_at) {
            slot.checks_at = next;
            let due = next.unwrap_or_default();
            self.at(due, Event::Checks { balancer: at, at: due });
        }
    }

    pub(super) fn run_checks(&mut self, at: usize, due: Tick) {
        if self.balancers[at].checks_at != Some(due) {
            return;
        }
        self.balancers[at].checks_at = None;
        let (now, apps) = (self.now, &self.apps);
        let lies = now < self.balancers[at].lies_until;
        let ill: Vec<bool> = self.registrars.iter().map(|slot| lies || now < slot.ill_until).collect();
        self.balancers[at].haproxy.run_checks(now, |addr| {
            apps.get(&addr).is_some_and(|app| now >= app.since && !ill[app.registrar])
        });
        self.schedule_checks(at);
    }

    pub(super) fn reload(&mut self, at: usize) {
        let slot = &mut self.balancers[at];
        let Some(old) = slot.haproxy.current() else { return };
        let kept = u32::try_from(self.draws.below(7_000, "kept connections", 4)).unwrap_or(0);
        slot.haproxy.reload(self.now, kept);
        slot.changed = slot.changed.max(self.now);
        for _ in 0..kept {
            let wait = Duration::from_millis(self.draws.below(7_001, "kept request", KEPT_MS));
            self.after(wait, Event::KeptRequest { balancer: at, worker: old });
        }
        self.mark("reloaded");
        self.workers_may_have_ended(at);
        self.schedule_checks(at);
    }

    /// Old workers end once they are idle; a session with one of them is over then.
    pub(super) fn workers_may_have_ended(&mut self, at: usize) {
        self.balancers[at].haproxy.end_idle();
        let slot = &mut self.balancers[at];
        if slot.session.is_some_and(|session| !slot.haproxy.workers.contains_key(&session.worker)) {
            (slot.session, slot.is_loss_told) = (None, true);
            let wait = self.draws.latency(Self::entity(Process::Balancer(at)), "closed");
            self.send_in_session(at, wait, Input::Lost(DialogueError::Spent));
        }
    }

    pub(super) fn kill_haproxy(&mut self, at: usize, away: Duration) {
        if self.balancers[at].haproxy.current().is_none() {
            return;
        }
        self.balancers[at].haproxy.kill();
        self.disturb(Process::Balancer(at), away);
        self.requests.retain(|(balancer, ..), _| *balancer != at);
        self.workers_may_have_ended(at);
        self.after(away, Event::StartHaproxy(at));
    }

    pub(super) fn start_haproxy(&mut self, at: usize) {
        if self.balancers[at].haproxy.current().is_some() {
            return;
        }
        let same_pid = self.draws.one_of(7_002, "same pid", 2);
        self.balancers[at].haproxy.start(self.now, same_pid);
        self.disturb(Process::Balancer(at), Duration::ZERO);
        self.mark(if same_pid { "restarted, same pid" } else { "restarted" });
        self.schedule_checks(at);
    }

    /// HAProxy is restarted with a configuration without `lacks`.
    pub(super) fn configure_haproxy(&mut self, at: usize, lacks: Option<usize>) {
        let services = usize::try_from(self.options.services).unwrap_or(1);
        let backends = (0..services).filter(|service| Some(*service) != lacks).map(service_name).collect();
        self.balancers[at].haproxy.configure(backends);
        self.balancers[at].is_reconfigured = true;
        self.balancers[at].edited_until = Some(self.now.plus(RESTART_TAKES));
        self.kill_haproxy(at, RESTART_TAKES);
    }

    /// An operator changes a server on the runtime socket.
    pub(super) fn hand_edit(&mut self, at: usize, server: u64, way: u64) {
        let (now, haproxy) = (self.now, &self.balancers[at].haproxy);
        let Some((id, worker)) = haproxy.current().and_then(|id| Some((id, haproxy.workers.get(&id)?)))
        else {
            return;
        };
        let nth = usize::try_from(server).unwrap_or(0) % worker.servers.len().max(1);
        // One that was ready and up: no operator makes HAProxy crash on purpose.
        let Some((path, _)) = worker.servers.iter().filter(|(_, server)| server.is_selectable()).nth(nth)
        else {
            return;
        };
        let path = format!("{}/{}", path.0, path.1);
        let lines = match way {
            0 => vec![format!("set server {path} state maint")],
            1 => vec![format!("set server {path} state drain")],
            2 => vec![format!("set server {path} weight 1")],
            _ => vec![format!("set server {path} state maint"), format!("del server {path}")],
        };
        for line in lines {
            if let Err(crash) = self.balancers[at].haproxy.ask(now, id, &line) {
                self.violate("crash", format!("lb-{at}: {}: by hand, after `{line}`", crash.0));
            }
        }
        self.disturb(Process::Balancer(at), HAND_EDIT_STANDS);
        self.balancers[at].edited_until = Some(self.now.plus(HAND_EDIT_STANDS));
        self.schedule_checks(at);
    }
}
