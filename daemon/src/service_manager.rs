//! The service manager (systemd, `Type=notify`): readiness, status line, watchdog. Without one, nothing is said.

use std::process::Command;
use std::time::Duration;

use registry::time::Tick;
use sd_notify::NotifyState;

/// What the service manager puts into our environment: for us, and not for a program that we start.
const OURS: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// A message to the service manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The daemon is ready.
    Ready,
    /// The daemon is alive.
    Alive,
    /// The daemon is about to end, as it was told to.
    Stopping,
    /// A line for `systemctl status`.
    Status(String),
}

/// When the watchdog wants a sign of life. A machine without I/O.
#[derive(Clone, Debug)]
pub struct Watchdog {
    /// `None` where no watchdog runs.
    every: Option<Duration>,
    next: Tick,
}

impl Watchdog {
    /// Of this process, by its environment.
    #[must_use]
    pub fn of_this_process(now: Tick) -> Self {
        Self::new(now, sd_notify::watchdog_enabled())
    }

    /// A watchdog that ends the process after `within` without a sign of life.
    #[must_use]
    pub fn new(now: Tick, within: Option<Duration>) -> Self {
        // At least each half is asked for; a quarter leaves room for a turn that takes its time.
        Self { every: within.map(|within| within / 4), next: now }
    }

    /// When a sign of life is due.
    #[must_use]
    pub fn wake_at(&self) -> Option<Tick> {
        self.every.map(|_| self.next)
    }

    /// Whether a sign of life is due. If so, it counts as given.
    pub fn is_due(&mut self, now: Tick) -> bool {
        let Some(every) = self.every.filter(|_| now >= self.next) else { return false };
        self.next = now.plus(every);
        true
    }
}

/// Sends the messages.
pub fn notify(messages: &[Message]) {
    let state = |message| match message {
        &Message::Ready => NotifyState::Ready,
        &Message::Alive => NotifyState::Watchdog,
        &Message::Stopping => NotifyState::Stopping,
        Message::Status(status) => NotifyState::Status(status),
    };
    let states: Vec<NotifyState<'_>> = messages.iter().map(state).collect();
    if let (Err(error), false) = (sd_notify::notify(&states), states.is_empty()) {
        // A service manager that does not listen will say itself what it missed.
        tracing::debug!("cannot notify the service manager: {error}");
    }
}

/// Keeps the service manager's variables from a program that we start: it would answer in our name.
pub fn hide_from(program: &mut Command) {
    for name in OURS {
        program.env_remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_of_life_is_due_each_quarter_and_never_without_a_watchdog() {
        let at = Tick::from_ms;
        let mut watchdog = Watchdog::new(at(0), Some(Duration::from_secs(4)));
        assert!(watchdog.is_due(at(0)) && !watchdog.is_due(at(999)) && watchdog.is_due(at(1_000)));
        assert_eq!(watchdog.wake_at(), Some(at(2_000)));
        let mut none = Watchdog::new(at(0), None);
        assert!(!none.is_due(at(9_000)) && none.wake_at().is_none());
    }
}
