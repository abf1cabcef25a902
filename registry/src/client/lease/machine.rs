//! Keeps a lease and the keys under it: [`Keeper`] and [`Ledger`] together, and what passes between them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::LeaseId;
use super::keeper::{self, Keeper};
use super::ledger::{self, Fence, Ledger};
use super::metrics::{LeaseMetrics, count};
use crate::backoff::Backoff;
use crate::time::Tick;

/// Longest that a release waits for the last write.
const LAST_WRITE_MAX: Duration = Duration::from_secs(1);

/// How things stand with the lease and its keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseStatus {
    /// The lease that is held, if one is.
    pub lease: Option<LeaseId>,
    /// Everything asked for up to command number `seq` stands in etcd under `lease`.
    pub settled: bool,
    /// How many commands have been received.
    pub seq: u64,
    /// Keys that a newer owner took over.
    pub superseded: BTreeSet<String>,
    /// The revision of our last write of each fenced key.
    pub revisions: BTreeMap<String, i64>,
    /// The fenced keys that stand in etcd under `lease`, each with the value that was put last.
    pub standing: BTreeSet<String>,
    /// The lease is revoked, or given up: the task has ended.
    pub released: bool,
    /// What the last call to etcd failed with; `None` once one succeeded.
    pub trouble: Option<String>,
    /// How often etcd was seen to have another history than before. What is fenced is written again by itself; who put other
    /// keys says which of them still hold ([`Input::Doubt`]).
    pub histories: u64,
}

impl LeaseStatus {
    /// Whether all commands up to `seq` have come to stand in etcd.
    #[must_use]
    pub fn settled_since(&self, seq: u64) -> bool {
        self.settled && self.seq >= seq
    }
}

/// How often etcd is asked which keys stand under the lease: one that was deleted by hand, or that another history of etcd
/// lacks, is written again.
const VERIFY_EVERY: Duration = Duration::from_secs(30);

/// What etcd says of itself with an answer. Both only grow, but where its history was replaced: by a wipe, or by a restored
/// backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Its revision.
    pub revision: i64,
    /// Its raft term: a restored cluster begins anew.
    pub raft_term: u64,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The moment of [`Machine::wake_at`] has come.
    Woke,
    /// The call about the lease was answered, or failed with `trouble`.
    Lease {
        /// What came of it.
        answer: keeper::Input,
        /// The error, in words.
        trouble: Option<String>,
        /// etcd's header, where it answered.
        header: Option<Header>,
    },
    /// The keys that stand under a lease, or none where the question failed.
    Verified {
        /// The lease that was asked about.
        lease: LeaseId,
        /// Its keys.
        keys: Option<BTreeSet<String>>,
    },
    /// The write was answered, or failed with `trouble`.
    Write {
        /// What came of it.
        answer: ledger::Input,
        /// The error, in words.
        trouble: Option<String>,
    },
    /// This key is to stand, with this value.
    Put {
        /// The key, whole.
        key: String,
        /// The value.
        value: Vec<u8>,
        /// Whether others may hold the same key.
        fence: Fence,
    },
    /// This key is to go.
    Remove {
        /// The key, whole.
        key: String,
    },
    /// What is believed to stand may not: everything is written again.
    Doubt,
    /// Revoke the lease, with all its keys. Nothing comes after it.
    Release,
}

/// What to do. At most one call about the lease and one write are under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask for a lease of this ttl.
    Grant(Duration),
    /// Send a keepalive; wait for its answer at most this long.
    KeepAlive {
        /// For this lease.
        lease: LeaseId,
        /// Longest wait.
        answer_max: Duration,
    },
    /// Revoke this lease.
    Revoke(LeaseId),
    /// Write and delete keys.
    Write(ledger::Action),
    /// Ask which keys stand under this lease.
    Verify(LeaseId),
}

