//! Operations of a script: what an operator does, and what goes wrong.

use std::time::Duration;

use super::{Event, Past, Process, World, service_name};
use crate::etcd::{Txn, TxnAnswer};
use crate::script::Op;

/// Clients ask often for so long after an operation.
const BURST_FOR: Duration = Duration::from_secs(4);

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
            Op::KillBoth(n, away) => {
                self.kill_registrar(reg(n), true);
                self.after(ms(away), Event::StartRegistrar(reg(n)));
            }
            Op::KillRegistrar(n, away) => {
                self.kill_registrar(reg(n), false);
                self.restart_with_orphan(reg(n), ms(away));
            }
            Op::Exit(n, away) => self.exit(reg(n), ms(away)),
            Op::Ill(n, for_ms) => {
                let slot = &mut self.registrars[reg(n)];
                slot.ill_until = self.now.plus(ms(for_ms));
                slot.changed = slot.ill_until;
            }
            Op::PauseRegistrar(n, for_ms) => {
                let slot = &mut self.registrars[reg(n)];
                slot.paused_until = Some(self.now.plus(ms(for_ms)));
                slot.changed = self.now.plus(ms(for_ms));
                self.after(ms(for_ms), Event::Resume(Process::Registrar(reg(n))));
            }
            Op::CutRegistrar(n, for_ms) => {
                let slot = &mut self.registrars[reg(n)];
                slot.cut_until = self.now.plus(ms(for_ms));
                slot.changed = slot.cut_until;
            }
            Op::StopBalancer(n, away) => {
                self.stop_balancer(bal(n));
                self.after(ms(away), Event::StartBalancer(bal(n)));
            }
            Op::KillBalancer(n, away) => {
                self.kill_balancer(bal(n));
                self.after(ms(away), Event::StartBalancer(bal(n)));
            }
            Op::PauseBalancer(n, for_ms) => {
                let slot = &mut self.balancers[bal(n)];
                slot.paused_until = Some(self.now.plus(ms(for_ms)));
                slot.changed = self.now.plus(ms(for_ms));
                self.after(ms(for_ms), Event::Resume(Process::Balancer(bal(n))));
            }
            Op::CutBalancer(n, for_ms) => {
                let slot = &mut self.balancers[bal(n)];
                slot.cut_until = self.now.plus(ms(for_ms));
                slot.changed = slot.cut_until;
            }
            Op::Reload(n) => self.reload(bal(n)),
            Op::RestartHaproxy(n, away) => self.kill_haproxy(bal(n), ms(away)),
            Op::Outage(away) => self.stop_etcd(ms(away), Past::All),
            Op::Leader => self.stop_etcd(ms(1), Past::All),
            Op::Compact => self.stop_etcd(ms(1), Past::Compacted),
            Op::Wipe(away) => self.stop_etcd(ms(away), Past::Nothing),
            Op::Restore(ago, away, bump) => {
                let from = self.backups.iter().rev().find(|(at, _)| self.now.since(*at) >= ms(ago));
                let Some((_, store)) = from.or(self.backups.first()).cloned() else { return };
                let bump = i64::try_from(bump).unwrap_or(0);
                self.stop_etcd(ms(away), Past::Backup(Box::new(store), bump));
            }
            Op::Drain(n, for_ms) => self.order(reg(n), "drain", ms(for_ms)),
            Op::Maintenance(n, for_ms) => self.order(reg(n), "maintenance", ms(for_ms)),
            Op::SameName(n, for_ms) => self.same_name(reg(n), ms(for_ms)),
            Op::Full(for_ms) => {
                self.etcd.set_full(true);
                self.after(ms(for_ms), Event::NotFull);
            }
        }
    }

    /// The registrar alone is killed: its app serves on, and ends when it is started again.
    fn restart_with_orphan(&mut self, at: usize, away: Duration) {
        if let Some((_, incarnation)) = self.registrars[at].app {
            // As its supervisor would do: what is left of the last life goes first.
            self.after(away, Event::AppExits { registrar: at, incarnation });
        }
        self.after(away, Event::StartRegistrar(at));
    }

    /// The app ends by itself: its registrar learns of that, leaves and ends.
    fn exit(&mut self, at: usize, away: Duration) {
        let Some((_, incarnation)) = self.registrars[at].app else { return };
        if self.registrars[at].process.is_none() {
            return;
        }
        self.remove_app(at, true);
        let before = self.registrars[at].restart_after.replace(away);
        self.after(Duration::from_millis(5), Event::AppExits { registrar: at, incarnation });
        // Only this once: the next end is an ordinary one.
        if before.is_none() {
            self.registrars[at].restart_after = None;
        }
    }

    fn order(&mut self, at: usize, mode: &str, lasting: Duration) {
        let key = self.override_key(at);
        let value = format!(r#"{{"mode":"{mode}","by":"sim","reason":"a test","at":""}}"#);
        if !self.etcd.is_up() {
            return;
        }
        let put = self.etcd.txn(Txn { puts: vec![(key, value.into_bytes())], ..Txn::default() });
        if put == TxnAnswer::NoSpace {
            return;
        }
        let slot = &mut self.registrars[at];
        (slot.overridden, slot.changed) = (true, self.now);
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
        let slot = &mut self.registrars[at];
        (slot.overridden, slot.changed) = (false, self.now);
    }

    /// What etcd's history has brought back, or lost, of operators' orders; they take back what was brought back.
    pub(super) fn read_overrides(&mut self) {
        for at in 0..self.registrars.len() {
            let stands = self.etcd.get(&self.override_key(at)).is_some();
            let slot = &mut self.registrars[at];
            if stands && !slot.overridden {
                (slot.overridden, slot.changed) = (true, self.now);
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
}
