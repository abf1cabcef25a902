//! Keeps one lease: grants it, beats, notices that it is lost, replaces it, revokes it at the end.

use std::time::Duration;

use super::LeaseId;
use crate::backoff::Backoff;
use crate::time::Tick;

/// Waits between attempts to get a lease.
const GRANT_RETRY_FIRST: Duration = Duration::from_millis(50);
const GRANT_RETRY_MAX: Duration = Duration::from_secs(5);
/// Waits after a keepalive that failed. Short: the lease is running out.
const BEAT_RETRY_FIRST: Duration = Duration::from_millis(50);
/// Within a second, or a sixth of the ttl where that is more: thousands that beat again after an etcd was away are spread
/// over that, and each still tries several times before its lease could run out.
const BEAT_RETRY_MAX: Duration = Duration::from_secs(1);
const BEAT_RETRIES_PER_TTL: u32 = 6;
/// Beats within one ttl, so that two may be lost.
const BEATS_PER_TTL: u32 = 3;
/// Attempts to revoke; after that the lease ends by itself within its ttl.
const REVOKE_TRIES_MAX: u32 = 3;

/// What happened.
#[expect(missing_docs, reason = "the text of each variant names its fields")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The moment of [`Keeper::wake_at`] has come.
    Woke,
    /// A lease was granted; the request left at `sent`. `ttl` is the one granted, not the one asked for.
    Granted { lease: LeaseId, ttl: Duration, sent: Tick },
    /// No lease could be had.
    GrantFailed,
    /// A beat that left at `sent` was answered: the lease has its whole ttl again.
    KeptAlive { lease: LeaseId, sent: Tick },
    /// A beat was not answered; says nothing about the lease.
    KeepAliveFailed { lease: LeaseId },
    /// etcd says that there is no such lease (any more).
    Gone { lease: LeaseId },
    /// The process is leaving.
    Release,
    /// The revocation was answered, by "there is no such lease" too.
    Revoked,
    /// The revocation was not answered.
    RevokeFailed,
}

/// What to do.
#[expect(missing_docs, reason = "the text of each variant names its fields")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask for a lease.
    Grant,
    /// Send a beat, wait for its answer at most this long.
    KeepAlive { lease: LeaseId, answer_max: Duration },
    /// Revoke it: its keys go with it.
    Revoke { lease: LeaseId },
    /// The lease under which keys may be believed to stand from now on; `None`: none.
    Hold(Option<LeaseId>),
    /// All done: the lease is revoked, or there was none.
    Done,
}

/// What the keeper is doing. `Held` with `believed` is the only state in which the keys may be believed to stand.
#[derive(Debug)]
enum State {
    /// No lease. `retry_at`: when to ask again; `None` while a grant is under way.
    Granting { retry_at: Option<Tick> },
    /// The lease is ours until `expires`, counted from when the last acknowledged beat was *sent*: the answer may
    /// have been on the wire while etcd's clock already ran. Past it we no longer believe, yet beat on: an etcd
    /// that was away kept no clock, and gives each lease its whole ttl when it returns.
    Held { lease: LeaseId, ttl: Duration, expires: Tick, believed: bool, beat: KeepAlive },
    /// A grant is under way that we no longer want; its lease is revoked when it arrives.
    Abandoning,
    /// Being revoked.
    Releasing { lease: LeaseId, tries: u32 },
    /// The end.
    Done,
}

#[derive(Debug)]
enum KeepAlive {
    Due(Tick),
    UnderWay,
}

/// The lease machine.
#[derive(Debug)]
pub(super) struct Keeper {
    state: State,
    grants: Backoff,
    beats: Backoff,
    seed: u64,
}

impl Keeper {
    /// Starts without a lease; the first [`Input::Woke`] asks for one.
    pub(super) fn new(now: Tick, seed: u64) -> Self {
        Self {
            state: State::Granting { retry_at: Some(now) },
            grants: Backoff::new(GRANT_RETRY_FIRST, GRANT_RETRY_MAX, seed),
            beats: Backoff::new(BEAT_RETRY_FIRST, BEAT_RETRY_MAX, seed.rotate_left(32)),
            seed,
        }
    }

    /// When [`Input::Woke`] is due.
    pub(super) fn wake_at(&self) -> Option<Tick> {
        match &self.state {
            State::Granting { retry_at } => *retry_at,
            State::Held { expires, believed, beat, .. } => {
                let doubt = believed.then_some(*expires);
                let beat = if let KeepAlive::Due(due) = beat { Some(*due) } else { None };
                [doubt, beat].into_iter().flatten().min()
            }
            State::Abandoning | State::Releasing { .. } | State::Done => None,
        }
    }

