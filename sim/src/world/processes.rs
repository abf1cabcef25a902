//! Processes: deliveries, timers, pauses, kills, and what registrars and balancers want done.

use std::time::Duration;

use ::registrar::machine::Input as RegistrarInput;

use super::{App, Delivery, Event, FilesWriter, Process, World, balancer_host, service_name};
use crate::balancer::{self, BalancerProcess};
use crate::draw::mix;
use crate::link::Answer;
use crate::registrar::{self, RegistrarProcess};

/// From TERM to the end of an app, and from its end to its registrar's notice of it.
const EXIT_TAKES: Duration = Duration::from_millis(5);
/// How long an app in a crash loop lives: some fail at once, some after they were taken into rotation.
const CRASHES_AFTER_MS_MIN: u64 = 10;
const CRASHES_AFTER_MS: u64 = 3_000;

impl World {
    pub(super) fn deliver(&mut self, to: Process, life: u32, delivery: Delivery) {
        let now = self.now;
        if let Delivery::Answer(Answer::Stream(stream, _)) = &delivery
            && self.dead_streams.contains(stream)
        {
            return;
        }
        let delivery = match delivery {
            // It has ended since.
            Delivery::Answer(Answer::Opened { follower, stream: Some(stream) })
                if !self.streams.contains_key(&stream) =>
            {
                Delivery::Answer(Answer::Opened { follower, stream: None })
            }
            delivery => delivery,
        };
        match to {
            Process::Registrar(at) => {
                let slot = &mut self.registrars[at];
                if slot.life != life || slot.process.is_none() {
                    return;
                }
                if slot.paused_until.is_some_and(|until| now < until) {
                    slot.backlog.push(delivery);
                    return;
                }
                let Some(process) = &mut slot.process else { return };
                slot.suspended_for = Duration::ZERO;
                let effects = match delivery {
                    Delivery::Woke if slot.wake.is_none_or(|wake| now < wake) => return,
                    Delivery::Woke => {
                        slot.wake = None;
                        process.woke(now)
                    }
                    Delivery::Answer(answer) => process.answer(now, answer),
                    Delivery::Registrar(input) => process.step(now, input),
                    Delivery::Balancer(_) | Delivery::Session(..) => return,
                };
                self.registrar_effects(at, effects);
            }
            Process::Balancer(at) => {
                let slot = &mut self.balancers[at];
                if slot.life != life || slot.process.is_none() {
                    return;
                }
                if slot.paused_until.is_some_and(|until| now < until) {
                    slot.backlog.push(delivery);
                    return;
                }
                let Some(process) = &mut slot.process else { return };
                slot.suspended_for = Duration::ZERO;
                let effects = match delivery {
                    Delivery::Woke if slot.wake.is_none_or(|wake| now < wake) => return,
                    Delivery::Woke => {
                        slot.wake = None;
                        process.woke(now)
                    }
                    Delivery::Answer(answer) => process.answer(now, answer),
                    Delivery::Session(number, _) if number != slot.sessions => return,
                    Delivery::Balancer(input) | Delivery::Session(_, input) => process.step(now, vec![input]),
                    Delivery::Registrar(_) => return,
                };
                self.balancer_effects(at, effects);
            }
        }
    }

