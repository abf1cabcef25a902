//! What the service manager (systemd, `Type=notify`) is told: that lb-sync is ready, that it is alive, how it stands.
//!
//! **Ready** means: the status port is bound, and the first pass in sync with etcd has been made; or, with HAProxy or etcd
//! away, that it has been tried for [`READY_MAX`] and goes on being tried. lb-sync is of use then, too (HAProxy keeps
//! what it has), and a start that waits for others' trouble to end would be broken off and begun anew, for nothing.
//!
//! **Alive** is said from the pass, and nowhere else: a pass that is stuck falls silent, and is restarted.

use std::time::Duration;

use daemon::service_manager::{Message, Watchdog, notify};
use registry::time::{Clock, Tick};

use crate::condition::SyncCondition;

/// Longest that readiness waits for HAProxy and etcd: above the deadline of a call to etcd (3 s), so that an etcd
/// that hangs has been found out by then.
pub const READY_MAX: Duration = Duration::from_secs(5);

/// How lb-sync stands, as far as the service manager is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DaemonStatus {
    in_sync: bool,
    /// HAProxy's version, while it answers.
    haproxy: Option<String>,
    instances: usize,
}

/// What was told, and when.
#[derive(Debug)]
pub struct Manager {
    started: Tick,
    ready: bool,
    watchdog: Watchdog,
    status: String,
}

impl Manager {
    /// Begins now, by what the service manager has put into the environment; nothing is told where there is none.
    #[must_use]
    pub fn of_this_process() -> Self {
        let now = Clock.now();
        Self::new(now, Watchdog::of_this_process(now))
    }

    fn new(now: Tick, watchdog: Watchdog) -> Self {
        Self { started: now, ready: false, watchdog, status: String::new() }
    }

    /// To be called after each turn of the pass, which comes several times a second (its rhythm sees to that).
    pub fn notify_manager(&mut self, condition: &SyncCondition<'_>) {
        let standing = DaemonStatus {
            in_sync: condition.view.in_sync(),
            haproxy: condition.worker.map(|worker| worker.version.to_string()),
            instances: condition.view.instances().len(),
        };
        notify(&self.step(condition.now, &standing));
    }

    fn step(&mut self, now: Tick, standing: &DaemonStatus) -> Vec<Message> {
        let mut messages = vec![];
        let settled = standing.in_sync && standing.haproxy.is_some();
        if !self.ready && (settled || now.since(self.started) >= READY_MAX) {
            self.ready = true;
            messages.push(Message::Ready);
        }
        if self.watchdog.is_due(now) {
            messages.push(Message::Alive);
        }
        let status = standing.to_string();
        if status != self.status {
            self.status.clone_from(&status);
            messages.push(Message::Status(status));
        }
        messages
    }
}

impl std::fmt::Display for DaemonStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.haproxy {
            Some(version) => write!(f, "HAProxy {version}; ")?,
            None => f.write_str("HAProxy does not answer; ")?,
        }
        let sync = if self.in_sync { "in sync" } else { "out of sync" };
        write!(f, "{sync} with etcd; {} instances", self.instances)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WATCHDOG: Duration = Duration::from_mins(1);

    fn at(seconds: u64) -> Tick {
        Tick::from_ms(seconds * 1_000)
    }

    fn standing(in_sync: bool, haproxy: bool) -> DaemonStatus {
        DaemonStatus { in_sync, haproxy: haproxy.then(|| "2.6.12".into()), instances: 3 }
    }

    fn is_ready(messages: &[Message]) -> bool {
        messages.contains(&Message::Ready)
    }

    #[test]
    fn ready_is_said_once_after_the_first_pass_in_sync() {
        let mut manager = Manager::new(at(0), Watchdog::new(at(0), None));
        assert!(!is_ready(&manager.step(at(0), &standing(false, true))));
        let messages = manager.step(at(1), &standing(true, true));
        assert!(is_ready(&messages));
        assert!(messages.contains(&Message::Status("HAProxy 2.6.12; in sync with etcd; 3 instances".into())));
        assert_eq!(manager.step(at(100), &standing(true, true)), []);
    }

    #[test]
    fn others_trouble_holds_readiness_up_for_a_while_only() {
        for (in_sync, haproxy) in [(false, true), (true, false), (false, false)] {
            let mut manager = Manager::new(at(0), Watchdog::new(at(0), None));
            assert!(!is_ready(&manager.step(at(4), &standing(in_sync, haproxy))));
            assert!(is_ready(&manager.step(at(5), &standing(in_sync, haproxy))));
        }
    }

    #[test]
    fn alive_is_said_often_enough_and_only_where_it_is_asked_for() {
        let mut watched = Manager::new(at(0), Watchdog::new(at(0), Some(WATCHDOG)));
        let turns = (0..240).map(|n| watched.step(at(n), &standing(true, true)));
        let alive = turns.filter(|messages| messages.contains(&Message::Alive)).count();
        assert_eq!(alive, 16);
        let mut alone = Manager::new(at(0), Watchdog::new(at(0), None));
        assert!(!alone.step(at(1_000), &standing(true, true)).contains(&Message::Alive));
    }
}
