//! What the task that holds a lease has counted, for metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts since the start; they only grow. Read by others while the task goes on.
#[derive(Debug, Default)]
pub struct Counts {
    pub(super) beats: AtomicU64,
    pub(super) beats_late: AtomicU64,
    pub(super) leases_lost: AtomicU64,
}

impl Counts {
    /// Beats that etcd has acknowledged.
    #[must_use]
    pub fn beats(&self) -> u64 {
        self.beats.load(Relaxed)
    }

    /// Those of them that were sent when half of the ttl had gone since the last: there should be one each third.
    #[must_use]
    pub fn beats_late(&self) -> u64 {
        self.beats_late.load(Relaxed)
    }

    /// Leases that were lost: run out, or gone by etcd's word.
    #[must_use]
    pub fn leases_lost(&self) -> u64 {
        self.leases_lost.load(Relaxed)
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