    /// The next actions.
    pub(super) fn step(&mut self, now: Tick, input: Input) -> Vec<Action> {
        match input {
            Input::Woke => self.woke(now),
            Input::Granted { lease, ttl, sent } => self.granted(lease, ttl, sent),
            Input::GrantFailed => self.grant_failed(now),
            Input::KeptAlive { lease, sent } => self.kept_alive(now, lease, sent),
            Input::KeepAliveFailed { lease } => self.keep_alive_failed(now, lease),
            Input::Gone { lease } => self.gone(lease),
            Input::Release => self.release(),
            Input::Revoked => self.done(),
            Input::RevokeFailed => self.revoke_failed(),
        }
    }

    fn woke(&mut self, now: Tick) -> Vec<Action> {
        match &mut self.state {
            State::Granting { retry_at } if retry_at.is_some_and(|due| now >= due) => {
                *retry_at = None;
                vec![Action::Grant]
            }
            State::Held { lease, ttl, expires, believed, beat } => {
                let mut actions = vec![];
                if *believed && now >= *expires {
                    *believed = false;
                    actions.push(Action::Hold(None));
                }
                if matches!(beat, KeepAlive::Due(due) if now >= *due) {
                    *beat = KeepAlive::UnderWay;
                    actions.push(Action::KeepAlive { lease: *lease, answer_max: *ttl / BEATS_PER_TTL });
                }
                actions
            }
            _ => vec![],
        }
    }

    fn granted(&mut self, lease: LeaseId, ttl: Duration, sent: Tick) -> Vec<Action> {
        match self.state {
            State::Granting { .. } => {
                self.grants.reset();
                let most = BEAT_RETRY_MAX.max(ttl / BEAT_RETRIES_PER_TTL);
                self.seed = self.seed.rotate_left(7);
                self.beats = Backoff::new(BEAT_RETRY_FIRST, most, self.seed);
                let beat = KeepAlive::Due(sent.plus(self.beats.jittered(ttl / BEATS_PER_TTL)));
                self.state = State::Held { lease, ttl, expires: sent.plus(ttl), believed: true, beat };
                vec![Action::Hold(Some(lease))]
            }
            State::Abandoning => self.revoke(lease),
            _ => vec![],
        }
    }

    fn grant_failed(&mut self, now: Tick) -> Vec<Action> {
        match self.state {
            State::Granting { .. } => {
                let retry_at = Some(now.plus(self.grants.after_failure()));
                self.state = State::Granting { retry_at };
                vec![]
            }
            State::Abandoning => self.done(),
            _ => vec![],
        }
    }

    fn kept_alive(&mut self, now: Tick, answered: LeaseId, sent: Tick) -> Vec<Action> {
        let State::Held { lease, ttl, expires, believed, beat } = &mut self.state else {
            return vec![];
        };
        if *lease != answered {
            return vec![];
        }
        self.beats.reset();
        *beat = KeepAlive::Due(sent.plus(self.beats.jittered(*ttl / BEATS_PER_TTL)));
        *expires = sent.plus(*ttl);
        let returned = !*believed && now < *expires;
        *believed |= returned;
        if returned { vec![Action::Hold(Some(answered))] } else { vec![] }
    }

    fn keep_alive_failed(&mut self, now: Tick, failed: LeaseId) -> Vec<Action> {
        if let State::Held { lease, beat, .. } = &mut self.state
            && *lease == failed
        {
            *beat = KeepAlive::Due(now.plus(self.beats.after_failure()));
        }
        vec![]
    }

    /// Replaced at once: "lease lost, never registered again" is the most repeated bug in this field.
    fn gone(&mut self, gone: LeaseId) -> Vec<Action> {
        match self.state {
            State::Held { lease, believed, .. } if lease == gone => {
                self.state = State::Granting { retry_at: None };
                let tell = believed.then_some(Action::Hold(None));
                tell.into_iter().chain([Action::Grant]).collect()
            }
            _ => vec![],
        }
    }

    fn release(&mut self) -> Vec<Action> {
        match self.state {
            State::Held { lease, .. } => self.revoke(lease),
            State::Granting { retry_at: None } => {
                self.state = State::Abandoning;
                vec![]
            }
            State::Granting { retry_at: Some(_) } => self.done(),
            State::Abandoning | State::Releasing { .. } | State::Done => vec![],
        }
    }

    fn revoke(&mut self, lease: LeaseId) -> Vec<Action> {
        self.state = State::Releasing { lease, tries: 1 };
        vec![Action::Revoke { lease }]
    }

    fn revoke_failed(&mut self) -> Vec<Action> {
        match &mut self.state {
            State::Releasing { lease, tries } if *tries < REVOKE_TRIES_MAX => {
                *tries += 1;
                vec![Action::Revoke { lease: *lease }]
            }
            State::Releasing { .. } => self.done(),
            _ => vec![],
        }
    }

    fn done(&mut self) -> Vec<Action> {
        self.state = State::Done;
        vec![Action::Hold(None), Action::Done]
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
