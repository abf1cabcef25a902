//! What is due without anything having happened: connecting, a ping that asks which process answers, the audit.

use std::time::Duration;

use registry::backoff::Backoff;
use registry::time::Tick;

/// A reload leaves our session with the old worker: it is asked this often whether it has been replaced.
const PING_EVERY: Duration = Duration::from_millis(200);
/// How often everything is read anew, to find what was changed by hand.
const AUDIT_EVERY: Duration = Duration::from_secs(30);
/// Waits between attempts to connect: a restarted HAProxy serves no instance until we are back.
const CONNECT_FIRST: Duration = Duration::from_millis(5);
const CONNECT_MAX: Duration = Duration::from_millis(250);

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Connect to HAProxy, and read everything.
    Connect,
    /// Ask which process answers.
    Ping,
    /// Read everything.
    Audit,
}

#[derive(Debug)]
enum State {
    Away { connect_at: Tick },
    Connected { ping_at: Tick, audit_at: Tick },
}

/// When what is due.
#[derive(Debug)]
pub(super) struct Schedule {
    state: State,
    backoff: Backoff,
}

impl Schedule {
    /// Connects at once.
    pub(super) fn new(now: Tick, seed: u64) -> Self {
        let backoff = Backoff::new(CONNECT_FIRST, CONNECT_MAX, seed);
        Self { state: State::Away { connect_at: now }, backoff }
    }

    /// What is due at `now`.
    pub(super) fn due(&self, now: Tick) -> Option<Due> {
        match self.state {
            State::Away { connect_at } => (now >= connect_at).then_some(Due::Connect),
            State::Connected { audit_at, .. } if now >= audit_at => Some(Due::Audit),
            State::Connected { ping_at, .. } => (now >= ping_at).then_some(Due::Ping),
        }
    }

    /// When something is due next.
    pub(super) fn wake_at(&self) -> Tick {
        match self.state {
            State::Away { connect_at } => connect_at,
            State::Connected { ping_at, audit_at } => ping_at.min(audit_at),
        }
    }

    /// Everything was read: by an audit, or after connecting.
    pub(super) fn read_all(&mut self, now: Tick) {
        self.backoff.reset();
        self.state = State::Connected { ping_at: now.plus(PING_EVERY), audit_at: now.plus(AUDIT_EVERY) };
    }

    /// HAProxy answered, and it was the process that is known.
    pub(super) fn answered(&mut self, now: Tick) {
        if let State::Connected { ping_at, .. } = &mut self.state {
            *ping_at = now.plus(PING_EVERY);
        }
    }

    /// The dialogue is over. A working one is begun anew at once, a failed attempt after a wait.
    pub(super) fn lost(&mut self, now: Tick) {
        let wait = match self.state {
            State::Connected { .. } => Duration::ZERO,
            State::Away { .. } => self.backoff.after_failure(),
        };
        self.state = State::Away { connect_at: now.plus(wait) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_dialogue_is_begun_anew_at_once_and_failures_are_spaced() {
        let at = Tick::from_ms;
        let mut schedule = Schedule::new(at(0), 1);
        assert_eq!(schedule.due(at(0)), Some(Due::Connect));
        schedule.read_all(at(0));
        assert_eq!(schedule.due(at(199)), None);
        assert_eq!(schedule.due(at(200)), Some(Due::Ping));
        schedule.answered(at(200));
        assert_eq!(schedule.wake_at(), at(400));
        assert_eq!(schedule.due(at(30_000)), Some(Due::Audit));
        schedule.lost(at(30_001));
        assert_eq!(schedule.due(at(30_001)), Some(Due::Connect));
        schedule.lost(at(30_001));
        assert_eq!(schedule.due(at(30_001)), None);
        for _ in 0..50 {
            let now = schedule.wake_at();
            schedule.lost(now);
            assert!(schedule.wake_at().since(now) <= CONNECT_MAX);
        }
    }
}
