//! `HAProxy`s: sessions on their runtime sockets, checks, reloads and deaths.

use std::sync::Arc;
use std::time::Duration;

use ::haproxy::DialogueError;
use lb_sync::balancer::Input;
use lb_sync::files::{Desired, WriterRequests};
use registry::time::Tick;

use super::{Delivery, Event, Process, World};
use crate::haproxy::WorkerId;

/// How long `haproxy -c` takes: some 500 ms at 10,000 servers.
const CHECK_MS_MIN: u64 = 30;
const CHECK_MS_MAX: u64 = 500;
/// Longest that a kept client connection waits with its last request after a reload.
const KEPT_MS: u64 = 500;

impl World {
    fn send_to_balancer(&mut self, at: usize, wait: Duration, input: Input) {
        let life = self.balancers[at].life;
        let delivery = Delivery::Balancer(input);
        self.after(wait, Event::Deliver { to: Process::Balancer(at), life, delivery });
    }

    pub(super) fn connect(&mut self, at: usize) {
        let wait = self.draws.latency(Self::entity(Process::Balancer(at)), "connect");
        let slot = &mut self.balancers[at];
        slot.session = slot.haproxy.current();
        let input = match slot.session {
            Some(_) => Input::Connected,
            None => Input::Lost(DialogueError::Spent),
        };
        self.send_to_balancer(at, wait, input);
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
        let Some(session) = self.balancers[at].session else { return };
        let wait = self.draws.latency(Self::entity(Process::Balancer(at)), "ask");
        let life = self.balancers[at].life;
        self.after(wait, Event::Commands { balancer: at, life, session, lines });
    }

    /// HAProxy takes a request. A process that was killed may have sent it: then no one gets the answer.
    pub(super) fn take_commands(&mut self, at: usize, life: u32, session: WorkerId, lines: &[String]) {
        let now = self.now;
        let mut answers = Vec::with_capacity(lines.len());
        for line in lines {
            self.check_id(at, line);
            let takes_out = line.ends_with("state maint") || line.ends_with("state drain");
            let before = takes_out.then(|| self.selectable(at));
            match self.balancers[at].haproxy.ask(now, session, line) {
                Ok((answer, cut)) => {
                    answers.push(answer);
                    for stream in cut {
                        self.request_cut(at, session, stream);
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
        let gone = !self.balancers[at].haproxy.workers.contains_key(&session);
        let input = if gone { Input::Lost(DialogueError::Spent) } else { Input::Answers(answers) };
        self.send_to_balancer(at, wait, input);
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
        let ill: Vec<bool> = self.registrars.iter().map(|slot| now < slot.ill_until).collect();
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
        slot.changed = self.now;
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
        if slot.session.is_some_and(|session| !slot.haproxy.workers.contains_key(&session)) {
            slot.session = None;
            let wait = self.draws.latency(Self::entity(Process::Balancer(at)), "closed");
            self.send_to_balancer(at, wait, Input::Lost(DialogueError::Spent));
        }
    }

    pub(super) fn kill_haproxy(&mut self, at: usize, away: Duration) {
        if self.balancers[at].haproxy.current().is_none() {
            return;
        }
        self.balancers[at].haproxy.kill();
        self.balancers[at].changed = self.now.plus(away);
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
        self.balancers[at].changed = self.now;
        self.mark(if same_pid { "restarted, same pid" } else { "restarted" });
        self.schedule_checks(at);
    }
}