/// The machine.
#[derive(Debug)]
pub struct Machine {
    ttl: Duration,
    keeper: Keeper,
    ledger: Ledger,
    status: LeaseStatus,
    /// Told to leave: the lease's end is no news then. Until this moment what was put last is written first, so that others
    /// learn why the key goes: a record that says `down` or `draining` has not expired.
    releasing: Option<Tick>,
    /// The keeper has been told to revoke.
    is_told_to_release: bool,
    /// When etcd is asked which keys stand.
    verify_at: Option<Tick>,
    /// Spreads that over time, for thousands of processes.
    spread: Backoff,
    /// What etcd said last of itself.
    header: Option<Header>,
    metrics: Arc<LeaseMetrics>,
    /// When the last keepalive that was acknowledged was sent.
    kept_alive: Option<Tick>,
}

impl Machine {
    /// Asks for a lease of `ttl` at once. `seeds` spread the waits of the keeper and of the ledger.
    #[must_use]
    pub fn new(now: Tick, ttl: Duration, seeds: [u64; 2], metrics: Arc<LeaseMetrics>) -> Self {
        let [keeper, ledger] = seeds;
        Self {
            ttl,
            keeper: Keeper::new(now, keeper),
            ledger: Ledger::new(ledger),
            status: LeaseStatus::default(),
            releasing: None,
            is_told_to_release: false,
            verify_at: None,
            spread: Backoff::new(VERIFY_EVERY, VERIFY_EVERY, keeper.rotate_left(17)),
            header: None,
            metrics,
            kept_alive: None,
        }
    }

    /// When [`Input::Woke`] is due.
    #[must_use]
    pub fn wake_at(&self) -> Option<Tick> {
        let release = self.releasing.filter(|_| !self.is_told_to_release);
        [self.keeper.wake_at(), self.ledger.wake_at(), release, self.verify_at].into_iter().flatten().min()
    }

    /// How things stand.
    #[must_use]
    pub fn status(&self) -> &LeaseStatus {
        &self.status
    }

    /// The next actions.
    pub fn step(&mut self, now: Tick, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        match input {
            Input::Woke => {
                self.step_keeper(now, keeper::Input::Woke, &mut actions);
                self.step_ledger(now, ledger::Input::Woke, &mut actions);
                if self.verify_at.is_some_and(|at| now >= at) {
                    self.verify_at = None;
                    actions.extend(self.status.lease.map(Action::Verify));
                }
            }
            Input::Verified { lease, keys } => {
                self.verify_at = Some(now.plus(self.spread.jittered(VERIFY_EVERY)));
                if let Some(keys) = keys {
                    self.step_ledger(now, ledger::Input::FoundKeys { lease, keys }, &mut actions);
                }
            }
            Input::Lease { answer, trouble, header } => {
                let before = header.and_then(|header| self.header.replace(header));
                let ran_backwards = before.zip(header).is_some_and(|(before, header)| {
                    header.revision < before.revision || header.raft_term < before.raft_term
                });
                if ran_backwards {
                    tracing::warn!(
                        "etcd was wiped or restored: all that stands there of ours is written again"
                    );
                    self.status.histories += 1;
                    self.step_ledger(now, ledger::Input::DoubtFenced, &mut actions);
                }
                self.count(&answer);
                self.status.trouble = trouble;
                self.step_keeper(now, answer, &mut actions);
            }
            Input::Write { answer, trouble } => {
                self.status.trouble = trouble;
                // The lease of the write that was answered: by now another one may be held.
                let gone = self.ledger.writes_under().filter(|_| answer == ledger::Input::LeaseGone);
                self.step_ledger(now, answer, &mut actions);
                if let Some(lease) = gone {
                    self.step_keeper(now, keeper::Input::Gone { lease }, &mut actions);
                }
            }
            Input::Put { key, value, fence } => {
                self.status.seq += 1;
                self.step_ledger(now, ledger::Input::Put { key, value, fence }, &mut actions);
            }
            Input::Remove { key } => {
                self.status.seq += 1;
                self.step_ledger(now, ledger::Input::Remove { key }, &mut actions);
            }
            Input::Doubt => {
                self.status.seq += 1;
                self.step_ledger(now, ledger::Input::Doubt, &mut actions);
            }
            Input::Release => {
                self.status.seq += 1;
                self.releasing.get_or_insert(now.plus(LAST_WRITE_MAX));
            }
        }
        self.release_if_due(now, &mut actions);
        self.status.settled = self.ledger.settled();
        if !self.ledger.revisions().eq(self.status.revisions.iter().map(|(key, at)| (&**key, *at))) {
            self.status.revisions = self.ledger.revisions().map(|(key, at)| (key.to_owned(), at)).collect();
        }
        if !self.ledger.standing().eq(self.status.standing.iter().map(|key| &**key)) {
            self.status.standing = self.ledger.standing().map(str::to_owned).collect();
        }
        if self.status.superseded != *self.ledger.superseded() {
            self.status.superseded.clone_from(self.ledger.superseded());
        }
        actions
    }

