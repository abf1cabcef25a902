//! The way between a process and etcd, and what is wrong with it.

use std::time::Duration;

use registry::time::Tick;

/// What a watch has lost is found by a list within this (`registry::follow`: every 5 to 10 minutes).
pub(crate) const LISTED_WITHIN: Duration = Duration::from_mins(10);

/// A process's way to etcd.
#[derive(Clone, Debug, Default)]
pub(crate) struct Network {
    /// Until when nothing passes.
    pub(crate) cut_until: Tick,
    /// Until when nothing that etcd says arrives.
    pub(crate) deaf_until: Tick,
    /// How much later than usual the messages of watches are, and until when.
    late: (Duration, Tick),
    /// Until when the events of watches are lost.
    eventless_until: Tick,
}

impl Network {
    /// Watches are this late until then: the member of etcd that it asks lags behind.
    pub(crate) fn lag(&mut self, late: Duration, until: Tick) {
        self.late = (late, until);
    }

    /// Events of watches are lost until then.
    pub(crate) fn lose_events(&mut self, until: Tick) {
        self.eventless_until = until;
    }

    /// Whether events of watches that are sent now are lost.
    pub(crate) fn loses_events(&self, now: Tick) -> bool {
        now < self.eventless_until
    }

    /// When what was lost has been found by a list, at the latest.
    pub(crate) fn complete_at(&self) -> Tick {
        let lost = self.eventless_until != Tick::default();
        if lost { self.eventless_until.plus(LISTED_WITHIN) } else { Tick::default() }
    }

    /// Until when what etcd says does not arrive. TCP sends it again after that.
    pub(crate) fn silent_until(&self) -> Tick {
        self.cut_until.max(self.deaf_until)
    }

    /// How much later than usual a watch's message is that is sent now.
    pub(crate) fn late(&self, now: Tick) -> Duration {
        if now < self.late.1 { self.late.0 } else { Duration::ZERO }
    }

    /// How much later than usual a watch's message is that arrives now.
    pub(crate) fn late_still(&self, now: Tick) -> Duration {
        if now < self.late.1.plus(self.late.0) { self.late.0 } else { Duration::ZERO }
    }

    /// Until when something is wrong with it.
    pub(crate) fn troubled_until(&self) -> Tick {
        let late = if self.late.0.is_zero() { Tick::default() } else { self.late.1.plus(self.late.0) };
        self.silent_until().max(late)
    }
}
