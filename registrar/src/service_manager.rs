//! What the service manager (systemd, `Type=notify`) is told: ready once the port is bound and the app started, and
//! from then on that the main loop goes round.
//!
//! Ready does not wait for the app to be healthy, nor for etcd: a start that is broken off for their trouble would kill
//! the app. Who wants to know asks for health.

use std::process::Command;
use std::time::Duration;

use registry::time::Tick;
use sd_notify::NotifyState;

/// What the service manager puts into our environment: for us, and not for the app.
const OURS: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// Says that we live, as often as the service manager asks for it.
#[derive(Debug)]
pub(crate) struct Pulse {
    /// `None` where nobody watches.
    every: Option<Duration>,
    next: Tick,
}

impl Pulse {
    /// Says that all is started.
    pub(crate) fn ready(now: Tick) -> Self {
        send(NotifyState::Ready);
        // Half of it is asked for; a third leaves room for a turn that comes late.
        Self { every: sd_notify::watchdog_enabled().map(|within| within / 3), next: now }
    }

    /// When it is to be said again.
    pub(crate) fn wake_at(&self) -> Option<Tick> {
        self.every.map(|_| self.next)
    }

    /// To be called at each turn of the loop.
    pub(crate) fn beat(&mut self, now: Tick) {
        if let Some(every) = self.every.filter(|_| now >= self.next) {
            self.next = now.plus(every);
            send(NotifyState::Watchdog);
        }
    }
}

/// Says that the end is near, and wanted.
pub(crate) fn stopping() {
    send(NotifyState::Stopping);
}

/// Keeps what is told us from the app: it would answer in our name.
pub(crate) fn keep_from(app: &mut Command) {
    for name in OURS {
        app.env_remove(name);
    }
}

fn send(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        // A service manager that does not listen will say itself what it missed.
        tracing::debug!("cannot tell the service manager: {error}");
    }
}
