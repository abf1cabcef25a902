//! What the task that holds a lease has counted, for metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts since the start; they only grow. Read by others while the task goes on.
#[derive(Debug, Default)]
pub struct LeaseMetrics {
    pub(super) keep_alives: AtomicU64,
    pub(super) keep_alives_late: AtomicU64,
    pub(super) leases_lost: AtomicU64,
}

impl LeaseMetrics {
    /// Beats that etcd has acknowledged.
    #[must_use]
    pub fn keep_alives(&self) -> u64 {
        self.keep_alives.load(Relaxed)
    }

    /// Those of them that were sent when half of the ttl had gone since the last: there should be one each third.
    #[must_use]
    pub fn keep_alives_late(&self) -> u64 {
        self.keep_alives_late.load(Relaxed)
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
