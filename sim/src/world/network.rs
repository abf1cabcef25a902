//! The way between a process and etcd, and what is wrong with it.

use std::time::Duration;

use registry::time::Tick;

/// A process's way to etcd.
#[derive(Clone, Debug, Default)]
pub(crate) struct Network {
    /// Until when nothing passes.
    pub(crate) cut_until: Tick,
    /// Until when nothing that etcd says arrives.
    pub(crate) deaf_until: Tick,
    /// How much later than usual the messages of watches are, and until when.
    late: (Duration, Tick),
}

impl Network {
    /// Watches are this late until then: the member of etcd that it asks lags behind.
    pub(crate) fn lag(&mut self, late: Duration, until: Tick) {
        self.late = (late, until);
    }

    /// Until when what etcd says does not arrive. TCP sends it again after that.
    pub(crate) fn silent_until(&self) -> Tick {
        self.cut_until.max(self.deaf_until)
    }

    /// How much later than usual a watch's message is that is sent now.
    pub(crate) fn late(&self, now: Tick) -> Duration {
        if now < self.late.1 { self.late.0 } else { Duration::ZERO }
    }

    /// Until when something is wrong with it.
    pub(crate) fn troubled_until(&self) -> Tick {
        let late = if self.late.0.is_zero() { Tick::default() } else { self.late.1.plus(self.late.0) };
        self.silent_until().max(late)
    }
}
