//! What has happened, in a bounded ring: each change of a server with its cause and the commands, and what concerns all.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use registry::time::Clock;
use serde::Serialize;
use tokio::sync::mpsc;

/// Happenings that are remembered: some 200 kB.
const HAPPENINGS_MAX: usize = 500;

/// One thing that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JournalEvent {
    /// When, RFC 3339.
    pub at: String,
    /// `service/instance`; null where it concerns all.
    pub instance: Option<String>,
    /// What was done.
    pub what: String,
    /// Why.
    pub why: String,
    /// etcd's revision of the record that it follows; null where there is none (any more).
    pub revision: Option<i64>,
    /// How long HAProxy took to answer the request that it was part of, in microseconds.
    pub took_us: Option<u64>,
    /// The lines on HAProxy's socket.
    pub commands: Vec<String>,
    /// What HAProxy said, where it refused.
    pub refused: Option<String>,
}

/// The ring. Clones are the same ring.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    ring: Arc<Mutex<VecDeque<Arc<JournalEvent>>>>,
    /// Who writes it down.
    file: Option<mpsc::Sender<Arc<JournalEvent>>>,
}

impl Journal {
    /// Hands everything on to `file` as well.
    pub(super) fn written_to(file: Option<mpsc::Sender<Arc<JournalEvent>>>) -> Self {
        Self { ring: Arc::default(), file }
    }

    /// Remembers it, with the time of now.
    pub fn record(&self, mut event: JournalEvent) {
        event.at = humantime::format_rfc3339_millis(Clock.time_of_day()).to_string();
        // A panic with the lock held leaves the ring whole: an element is pushed or not.
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.len() >= HAPPENINGS_MAX {
            ring.pop_front();
        }
        let event = Arc::new(event);
        if let Some(file) = &self.file
            && file.try_send(Arc::clone(&event)).is_err()
        {
            tracing::error!(what = event.what, "not in the audit file: the disk does not keep up");
        }
        ring.push_back(event);
    }

    /// Something that concerns all.
    pub fn record_all(&self, what: impl Into<String>, why: impl Into<String>) {
        self.record(JournalEvent { what: what.into(), why: why.into(), ..JournalEvent::default() });
    }

    /// All that is remembered, the latest first.
    #[must_use]
    pub fn latest(&self) -> Vec<Arc<JournalEvent>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_kept() {
        let journal = Journal::default();
        for n in 0..2 * HAPPENINGS_MAX {
            journal.record_all(n.to_string(), "");
        }
        let latest = journal.latest();
        assert_eq!(latest.len(), HAPPENINGS_MAX);
        assert_eq!(latest[0].what, (2 * HAPPENINGS_MAX - 1).to_string());
    }
}
