//! What is due without anything having happened: connecting, a ping that asks which process answers, a glance at the state of
//! all servers, the audit.

use std::time::Duration;

use registry::backoff::Backoff;
use registry::time::Tick;

/// A reload leaves our session with the old worker: it is asked this often whether it has been replaced.
const PING_EVERY: Duration = Duration::from_millis(200);
/// How often everything is read anew, to find what was changed by hand.
const AUDIT_EVERY: Duration = Duration::from_secs(30);
/// A glance takes no more than this part of HAProxy's time: 16 ms at 10,000 servers, 1.6 µs a row (2.6).
const GLANCE_PART: u32 = 100;
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
    /// Read the state of all servers: what HAProxy's checks have found.
    Glance,
    /// Read everything.
    Audit,
}

#[derive(Debug)]
enum State {
    Away { connect_at: Tick },
    Connected { ping_at: Tick, glance_at: Tick, audit_at: Tick },
}

/// When what is due.
#[derive(Debug)]
pub(super) struct Schedule {
    state: State,
    /// As often as HAProxy checks its servers.
    glance_every: Duration,
    backoff: Backoff,
}

impl Schedule {
    /// Connects at once. `check_every`: how often HAProxy checks a server; `None` if never.
    pub(super) fn new(now: Tick, seed: u64, check_every: Option<Duration>) -> Self {
        let backoff = Backoff::new(CONNECT_FIRST, CONNECT_MAX, seed);
        let glance_every = check_every.unwrap_or(AUDIT_EVERY).clamp(PING_EVERY, AUDIT_EVERY);
        Self { state: State::Away { connect_at: now }, glance_every, backoff }
    }

    /// What is due at `now`.
    pub(super) fn due(&self, now: Tick) -> Option<Due> {
        match self.state {
            State::Away { connect_at } => (now >= connect_at).then_some(Due::Connect),
            State::Connected { audit_at, .. } if now >= audit_at => Some(Due::Audit),
            State::Connected { glance_at, .. } if now >= glance_at => Some(Due::Glance),
            State::Connected { ping_at, .. } => (now >= ping_at).then_some(Due::Ping),
        }
    }

    /// When something is due next.
    pub(super) fn wake_at(&self) -> Tick {
        match self.state {
            State::Away { connect_at } => connect_at,
            State::Connected { ping_at, glance_at, audit_at } => ping_at.min(glance_at).min(audit_at),
        }
    }

    /// Everything was read: by an audit, or after connecting.
    pub(super) fn read_all(&mut self, now: Tick) {
        self.backoff.reset();
        self.state = State::Connected {
            ping_at: now.plus(PING_EVERY),
            glance_at: now.plus(self.glance_every),
            audit_at: now.plus(AUDIT_EVERY),
        };
    }

    /// The state of all servers was read, which took so long.
    pub(super) fn glanced(&mut self, now: Tick, took: Duration) {
        if let State::Connected { glance_at, .. } = &mut self.state {
            *glance_at = now.plus(self.glance_every.max(took.saturating_mul(GLANCE_PART)));
        }
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
    fn a_glance_is_as_frequent_as_the_checks_where_it_takes_little() {
        let at = Tick::from_ms;
        let mut schedule = Schedule::new(at(0), 1, Some(Duration::from_secs(2)));
        schedule.read_all(at(0));
        schedule.answered(at(1_900));
        assert_eq!((schedule.due(at(1_999)), schedule.due(at(2_000))), (None, Some(Due::Glance)));
        schedule.answered(at(2_001));
        schedule.glanced(at(2_001), Duration::from_millis(1));
        schedule.answered(at(4_000));
        assert_eq!((schedule.due(at(4_000)), schedule.due(at(4_001))), (None, Some(Due::Glance)));
        schedule.glanced(at(4_101), Duration::from_millis(100));
        schedule.answered(at(14_000));
        assert_eq!((schedule.due(at(14_000)), schedule.due(at(14_101))), (None, Some(Due::Glance)));
    }

    #[test]
    fn a_lost_dialogue_is_begun_anew_at_once_and_failures_are_spaced() {
        let at = Tick::from_ms;
        let mut schedule = Schedule::new(at(0), 1, None);
        assert_eq!(schedule.due(at(0)), Some(Due::Connect));
        schedule.read_all(at(0));
        assert_eq!(schedule.due(at(199)), None);
        assert_eq!(schedule.due(at(200)), Some(Due::Ping));
        schedule.answered(at(200));
        assert_eq!(schedule.wake_at(), at(400));
        assert_eq!(schedule.due(at(30_000)), Some(Due::Audit), "which is a glance, too");
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
