//! What goes wrong with a cluster, and what an operator does to it.

use std::time::Duration;

use registry::follow::{Change, Entry};
use registry::lease::LeaseId;
use registry::time::Tick;

use super::history::History;
use super::lease::Leases;
use super::member::Member;
use super::{Availability, Error, Etcd, FIRST_TERM, Header, Op, Txn, TxnAnswer, WatchId};

/// Bugs of some versions of etcd. The versions are those of the 3.4 series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own, and any may be combined")]
pub struct Quirks {
    /// An answer to a request for progress overtakes the changes before it, and comes although the watch is behind
    /// (etcd #15220; up to 3.4.24; `etcdserver/api/v3rpc/watch.go`, `recvLoop`).
    pub progress_overtakes: bool,
    /// A watch that is slow, and whose next revision gets compacted, goes on at the present: the changes in between are
    /// lost without a cancellation (etcd #17529; up to 3.4.30; `mvcc/watchable_store.go`, `syncWatchers`).
    pub slow_watch_loses_events: bool,
    /// A watch from the compacted revision on does not get the deletions of that revision (etcd #18089, #19179; up to
    /// 3.4.33; `mvcc/key_index.go`, `keep`).
    pub compaction_drops_delete: bool,
    /// After its member got a snapshot of the store, a watch gets changes again that it has had (up to 3.4.24;
    /// `mvcc/watchable_store.go`, `notify`).
    pub repeats_after_snapshot: bool,
    /// After its member got a snapshot of the store, a watch of the future gets changes from before its revision
    /// (etcd #20221; up to 3.4.37; `mvcc/watchable_store.go`, `syncWatchers`).
    pub early_after_snapshot: bool,
}

impl Quirks {
    /// All of them, as Debian 12's etcd 3.4.23 has.
    pub const V3_4_23: Self = Self {
        progress_overtakes: true,
        slow_watch_loses_events: true,
        compaction_drops_delete: true,
        repeats_after_snapshot: true,
        early_after_snapshot: true,
    };

    /// Those of etcd 3.`minor`.`patch`, from 3.4.0 on.
    #[must_use]
    pub fn of(minor: u32, patch: u32) -> Self {
        // The first release of 3.4, 3.5 and 3.6 without the bug; 3.7 never had one of them.
        let before = |[v3_4, v3_5, v3_6]: [u32; 3]| match minor {
            ..=4 => patch < v3_4,
            5 => patch < v3_5,
            6 => patch < v3_6,
            _ => false,
        };
        Self {
            progress_overtakes: before([25, 8, 0]),
            slow_watch_loses_events: before([31, 13, 0]),
            compaction_drops_delete: before([34, 16, 0]),
            repeats_after_snapshot: before([25, 8, 0]),
            early_after_snapshot: before([38, 22, 2]),
        }
    }
}

/// A copy of the store, as `etcdctl snapshot save` makes it: keys with their history, and leases.
#[derive(Clone, Debug)]
pub struct Backup {
    history: History,
    leases: Leases,
}

impl Backup {
    /// The newest revision in it.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.history.revision()
    }
}

impl Etcd {
    /// Sets the bugs that it has.
    pub fn set_quirks(&mut self, quirks: Quirks) {
        self.quirks = quirks;
    }

    /// There is another leader at once: each lease has its whole ttl again, and a second (`lease/lessor.go`, `Promote`).
    pub fn lead_change(&mut self, now: Tick) {
        self.advance(now);
        self.raft_term += 1;
        if self.availability == Availability::Up {
            self.leases.promote(now);
        }
    }

    /// Every member ends, or there is no quorum. All streams end; those are returned. No lease runs out.
    pub fn outage(&mut self, now: Tick) -> Vec<WatchId> {
        self.advance(now);
        self.availability = Availability::Down;
        self.watches.close_all(None)
    }

    /// It is back, with everything it had, and a leader.
    pub fn back(&mut self, now: Tick) {
        if self.availability == Availability::Down {
            self.availability = Availability::Up;
            self.raft_term += 1;
            self.leases.promote(now);
            self.advance(now);
        }
    }

    /// Every process is stopped (SIGSTOP, a frozen disk): nothing is answered, streams stay, the clock of leases runs on.
    pub fn hang(&mut self, now: Tick) {
        self.advance(now);
        if self.availability == Availability::Up {
            self.availability = Availability::Hanging;
        }
    }

    /// It goes on. Leases that ran out in the meantime end at once: no new leader was elected, and the look is overdue.
    pub fn resume(&mut self, now: Tick) {
        if self.availability == Availability::Hanging {
            self.availability = Availability::Up;
            if self.leases.look_at().is_some_and(|due| due <= now) {
                self.look(now);
            }
            self.advance(now);
        }
    }