    /// Everything that came while it was paused is taken in; its timers first or last, by draw. Those of one that was
    /// suspended have stood still: they are late, unless something else wakes it.
    pub(super) fn resume(&mut self, process: Process) {
        let timers_first = self.draws.one_of(Self::entity(process), "timers first", 2);
        let now = self.now;
        let (paused_until, changed) = match process {
            Process::Registrar(at) => {
                let slot = &mut self.registrars[at];
                (&mut slot.paused_until, &mut slot.changed)
            }
            Process::Balancer(at) => {
                let slot = &mut self.balancers[at];
                (&mut slot.paused_until, &mut slot.changed)
            }
        };
        // Another pause lasts longer.
        if paused_until.is_none_or(|until| now < until) {
            return;
        }
        (*paused_until, *changed) = (None, now.max(*changed));
        self.resumed.insert(process, now);
        let (life, wake, suspended_for, mut backlog) = match process {
            Process::Registrar(at) => {
                let slot = &mut self.registrars[at];
                (slot.life, &mut slot.wake, slot.suspended_for, std::mem::take(&mut slot.backlog))
            }
            Process::Balancer(at) => {
                let slot = &mut self.balancers[at];
                (slot.life, &mut slot.wake, slot.suspended_for, std::mem::take(&mut slot.backlog))
            }
        };
        if !suspended_for.is_zero() {
            backlog.retain(|delivery| !matches!(delivery, Delivery::Woke));
            if backlog.is_empty() {
                *wake = wake.map(|wake| wake.plus(suspended_for));
                let late = wake.unwrap_or(now);
                self.mark("resumed, timers late");
                self.at(late, Event::Deliver { to: process, life, delivery: Delivery::Woke });
                return;
            }
            *wake = None;
        }
        self.mark(if timers_first { "resumed, timers first" } else { "resumed, timers last" });
        if timers_first && suspended_for.is_zero() {
            self.deliver(process, life, Delivery::Woke);
        }
        for delivery in backlog {
            self.deliver(process, life, delivery);
        }
        self.set_wake(process);
    }

    fn set_wake(&mut self, process: Process) {
        let (wake, wanted, life) = match process {
            Process::Registrar(at) => {
                let slot = &mut self.registrars[at];
                let wanted = slot.process.as_ref().and_then(RegistrarProcess::wake_at);
                (&mut slot.wake, wanted, slot.life)
            }
            Process::Balancer(at) => {
                let slot = &mut self.balancers[at];
                let wanted = slot.process.as_ref().and_then(BalancerProcess::wake_at);
                (&mut slot.wake, wanted, slot.life)
            }
        };
        let Some(wanted) = wanted else { return };
        if wake.is_none_or(|wake| wanted != wake) {
            *wake = Some(wanted);
            // A timer fires a little late, never early.
            let at = wanted.plus(Duration::from_micros(100));
            self.at(at, Event::Deliver { to: process, life, delivery: Delivery::Woke });
        }
    }

    pub(super) fn start_registrar(&mut self, at: usize) {
        if self.registrars[at].process.is_some() || self.registrars[at].restart_after.is_none() {
            return;
        }
        // An orphan of a registrar that was killed alone.
        self.remove_app(at, true);
        let addr = self.registrars[at].shares.map_or_else(|| self.free_address(), |(addr, _)| addr);
        let (now, options) = (self.now, self.options.clone());
        let slot = &mut self.registrars[at];
        slot.life += 1;
        (slot.stopping, slot.timed_out, slot.wake, slot.stubborn) = (false, false, None, false);
        (slot.paused_until, slot.backlog, slot.changed) = (None, vec![], now);
        slot.suspended_for = Duration::ZERO;
        (slot.started, slot.stood) = (now, None);
        let seed = mix(options.noise ^ mix(u64::try_from(at).unwrap_or(0) ^ (u64::from(slot.life) << 32)));
        let service = service_name(slot.service);
        let name = slot.name.clone();
        let process = RegistrarProcess::new(now, (&service, Some(&name)), addr, &options, seed);
        slot.process = process;
        let effects = slot.process.as_mut().map(|process| process.start(now)).unwrap_or_default();
        self.registrar_effects(at, effects);
    }

    pub(super) fn stop_registrar(&mut self, at: usize) {
        let slot = &mut self.registrars[at];
        // A second request would skip the wait: an operator's own doing.
        if slot.process.is_none() || slot.stopping {
            return;
        }
        (slot.stopping, slot.ordered, slot.changed) = (true, self.now, self.now);
        let life = slot.life;
        let stop = Delivery::Registrar(RegistrarInput::Stop);
        self.deliver(Process::Registrar(at), life, stop);
    }

