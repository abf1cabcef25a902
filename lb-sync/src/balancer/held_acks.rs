//! Acks of `drained` that wait for HAProxy's files: a HAProxy that is reloaded or restarted on older ones has the server in
//! rotation again, and its app may have stopped by then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use registry::name::InstanceId;
use registry::record::AckState;
use registry::time::Tick;

use crate::files::Files;
use crate::plan::AckValue;
use crate::scope::Scope;

/// Longest that an ack waits: a disk that is full or slow does not hold up a leave.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Those that wait.
#[derive(Debug, Default)]
pub(super) struct HeldAcks {
    held: BTreeMap<InstanceId, Held>,
}

#[derive(Debug)]
struct Held {
    /// Of the record that is answered: what was held for an earlier one says nothing of this leave.
    revision: i64,
    /// The drawing of the files that has it.
    drawing: u64,
    until: Tick,
    /// It was to be planned anew.
    is_over: bool,
}

impl HeldAcks {
    /// What may be said of `id` now, of what the plan says; `is_known`: that it is drained was said before.
    pub(super) fn hold(
        &mut self,
        now: Tick,
        id: &InstanceId,
        ack: Option<&AckValue>,
        is_known: bool,
        files: &Files,
    ) -> Option<AckValue> {
        let is_drained = |ack: &&AckValue| ack.state == AckState::Drained && !is_known;
        let Some((drained, drawing)) = ack.filter(is_drained).zip(files.drawing()) else {
            self.held.remove(id);
            return ack.cloned();
        };
        let revision = drained.revision;
        if self.held.get(id).is_some_and(|held| held.revision != revision) {
            self.held.remove(id);
        }
        let until = now.plus(WAIT_MAX);
        let held = self.held.entry(id.clone()).or_insert(Held { revision, drawing, until, is_over: false });
        // Once over it stays so: a newer drawing says nothing else of a record that leaves, and nothing would wake for it.
        if held.is_over || files.is_on_disk(held.drawing) || now >= held.until {
            self.held.remove(id);
            return Some(drained.clone());
        }
        Some(AckValue { state: AckState::Draining, ..drained.clone() })
    }

    /// Those that need not wait any longer, each once: HAProxy may be another one by now, so each is planned anew.
    pub(super) fn over(&mut self, now: Tick, files: &Files) -> Scope {
        // Planned anew, and not drained any more.
        self.held.retain(|_, held| !held.is_over || now < held.until.plus(WAIT_MAX));
        let mut over = BTreeSet::new();
        for (id, held) in self.held.iter_mut().filter(|(_, held)| !held.is_over) {
            let is_on_disk = files.is_on_disk(held.drawing);
            if !is_on_disk && now >= held.until {
                tracing::warn!(
                    instance = %id,
                    "the files are not written yet, and its leave goes on: a HAProxy that starts now would have it in rotation"
                );
            }
            held.is_over = is_on_disk || now >= held.until;
            if held.is_over {
                over.insert(id.clone());
            }
        }
        Scope::Only(over)
    }

    /// Another HAProxy process answers: what was drained in the last one says nothing of it.
    pub(super) fn clear(&mut self) {
        self.held.clear();
    }

    /// When [`Self::over`] has something, if the files are not written before.
    pub(super) fn wake_at(&self) -> Option<Tick> {
        self.held.values().filter(|held| !held.is_over).map(|held| held.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::WriterRequests;
    use crate::plan::{FirstCheck, Policy};

    /// The files have it; then HAProxy is slow, and when the instance is planned anew, a newer drawing is on its way.
    #[test]
    fn what_was_on_disk_once_is_not_held_again() {
        let policy = Policy {
            check: None,
            id_base: 10_000.try_into().unwrap(),
            first_check: FirstCheck::Skip,
            init_state: false,
            restart_gap: Duration::ZERO,
        };
        let mut files = Files::kept(policy, false);
        files.mark_dirty(&Scope::All);
        let id: InstanceId = "web/web-1".parse().unwrap();
        let drained = AckValue { owner: "me".into(), revision: 7, state: AckState::Drained };
        let draining = AckValue { state: AckState::Draining, ..drained.clone() };
        let mut held = HeldAcks::default();
        let at = Tick::from_ms;
        assert_eq!(held.hold(at(0), &id, Some(&drained), false, &files), Some(draining));
        assert!(held.over(at(10), &files).is_empty());
        files.handle_requests(WriterRequests::settled(files.drawing().unwrap()));
        assert_eq!(held.over(at(20), &files), Scope::Only([id.clone()].into()));
        files.handle_requests(WriterRequests::settled(0));
        assert_eq!(held.hold(at(30), &id, Some(&drained), false, &files), Some(drained));
    }
}