    /// `member` applies revisions `lag` later than they are committed, from now on.
    pub fn lag(&mut self, now: Tick, member: usize, lag: Duration) {
        self.advance(now);
        if let Some(member) = self.members.get_mut(member) {
            member.lag = lag;
        }
        self.advance(now);
    }

    /// `member` is cut off from the others: it applies nothing, its watches are silent, and calls through it fail. Reads
    /// that are not linearizable are answered. With `require_leader`, streams end after some seconds: [`Self::close_streams`].
    pub fn cut_off(&mut self, now: Tick, member: usize) {
        self.advance(now);
        if let Some(member) = self.members.get_mut(member) {
            member.cut_off = true;
        }
    }

    /// `member` is linked again. It gets what it missed from the log, or for `snapshot` as a copy of the store: then its
    /// watches get theirs with the next round.
    pub fn link(&mut self, now: Tick, member: usize, snapshot: bool) {
        self.advance(now);
        let revision = self.history.revision();
        let Some(it) = self.members.get_mut(member) else {
            return;
        };
        it.cut_off = false;
        if snapshot {
            it.applied = revision;
            self.watches.fall_behind(member, revision, self.quirks);
        }
        self.advance(now);
    }

    /// Ends the streams of `member`, which are returned: it was restarted, or has no leader.
    pub fn close_streams(&mut self, now: Tick, member: usize) -> Vec<WatchId> {
        self.advance(now);
        self.watches.close_all(Some(member))
    }

    /// Whether the quota is used up: writes that take space are refused (`etcdserver/apply.go`, `applierV3Capped`).
    /// Deletions, revocations and keepalives go through.
    pub fn quota_full(&mut self, full: bool) {
        self.full = full;
    }

    /// Ends every lease, each in a revision of its own, whether kept alive or not: a leader that was stuck has done so
    /// (etcd #15247).
    pub fn revoke_all(&mut self, now: Tick) {
        self.advance(now);
        let leases: Vec<LeaseId> = self.leases.ids().collect();
        for lease in leases {
            self.end_lease(now, lease);
        }
    }

    /// An operator writes `key` without a lease.
    pub fn put_by_hand(&mut self, now: Tick, key: &str, value: &[u8]) -> Result<TxnAnswer, Error> {
        self.txn(now, 0, &Txn::of([Op::put(key, value, 0)]))
    }

    /// An operator deletes everything below `prefix`.
    pub fn delete_by_hand(&mut self, now: Tick, prefix: &str) -> Result<Header, Error> {
        self.ready_for(now, Some(0))?;
        let mod_revision = self.history.next_revision();
        let standing = self.history.entries_below(prefix.as_bytes());
        let entries: Vec<Entry> = standing.cloned().collect();
        let delete = |entry: Entry| {
            self.leases.move_key(&entry.key, entry.lease, 0);
            Change::Delete { key: entry.key, mod_revision }
        };
        let changes = entries.into_iter().map(delete).collect();
        self.commit(now, changes);
        Ok(Header { revision: self.history.revision(), ..self.header(0) })
    }

    /// A copy of the store.
    #[must_use]
    pub fn backup(&self) -> Backup {
        Backup { history: self.history.clone(), leases: self.leases.clone() }
    }

    /// The cluster is made anew from `backup`, under the same flags, and is up. All streams end; those are returned.
    ///
    /// The cluster's id is what it was, raft's term runs back, and each lease has its whole ttl. With `bump` the revision
    /// is so much higher than the backup's, and everything before is compacted.
    pub fn restore(&mut self, now: Tick, backup: &Backup, bump: Option<i64>) -> Vec<WatchId> {
        let epoch = self.history.epoch() + 1;
        let history = backup.history.restored(epoch, now, bump);
        let leases = backup.leases.clone().with_phase(self.leases.phase);
        self.begin(now, history, leases)
    }

    /// All data is lost, and the cluster is made anew under the same flags, and is up. All streams end; those are returned.
    pub fn wipe(&mut self, now: Tick) -> Vec<WatchId> {
        let history = History::new(self.history.epoch() + 1, now);
        let leases = Leases::default().with_phase(self.leases.phase);
        self.begin(now, history, leases)
    }

    fn begin(&mut self, now: Tick, history: History, leases: Leases) -> Vec<WatchId> {
        self.advance(now);
        self.earlier.push(std::mem::replace(&mut self.history, history));
        self.leases = leases;
        self.leases.promote(now);
        self.raft_term = FIRST_TERM;
        self.availability = Availability::Up;
        self.full = false;
        let revision = self.history.revision();
        for member in &mut self.members {
            *member = Member { lag: member.lag, ..Member::new(revision) };
        }
        self.watches.close_all(None)
    }
}