    /// Revokes the lease once what was put last is written, or cannot be.
    fn release_if_due(&mut self, now: Tick, actions: &mut Vec<Action>) {
        let Some(until) = self.releasing else { return };
        let is_written =
            self.ledger.settled() || self.status.lease.is_none() || self.status.trouble.is_some();
        if !self.is_told_to_release && (is_written || now >= until) {
            self.is_told_to_release = true;
            self.step_keeper(now, keeper::Input::Release, actions);
        }
    }

    fn step_keeper(&mut self, now: Tick, input: keeper::Input, actions: &mut Vec<Action>) {
        for action in self.keeper.step(now, input) {
            match action {
                keeper::Action::Grant => actions.push(Action::Grant(self.ttl)),
                keeper::Action::KeepAlive { lease, answer_max } => {
                    actions.push(Action::KeepAlive { lease, answer_max });
                }
                keeper::Action::Revoke { lease } => actions.push(Action::Revoke(lease)),
                keeper::Action::Hold(lease) => {
                    if let (Some(lost), None, false) = (self.status.lease, lease, self.releasing.is_some()) {
                        count(&self.metrics.leases_lost);
                        tracing::warn!(lease = format!("{lost:x}"), "lease lost");
                    }
                    self.status.lease = lease;
                    self.verify_at = lease.map(|_| now.plus(self.spread.jittered(VERIFY_EVERY)));
                    self.step_ledger(now, ledger::Input::Lease(lease), actions);
                }
                keeper::Action::Done => self.status.released = true,
            }
        }
    }

    fn step_ledger(&mut self, now: Tick, input: ledger::Input, actions: &mut Vec<Action>) {
        actions.extend(self.ledger.step(now, input).into_iter().map(Action::Write));
    }

