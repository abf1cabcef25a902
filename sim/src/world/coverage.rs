//! Coverage marks that follow from what processes say and know.

use std::collections::BTreeSet;
use std::time::Duration;

use leasehold::member::Report;
use registry::name::InstanceId;

use super::World;
use crate::marks;

/// A wipe or a restore is the cause of suspects for so long.
const CAUSE_FOR: Duration = Duration::from_secs(10);

impl World {
    /// A registrar has said something: its kind is marked.
    pub(super) fn mark_report(&mut self, at: usize, report: &Report) {
        let said = format!("{report:?}");
        let kind = said.split([' ', '(']).next().unwrap_or_default();
        self.mark(&format!("registrar: {kind}"));
        if *report == Report::Registered {
            let now = self.now;
            self.registrars[at].stood.get_or_insert(now);
        }
        if *report == Report::Superseded && self.registrars[at].stopping {
            self.mark("registrar: Superseded while leaving");
        }
    }

    /// What stands in an lb-sync's journal.
    pub(super) fn mark_deed(&mut self, what: &str) {
        self.mark(&format!("lb-sync: {what}"));
    }

    /// What an lb-sync has come to believe of the registry.
    pub(super) fn mark_view(&mut self, at: usize) {
        let slot = &self.balancers[at];
        let Some(process) = &slot.process else { return };
        let view = process.machine().condition(self.now).view;
        let is_out = !view.in_sync();
        if is_out {
            marks::count(&mut self.marks, "lb-sync: out of sync");
        }
        if slot.suspects.is_empty() && view.suspects().next().is_none() {
            return;
        }
        let suspects: BTreeSet<InstanceId> = view.suspects().cloned().collect();
        let is_back = |id: &&InstanceId| !suspects.contains(*id) && view.instances().contains_key(*id);
        let back = slot.suspects.iter().filter(is_back).count();
        let over = slot.suspects.difference(&suspects).count() - back;
        let new = suspects.difference(&slot.suspects).count();
        let by_history = self.history_broke.is_some_and(|at| self.now.since(at) < CAUSE_FOR);
        self.balancers[at].suspects = suspects;
        if back > 0 {
            self.mark("lb-sync: a suspect is back");
        }
        if over > 0 {
            self.mark("lb-sync: a suspect's time or check is over");
        }
        if new > 0 && by_history {
            self.mark("lb-sync: suspects after a wipe or a restore");
        } else if new > 0 {
            self.mark("lb-sync: suspects of an expiry");
        }
    }
}
