//! Operations of a script: what an operator does, and what goes wrong.

use std::net::SocketAddr;
use std::time::Duration;

use registry::record::{OverrideRecord, parse};
use registry::time::Tick;

use super::network::LISTED_WITHIN;
use super::{Event, Past, Process, World, service_name};
use crate::etcd::{Txn, TxnAnswer};
use crate::script::Op;

/// lb-sync has heard etcd after a start by then, unless it is away for longer than any of these operations.
const LISTED_BY_THEN: Duration = Duration::from_secs(31);
/// Clients ask often for so long after an operation.
const BURST_FOR: Duration = Duration::from_secs(4);
/// A host that was suspended has its network back within this.
const NETWORK_BACK_MS: u64 = 1_000;

impl World {
    pub(super) fn begin(&mut self, op: Op) {
        let ms = |ms: u64| Duration::from_millis(ms);
        self.burst_until = self.now.plus(BURST_FOR + ms(op.takes_ms().min(20_000)));
        let registrars = self.registrars.len();
        let balancers = self.balancers.len();
        let reg = |n: u64| usize::try_from(n).unwrap_or(0) % registrars;
        let bal = |n: u64| usize::try_from(n).unwrap_or(0) % balancers;
        self.mark(op.name());
        match op {
            Op::Roll(n) => self.stop_registrar(reg(n)),
            Op::Scale(n, away) => self.scale(reg(n), ms(away)),
            Op::KillBoth(n, away) => self.kill_both(reg(n), ms(away)),
            Op::KillRegistrar(n, away) => self.kill_registrar_alone(reg(n), ms(away)),
            Op::Exit(n, away) => self.exit(reg(n), ms(away)),
            Op::CrashLoop(n, for_ms) => self.crash_loop(reg(n), ms(for_ms)),
            Op::Ill(n, for_ms) => {
                self.registrars[reg(n)].ill_until = self.now.plus(ms(for_ms));
                self.disturb(Process::Registrar(reg(n)), ms(for_ms));
            }
            Op::Stubborn(n) => {
                self.registrars[reg(n)].stubborn = true;
                self.stop_registrar(reg(n));
            }
            Op::PauseRegistrar(n, for_ms) => self.pause(Process::Registrar(reg(n)), ms(for_ms)),
            Op::SuspendRegistrar(n, for_ms) => self.suspend(Process::Registrar(reg(n)), ms(for_ms)),
            Op::CutRegistrars(for_ms) => {
                (0..registrars).for_each(|at| self.cut(Process::Registrar(at), ms(for_ms)));
            }
            Op::CutRegistrar(n, for_ms) => self.cut(Process::Registrar(reg(n)), ms(for_ms)),
            Op::DeafRegistrar(n, for_ms) => self.deafen(Process::Registrar(reg(n)), ms(for_ms)),
            Op::LagRegistrar(n, late, for_ms) => self.lag(Process::Registrar(reg(n)), ms(late), ms(for_ms)),
            Op::BreakRegistrar(n) => self.break_streams_of(Process::Registrar(reg(n))),
            Op::RevokeRegistrar(n) => self.revoke(Process::Registrar(reg(n))),
            Op::DeleteRecord(n) => self.edit_record(reg(n), None),
            Op::GarbleRecord(n) => self.edit_record(reg(n), Some("by hand")),
            Op::StopBalancer(n, away) => {
                self.stop_balancer(bal(n));
                self.after(ms(away), Event::StartBalancer(bal(n)));
            }
            Op::KillBalancer(n, away) => {
                self.kill_balancer(bal(n));
                self.after(ms(away), Event::StartBalancer(bal(n)));
            }
            Op::OldDisk(n, ago, away) => self.old_disk(bal(n), ms(ago), ms(away)),
            Op::PauseBalancer(n, for_ms) => self.pause(Process::Balancer(bal(n)), ms(for_ms)),
            Op::SuspendBalancer(n, for_ms) => self.suspend(Process::Balancer(bal(n)), ms(for_ms)),
            Op::CutBalancer(n, for_ms) => self.cut(Process::Balancer(bal(n)), ms(for_ms)),
            Op::DeafBalancer(n, for_ms) => self.deafen(Process::Balancer(bal(n)), ms(for_ms)),
            Op::LagBalancer(n, late, for_ms) => self.lag(Process::Balancer(bal(n)), ms(late), ms(for_ms)),
            Op::LoseEvents(n, for_ms) => self.lose_events(Process::Balancer(bal(n)), ms(for_ms)),
            Op::LoseRegistrarEvents(n, for_ms) => {
                self.lose_events(Process::Registrar(reg(n)), ms(for_ms));
            }
            Op::BreakBalancer(n) => self.break_streams_of(Process::Balancer(bal(n))),
            Op::RevokeBalancer(n) => self.revoke(Process::Balancer(bal(n))),
            Op::DeletePresence(n) => self.delete_presence(bal(n)),
            Op::DeleteAcks(n) => self.delete_acks(bal(n)),
            Op::Reload(n) => self.reload(bal(n)),
            Op::RestartHaproxy(n, away) => self.kill_haproxy(bal(n), ms(away)),
            Op::OtherVersion(n, version, away) => {
                self.balancers[bal(n)].haproxy.install(version);
                self.kill_haproxy(bal(n), ms(away));
            }
            Op::OtherConfiguration(n, backend, for_ms) => {
                self.other_configuration(bal(n), usize::try_from(backend).unwrap_or(0), ms(for_ms));
            }
            Op::HangHaproxy(n, for_ms) => {
                self.balancers[bal(n)].hung_until = self.now.plus(ms(for_ms));
                self.disturb(Process::Balancer(bal(n)), ms(for_ms));
            }
            Op::HandEdit(n, server, way) => self.hand_edit(bal(n), server, way),
            Op::ChecksLie(n, for_ms) => {
                self.balancers[bal(n)].lies_until = self.now.plus(ms(for_ms));
                self.disturb(Process::Balancer(bal(n)), ms(for_ms));
            }
            Op::Outage(away) => self.stop_etcd(ms(away), Past::All),
            Op::Hang(for_ms) => self.hang_etcd(ms(for_ms)),
            Op::LoseCalls(per_mille, for_ms) => {
                self.lossy = (per_mille, self.now.plus(ms(for_ms)));
                self.etcd_is_troubled(self.lossy.1);
            }
            Op::Leader() => self.stop_etcd(ms(1), Past::All),
            Op::Compact() => self.stop_etcd(ms(1), Past::Compacted),
            Op::Wipe(away) => self.stop_etcd(ms(away), Past::Nothing),
            Op::Restore(ago, away, bump) => self.restore(ms(ago), ms(away), bump),
            Op::Drain(n, for_ms) => self.order(reg(n), r#""mode":"drain""#, ms(for_ms)),
            Op::Maintenance(n, for_ms) => self.order(reg(n), r#""mode":"maintenance""#, ms(for_ms)),
            Op::Weight(n, for_ms) => self.order(reg(n), r#""weight":20"#, ms(for_ms)),
            Op::SameAddress(n, for_ms) => self.same_address(reg(n), ms(for_ms)),
            Op::SameName(n, for_ms) => self.same_name(reg(n), ms(for_ms)),
            Op::Full(for_ms) => {
                self.etcd.set_full(true);
                self.after(ms(for_ms), Event::NotFull);
            }
        }
    }

    /// Something happens to a process or its surroundings, for so long.
    pub(super) fn disturb(&mut self, process: Process, lasting: Duration) {
        let until = self.now.plus(lasting);
        let changed = match process {
            Process::Registrar(at) => &mut self.registrars[at].changed,
            Process::Balancer(at) => &mut self.balancers[at].changed,
        };
        *changed = until.max(*changed);
    }

    fn pause(&mut self, process: Process, lasting: Duration) {
        let until = self.now.plus(lasting);
        let paused_until = match process {
            Process::Registrar(at) => &mut self.registrars[at].paused_until,
            Process::Balancer(at) => &mut self.balancers[at].paused_until,
        };
        *paused_until = Some(until.max(paused_until.unwrap_or_default()));
        self.disturb(process, lasting);
        self.after(lasting, Event::Resume(process));
    }

    /// As a pause; and the timers of the process, which are on the monotonic clock, have stood still.
    fn suspend(&mut self, process: Process, lasting: Duration) {
        self.pause(process, lasting);
        if self.draws.one_of(Self::entity(process), "network is back late", 3) {
            let late_ms = self.draws.below(Self::entity(process), "network", NETWORK_BACK_MS);
            self.deafen(process, lasting + Duration::from_millis(late_ms));
        }
        match process {
            Process::Registrar(at) => self.registrars[at].suspended_for = lasting,
            Process::Balancer(at) => self.balancers[at].suspended_for = lasting,
        }
    }

    fn cut(&mut self, process: Process, lasting: Duration) {
        self.network(process).cut_until = self.now.plus(lasting);
        self.disturb(process, lasting);
    }

    fn deafen(&mut self, process: Process, lasting: Duration) {
        self.network(process).deaf_until = self.now.plus(lasting);
        self.disturb(process, lasting);
    }

    fn lag(&mut self, process: Process, late: Duration, lasting: Duration) {
        let until = self.now.plus(lasting);
        self.network(process).lag(late, until);
        self.disturb(process, lasting + late);
    }

    fn lose_events(&mut self, process: Process, lasting: Duration) {
        let until = self.now.plus(lasting);
        self.network(process).lose_events(until);
        self.disturb(process, lasting + LISTED_WITHIN);
    }

    /// The instance is away for a time between its lives, from now on.
    fn scale(&mut self, at: usize, away: Duration) {
        let slot = &mut self.registrars[at];
        slot.restart_after = slot.restart_after.map(|_| away);
        self.stop_registrar(at);
    }

    fn kill_both(&mut self, at: usize, away: Duration) {
        self.kill_registrar(at, true);
        self.after(away, Event::StartRegistrar(at));
    }

    fn old_disk(&mut self, at: usize, ago: Duration, away: Duration) {
        self.kill_balancer(at);
        let (now, slot) = (self.now, &mut self.balancers[at]);
        let old = slot.old_disks.iter().rev().find(|(at, _)| now.since(*at) >= ago);
        slot.disk = old.or(slot.old_disks.first()).map(|(_, disk)| disk.clone()).unwrap_or_default();
        // What the disk says of an instance is taken for true until etcd is heard.
        let edited_until = now.plus(away + LISTED_BY_THEN);
        slot.edited_until = Some(edited_until.max(slot.edited_until.unwrap_or_default()));
        self.after(away, Event::StartBalancer(at));
    }

    fn other_configuration(&mut self, at: usize, lacks: usize, lasting: Duration) {
        self.configure_haproxy(at, Some(lacks));
        self.disturb(Process::Balancer(at), lasting + Duration::from_millis(100));
        self.after(lasting, Event::ConfigureHaproxy(at));
    }

    fn restore(&mut self, ago: Duration, away: Duration, bump: u64) {
        let from = self.backups.iter().rev().find(|(at, _)| self.now.since(*at) >= ago);
        let Some((_, store)) = from.or(self.backups.first()).cloned() else { return };
        let bump = i64::try_from(bump).unwrap_or(0);
        self.stop_etcd(away, Past::Backup(Box::new(store), bump));
    }

    /// What reads and writes etcd is in trouble until then.
    fn etcd_is_troubled(&mut self, until: Tick) {
        self.etcd_goes();
        self.etcd_came = self.etcd_came.max(until);
    }

    /// The registrar alone is killed: its app serves on, and ends when it is started again.
    fn kill_registrar_alone(&mut self, at: usize, away: Duration) {
        self.kill_registrar(at, false);
        if let Some((_, incarnation)) = self.registrars[at].app {
            // As its supervisor would do: what is left of the last life goes first.
            self.after(away, Event::AppExits { registrar: at, incarnation });
        }
        self.after(away, Event::StartRegistrar(at));
    }

    /// The app ends by itself: its registrar learns of that, and starts it again; or leaves and ends.
    fn exit(&mut self, at: usize, away: Duration) {
        let slot = &mut self.registrars[at];
        let Some((_, incarnation)) = slot.app.filter(|_| slot.process.is_some()) else { return };
        slot.restart_after = slot.restart_after.map(|_| away);
        self.app_fails(at, incarnation);
    }

    fn crash_loop(&mut self, at: usize, lasting: Duration) {
        self.registrars[at].crashes_until = self.now.plus(lasting);
        self.disturb(Process::Registrar(at), lasting);
        if let Some((_, incarnation)) = self.registrars[at].app {
            self.app_crashes(at, incarnation);
        }
    }

    /// An app in a crash loop ends, if it is the one that was started then and has a registrar.
    pub(super) fn app_crashes(&mut self, at: usize, incarnation: u64) {
        let slot = &self.registrars[at];
        if slot.process.is_some() && slot.app.is_some_and(|(_, present)| present == incarnation) {
            self.app_fails(at, incarnation);
        }
    }

    fn app_fails(&mut self, at: usize, incarnation: u64) {
        self.remove_app(at, true);
        self.disturb(Process::Registrar(at), Duration::ZERO);
        self.after(Duration::from_millis(5), Event::AppExits { registrar: at, incarnation });
    }

    fn order(&mut self, at: usize, order: &str, lasting: Duration) {
        let key = self.override_key(at);
        let value = format!(r#"{{{order},"by":"sim","reason":"a test","at":""}}"#);
        if !self.etcd.is_up() {
            return;
        }
        let put = self.etcd.txn(Txn { puts: vec![(key, value.into_bytes())], ..Txn::default() });
        if put == TxnAnswer::NoSpace {
            return;
        }
        (self.registrars[at].overridden, self.registrars[at].ordered) = (order.contains("mode"), self.now);
        self.disturb(Process::Registrar(at), Duration::ZERO);
        self.after(lasting, Event::ClearOverride(at));
    }

    pub(super) fn clear_override(&mut self, at: usize) {
        if !self.etcd.is_up() {
            self.after(Duration::from_secs(1), Event::ClearOverride(at));
            return;
        }
        let key = self.override_key(at);
        // As an operator who finds it still in force after a wipe: an override without an order, and then none.
        let cleared = self.etcd.txn(Txn { puts: vec![(key.clone(), b"{}".to_vec())], ..Txn::default() });
        if cleared == TxnAnswer::NoSpace {
            self.after(Duration::from_secs(1), Event::ClearOverride(at));
            return;
        }
        self.etcd.txn(Txn { deletes: vec![key], ..Txn::default() });
        let (service, name, now) = (self.registrars[at].service, self.registrars[at].name.clone(), self.now);
        // Every registrar that has the name.
        for slot in self.registrars.iter_mut().filter(|slot| slot.service == service && slot.name == name) {
            (slot.overridden, slot.ordered, slot.changed) = (false, now, slot.changed.max(now));
        }
    }

    /// What etcd's history has brought back, or lost, of operators' orders; they take back what was brought back.
    pub(super) fn read_overrides(&mut self) {
        for at in 0..self.registrars.len() {
            let record =
                self.etcd.get(&self.override_key(at)).map(|entry| parse::<OverrideRecord>(&entry.value));
            let stands = record.is_some_and(|record| record.is_ok_and(|record| record.mode.is_some()));
            let slot = &mut self.registrars[at];
            if stands && !slot.overridden {
                (slot.overridden, slot.changed) = (true, slot.changed.max(self.now));
                self.after(Duration::from_secs(5), Event::ClearOverride(at));
            }
        }
    }

    fn override_key(&self, at: usize) -> String {
        let slot = &self.registrars[at];
        format!("/leasehold/v1/overrides/{}/{}", service_name(slot.service), slot.name)
    }

    /// Another registrar with an explicit name that is taken: the newer has it until it ends.
    fn same_name(&mut self, at: usize, lasting: Duration) {
        let (service, name) = (self.registrars[at].service, self.registrars[at].name.clone());
        let second = self.add_registrar(service, name, Some(Duration::ZERO));
        self.start_registrar(second);
        // It is not started again.
        self.registrars[second].restart_after = None;
        self.after(lasting.max(Duration::from_millis(500)), Event::StopRegistrar(second));
    }

    /// Another registrar registers the same app in another service, checks it, and does not run it.
    fn same_address(&mut self, at: usize, lasting: Duration) {
        let slot = &self.registrars[at];
        let services = usize::try_from(self.options.services).unwrap_or(1);
        let is_shared = |addr: SocketAddr| {
            self.registrars
                .iter()
                .any(|slot| slot.app.is_some() && slot.shares.is_some_and(|(at, _)| at == addr))
        };
        let addr = slot.process.as_ref().map(|process| process.addr);
        let addr = addr.filter(|addr| services > 1 && !is_shared(*addr));
        let Some((addr, app)) = addr.and_then(|addr| Some((addr, self.apps.get(&addr)?.incarnation))) else {
            return;
        };
        let service = (slot.service + 1) % services;
        let name = format!("{}-beside-{}", service_name(service), self.registrars.len());
        let second = self.add_registrar(service, name, Some(Duration::ZERO));
        self.registrars[second].shares = Some((addr, app));
        self.start_registrar(second);
        // It is not started again.
        self.registrars[second].restart_after = None;
        self.after(lasting.max(Duration::from_millis(500)), Event::StopRegistrar(second));
    }

    /// An operator revokes a lease.
    fn revoke(&mut self, process: Process) {
        let link = match process {
            Process::Registrar(at) => self.registrars[at].process.as_ref().map(|process| &process.link),
            Process::Balancer(at) => self.balancers[at].process.as_ref().map(|process| &process.link),
        };
        let Some(lease) = link.and_then(|link| link.lease.status().lease).filter(|_| self.etcd.is_up())
        else {
            return;
        };
        self.etcd.revoke(lease);
        self.disturb(process, Duration::ZERO);
        if let Process::Registrar(at) = process {
            self.registrars[at].ordered = self.now;
        }
    }

    /// An operator deletes an instance's record, or writes this over it.
    fn edit_record(&mut self, at: usize, text: Option<&str>) {
        self.disturb(Process::Registrar(at), Duration::ZERO);
        self.registrars[at].ordered = self.now;
        let slot = &self.registrars[at];
        let key = format!("/leasehold/v1/instances/{}/{}", service_name(slot.service), slot.name);
        let txn = match text {
            Some(text) => Txn { puts: vec![(key, text.into())], ..Txn::default() },
            None => Txn { deletes: vec![key], ..Txn::default() },
        };
        self.edit(txn);
    }

    fn delete_presence(&mut self, at: usize) {
        let Some(name) = self.balancer_name(at) else { return };
        self.edit(Txn { deletes: vec![format!("/leasehold/v1/balancers/{name}")], ..Txn::default() });
    }

    fn delete_acks(&mut self, at: usize) {
        let Some(name) = self.balancer_name(at) else { return };
        let prefix = format!("/leasehold/v1/acks/{name}/");
        let deletes = self.etcd.below(&prefix).map(|(key, _)| key.to_owned()).collect();
        self.edit(Txn { deletes, ..Txn::default() });
    }

    fn edit(&mut self, txn: Txn) {
        if self.etcd.is_up() {
            self.etcd.txn(txn);
        }
    }

    /// etcd takes what is sent, and its answers and messages come only when it is over.
    fn hang_etcd(&mut self, lasting: Duration) {
        let until = self.now.plus(lasting);
        for slot in &mut self.registrars {
            slot.network.deaf_until = slot.network.deaf_until.max(until);
        }
        for slot in &mut self.balancers {
            slot.network.deaf_until = slot.network.deaf_until.max(until);
        }
        self.etcd_is_troubled(until);
    }
}