    fn registrar_effects(&mut self, at: usize, effects: Vec<registrar::Effect>) {
        use registrar::Effect;
        let process = Process::Registrar(at);
        let life = self.registrars[at].life;
        for effect in effects {
            match effect {
                Effect::Call(call) => self.send_call(process, life, call),
                Effect::StartApp => self.start_app(at),
                Effect::StopApp => self.stop_app(at),
                Effect::KillApp => self.kill_app(at),
                Effect::Check(addr) => {
                    let listens = self.registrar_at(addr, self.registrars[at].service) == Some(at);
                    let ill = self.now < self.registrars[at].ill_until;
                    let outcome = if listens && !ill { Ok(()) } else { Err("connection refused".to_owned()) };
                    let wait = self.draws.latency(Self::entity(process), "check");
                    let delivery = Delivery::Registrar(RegistrarInput::Checked(0, outcome));
                    self.after(wait, Event::Deliver { to: process, life, delivery });
                }
                Effect::Left { acked } => {
                    self.registrars[at].timed_out = !acked;
                    if acked {
                        self.counts.leaves += 1;
                        self.mark("left, acked");
                    } else {
                        self.counts.timed_out += 1;
                        self.mark("left at the deadline");
                        self.left_at_deadline(at);
                    }
                }
                Effect::StoodDown => self.stood_down(at),
                Effect::Returned => self.registrars[at].changed = self.now,
                Effect::Said(report) => self.mark_report(at, &report),
                Effect::End => self.registrar_ended(at),
            }
        }
        self.set_wake(process);
    }

    fn registrar_ended(&mut self, at: usize) {
        self.remove_app(at, false);
        let slot = &mut self.registrars[at];
        (slot.process, slot.ordered, slot.changed) = (None, self.now, self.now);
        slot.life += 1;
        if let Some(after) = slot.restart_after {
            self.after(after, Event::StartRegistrar(at));
        }
    }

    fn start_app(&mut self, at: usize) {
        self.incarnations += 1;
        self.disturb(Process::Registrar(at), Duration::ZERO);
        let (incarnation, now, life) = (self.incarnations, self.now, self.registrars[at].life);
        let slot = &mut self.registrars[at];
        let Some(addr) = slot.process.as_ref().map(|process| process.addr) else { return };
        slot.app = Some((addr, incarnation));
        self.given_to.insert(addr, at);
        let delivery = Delivery::Registrar(RegistrarInput::Spawned(0));
        self.after(Duration::from_millis(1), Event::Deliver { to: Process::Registrar(at), life, delivery });
        if self.registrars[at].shares.is_some() {
            self.mark("an app in two services");
            return;
        }
        let takes = Duration::from_millis(5 + self.draws.below(incarnation, "app starts", 50));
        let app =
            App { service: self.registrars[at].service, registrar: at, incarnation, since: now.plus(takes) };
        self.apps.insert(addr, app);
        if now < self.registrars[at].crashes_until {
            self.mark("an app in a crash loop");
            let lives = CRASHES_AFTER_MS_MIN + self.draws.below(incarnation, "crashes", CRASHES_AFTER_MS);
            self.after(Duration::from_millis(lives), Event::AppCrashes { registrar: at, incarnation });
        }
    }

    /// TERM: it takes no more connections and ends at once, with what is in flight.
    fn stop_app(&mut self, at: usize) {
        self.honest_leave(at);
        let Some((_, incarnation)) = self.registrars[at].app else { return };
        if std::mem::take(&mut self.registrars[at].stubborn) {
            self.mark("an app is killed in the end");
            return;
        }
        self.remove_app(at, false);
        self.after(EXIT_TAKES, Event::AppExits { registrar: at, incarnation });
    }

    /// KILL, after a TERM that did not end it.
    fn kill_app(&mut self, at: usize) {
        let Some((_, incarnation)) = self.registrars[at].app else { return };
        self.remove_app(at, true);
        self.after(EXIT_TAKES, Event::AppExits { registrar: at, incarnation });
    }