    fn count(&mut self, answer: &keeper::Input) {
        match answer {
            keeper::Input::Granted { sent, .. } => self.kept_alive = Some(*sent),
            keeper::Input::KeptAlive { sent, .. } => {
                count(&self.metrics.keep_alives);
                if self.kept_alive.is_some_and(|last| sent.since(last) > self.ttl / 2) {
                    count(&self.metrics.keep_alives_late);
                }
                self.kept_alive = Some(*sent);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn at(ms: u64) -> Tick {
        Tick::from_ms(ms)
    }

    fn machine() -> Machine {
        Machine::new(at(0), TTL, [1, 2], Arc::default())
    }

    fn lease(answer: keeper::Input) -> Input {
        Input::Lease { answer, trouble: None, header: None }
    }

    fn granted(machine: &mut Machine, ms: u64, id: LeaseId) -> Vec<Action> {
        machine.step(at(ms), lease(keeper::Input::Granted { lease: id, ttl: TTL, sent: at(ms) }))
    }

    fn put(key: &str) -> Input {
        Input::Put { key: key.into(), value: b"v".to_vec(), fence: Fence::None }
    }

    #[test]
    fn what_is_put_stands_once_a_lease_is_held_and_it_is_written() {
        let mut machine = machine();
        assert_eq!(machine.step(at(0), Input::Woke), [Action::Grant(TTL)]);
        assert_eq!(machine.step(at(0), put("a")), []);
        assert!(!machine.status().settled_since(1));
        let write = granted(&mut machine, 1, 7);
        assert!(matches!(&write[..], [Action::Write(ledger::Action::Write { lease: 7, .. })]), "{write:?}");
        let written = ledger::Input::Written { revision: 3 };
        assert_eq!(machine.step(at(2), Input::Write { answer: written, trouble: None }), []);
        assert!(machine.status().settled_since(1) && machine.status().lease == Some(7));
    }

    /// Before, the answer to a write under the old lease had the present one replaced: a needless grant, a warning, and a
    /// moment without a lease.
    #[test]
    fn a_late_lease_gone_of_an_old_write_does_not_end_the_present_lease() {
        let mut machine = machine();
        machine.step(at(0), Input::Woke);
        granted(&mut machine, 1, 7);
        machine.step(at(2), put("a"));
        // The write is under way under lease 7, which etcd then says is gone; another one is granted.
        let actions = machine.step(at(3), lease(keeper::Input::Gone { lease: 7 }));
        assert_eq!(actions, [Action::Grant(TTL)]);
        granted(&mut machine, 4, 8);
        let late = Input::Write { answer: ledger::Input::LeaseGone, trouble: Some("gone".into()) };
        let actions = machine.step(at(5), late);
        assert!(!actions.contains(&Action::Grant(TTL)), "{actions:?}");
        assert!(
            matches!(&actions[..], [Action::Write(ledger::Action::Write { lease: 8, .. })]),
            "{actions:?}"
        );
        assert_eq!(machine.status().lease, Some(8));
        assert_eq!(machine.metrics.leases_lost(), 1);
    }

    #[test]
    fn a_write_that_finds_the_present_lease_gone_has_it_replaced() {
        let mut machine = machine();
        machine.step(at(0), Input::Woke);
        granted(&mut machine, 1, 7);
        machine.step(at(2), put("a"));
        let gone = Input::Write { answer: ledger::Input::LeaseGone, trouble: None };
        assert!(machine.step(at(3), gone).contains(&Action::Grant(TTL)));
        assert_eq!(machine.status().lease, None);
    }

    /// An ack answers a revision, which means something else in another history: who wrote it says whether it still holds.
    #[test]
    fn another_history_has_what_is_fenced_written_again_and_the_rest_left_to_who_wrote_it() {
        let mut machine = machine();
        machine.step(at(0), Input::Woke);
        let header = |revision| Some(Header { revision, raft_term: 2 });
        let granted = keeper::Input::Granted { lease: 7, ttl: TTL, sent: at(0) };
        machine.step(at(1), Input::Lease { answer: granted, trouble: None, header: header(30) });
        machine.step(at(2), put("ack"));
        let written = |revision| Input::Write { answer: ledger::Input::Written { revision }, trouble: None };
        machine.step(at(3), written(31));
        let fence = Fence::Owner("me".into());
        machine.step(at(3), Input::Put { key: "record".into(), value: b"v".to_vec(), fence });
        machine.step(at(4), written(32));
        assert!(machine.status().settled && machine.status().histories == 0);
        let kept_alive = keeper::Input::KeptAlive { lease: 7, sent: at(5) };
        let actions =
            machine.step(at(6), Input::Lease { answer: kept_alive, trouble: None, header: header(12) });
        let [Action::Write(ledger::Action::WriteFenced { key, .. })] = &actions[..] else {
            panic!("{actions:?}");
        };
        assert_eq!((key.as_str(), machine.status().histories), ("record", 1));
    }

    #[test]
    fn a_release_ends_with_the_revocation() {
        let mut machine = machine();
        machine.step(at(0), Input::Woke);
        granted(&mut machine, 1, 7);
        assert_eq!(machine.step(at(2), Input::Release), [Action::Revoke(7)]);
        assert!(!machine.status().released);
        machine.step(at(3), lease(keeper::Input::Revoked));
        assert!(machine.status().released && machine.metrics.leases_lost() == 0);
    }
}
