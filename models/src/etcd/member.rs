//! The members: how far each has applied the log, and whether it is linked to the others.

use std::time::Duration;

use registry::time::Tick;

use super::history::History;

/// A member.
#[derive(Clone, Debug)]
pub(super) struct Member {
    /// The newest revision that it has applied.
    pub(super) applied: i64,
    /// How much later than the leader it applies a revision.
    pub(super) lag: Duration,
    /// Cut off from the others: it applies nothing, and no call that needs the quorum is answered.
    pub(super) cut_off: bool,
}

impl Member {
    pub(super) fn new(applied: i64) -> Self {
        Self { applied, lag: Duration::ZERO, cut_off: false }
    }

    /// When it applies the next revision, which may be long ago for one that was cut off; `None` if it has all of them, or is
    /// cut off.
    pub(super) fn applies_at(&self, history: &History) -> Option<Tick> {
        if self.cut_off || self.applied >= history.revision() {
            return None;
        }
        let (_, next) = history.revisions(self.applied + 1..).next()?;
        Some(next.time.plus(self.lag))
    }

    /// When it has applied `revision`; `None` if it is cut off and has not.
    pub(super) fn has_applied_at(&self, history: &History, revision: i64) -> Option<Tick> {
        if revision <= self.applied {
            return Some(Tick::default());
        }
        if self.cut_off {
            return None;
        }
        Some(history.time_of(revision)?.plus(self.lag))
    }
}