    /// The app is gone. `fault`: nothing could have been done about it.
    pub(super) fn remove_app(&mut self, at: usize, fault: bool) {
        let Some((addr, _)) = self.registrars[at].app.take() else { return };
        if self.apps.get(&addr).is_some_and(|app| app.registrar == at) {
            self.apps.remove(&addr);
        }
        if self.registrars[at].shares.is_some() {
            self.unshared.insert(addr, self.now);
        }
        if fault {
            self.died.insert(self.registrars[at].service, self.now);
        }
        self.cut_requests(addr, at, fault);
    }

    pub(super) fn app_exits(&mut self, at: usize, incarnation: u64) {
        let (now, slot) = (self.now, &mut self.registrars[at]);
        if slot.app.is_some_and(|(_, present)| present != incarnation) {
            return;
        }
        if let Some(process) = &mut slot.process {
            let effects = process.app_ended(now);
            self.registrar_effects(at, effects);
        }
    }

    /// `kill -9` of the registrar; and of the app, unless that lives on for itself.
    pub(super) fn kill_registrar(&mut self, at: usize, app_too: bool) {
        if app_too {
            self.remove_app(at, true);
        }
        let slot = &mut self.registrars[at];
        (slot.process, slot.changed) = (None, self.now);
        slot.life += 1;
    }

    pub(super) fn start_balancer(&mut self, at: usize) {
        let (now, options) = (self.now, self.options.clone());
        let slot = &mut self.balancers[at];
        if slot.process.is_some() {
            return;
        }
        slot.life += 1;
        (slot.paused_until, slot.backlog, slot.wake, slot.session) = (None, vec![], None, None);
        slot.is_loss_told = false;
        slot.suspended_for = Duration::ZERO;
        (slot.changed, slot.writer) = (slot.changed.max(now), FilesWriter::default());
        let seed =
            mix(options.noise ^ mix(77 + u64::try_from(at).unwrap_or(0) + (u64::from(slot.life) << 32)));
        let number = if options.twins == 1 && at == 1 { 0 } else { at };
        let name = (&*format!("lb-{number}"), balancer_host(at));
        slot.process = BalancerProcess::new(now, name, slot.disk.clone(), &options, seed);
        let effects = slot.process.as_mut().map(|process| process.start(now)).unwrap_or_default();
        self.balancer_effects(at, effects);
    }

    /// lb-sync is told to stop: HAProxy goes on, and presence stands until its lease ends or the next life has it.
    pub(super) fn stop_balancer(&mut self, at: usize) {
        if let Some(process) = &mut self.balancers[at].process {
            process.stop();
        }
        self.kill_balancer(at);
    }

    pub(super) fn kill_balancer(&mut self, at: usize) {
        let slot = &mut self.balancers[at];
        if let Some(process) = slot.process.take() {
            slot.disk = process.disk;
        }
        slot.life += 1;
        (slot.session, slot.changed) = (None, slot.changed.max(self.now));
    }

    pub(super) fn balancer_effects(&mut self, at: usize, effects: Vec<balancer::Effect>) {
        use balancer::Effect;
        let process = Process::Balancer(at);
        let life = self.balancers[at].life;
        for effect in effects {
            match effect {
                Effect::Call(call) => self.send_call(process, life, call),
                Effect::Connect => self.connect(at),
                Effect::Disconnect => {
                    let slot = &mut self.balancers[at];
                    (slot.session, slot.sessions) = (None, slot.sessions + 1);
                }
                Effect::Ask(commands) => {
                    let lines: Vec<String> = commands.iter().map(ToString::to_string).collect();
                    self.check_commands(at, &lines);
                    self.send_commands(at, lines);
                }
                Effect::CountOldWorkers => self.count_old_workers(at),
                Effect::WriteFiles(desired) => self.write_files(at, desired),
                Effect::Journal(what, refused) => {
                    self.mark_deed(&what);
                    self.check_refusal(at, refused);
                }
                Effect::Acked(id, owner, state) => self.check_ack(at, &id, &owner, state),
            }
        }
        self.mark_view(at);
        self.set_wake(process);
    }
}
