//! Which history of etcd a follower has seen, and how far.

use registry::follow::{Change, Event};

/// The cluster that was listed from, and the highest revision that was seen of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub(crate) cluster: u64,
    pub(crate) revision: i64,
}

impl Source {
    /// Takes `event` in. True for a list of another history than before: of another cluster, or with revisions that ran backwards.
    /// etcd was wiped or restored.
    pub(crate) fn take(known: &mut Option<Self>, event: &Event) -> bool {
        match (event, known.as_mut()) {
            (Event::Listed { cluster, revision, .. }, before) => {
                let is_another =
                    before.is_some_and(|before| before.cluster != *cluster || *revision < before.revision);
                *known = Some(Self { cluster: *cluster, revision: *revision });
                is_another
            }
            (Event::Changed(changes), Some(known)) => {
                let newest = changes.iter().map(Change::mod_revision).max();
                known.revision = known.revision.max(newest.unwrap_or(0));
                false
            }
            _ => false,
        }
    }
}
