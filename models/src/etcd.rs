//! A model of an etcd cluster: one log of revisions, the leases, members that apply the log late, and watches.
//!
//! It is a value. Time is a [`Tick`] that is passed in, nothing is drawn at random, and no call is lost or late: the world
//! around it decides when a call arrives, and whether its answer does. Calls and answers map one to one to inputs and
//! actions of the machines of `registry`:
//!
//! | action | call | answer → input |
//! |---|---|---|
//! | `follow::Action::List`, by `Pager` | [`Etcd::range`] for each `Ask` | [`RangeAnswer`] → `Page`; error → `ListFailed` |
//! | `follow::Action::Open` | [`Etcd::watch`] | [`WatchMessage`] → `Created`, `Changes`, `Progress`, `Canceled` |
//! | `follow::Action::AskProgress` | [`Etcd::progress`] | [`WatchMessage::Progress`], or silence |
//! | `follow::Action::Close`, `LeaveEndpoint` | [`Etcd::cancel`] | none |
//! | `lease::machine::Action::Grant` | [`Etcd::grant`] | [`Granted`] → `Granted`; error → `GrantFailed` |
//! | `lease::machine::Action::KeepAlive` | [`Etcd::keep_alive`] | [`KeepAlive`] → `KeptAlive`, `Gone`; error → `KeepAliveFailed` |
//! | `lease::machine::Action::Revoke` | [`Etcd::revoke`] | → `Revoked`, for [`Error::LeaseNotFound`] too; error → `RevokeFailed` |
//! | `lease::ledger::Action::Write` | [`Etcd::txn`] without compares | → `Written`; [`Error::LeaseNotFound`] → `LeaseGone`; error → `Failed` |
//! | `lease::ledger::Action::WriteFenced` | [`Etcd::txn`] with [`Compare::mod_revision`] | the same; not succeeded → `Occupied` |
//! | `lease::is_alive` | [`Etcd::time_to_live`] | alive if `ttl_s` is above 0 |
//!
//! The facts are those of etcd 3.4.23 where versions do not differ, and of 3.4.39 where a bug was mended: the bugs are
//! switches ([`Quirks`]). Source files are named as 3.4 has them. `tests/etcd_model.rs` compares the model with a real etcd.

mod answer;
mod faults;
mod history;
mod lease;
mod member;
mod txn;
mod watch;

#[cfg(test)]
mod tests;

use std::time::Duration;

use registry::follow::Change;
use registry::lease::LeaseId;
use registry::time::Tick;

pub use answer::{Error, Granted, Header, RangeAnswer, Span};
pub use faults::{Backup, Quirks};
pub use history::{FIRST_REVISION, History, Revision, key_of};
use lease::Leases;
pub use lease::{KeepAlive, LOOK_EVERY, TTL_MIN, TimeToLive};
use member::Member;
pub use txn::{Compare, OPS_MAX, Op, OpAnswer, Target, Txn, TxnAnswer};
use watch::Watches;
pub use watch::{BATCH_MAX, QUEUE_MAX, ROUND_EVERY, WatchId, WatchMessage};

/// A key, whole.
pub type Key = Vec<u8>;

/// The raft term of a new cluster of one member that has elected its leader, as seen in its headers.
pub const FIRST_TERM: u64 = 2;

/// Whether calls are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Availability {
    Up,
    /// Stopped and not dead: nothing happens, while its clock runs on.
    Hanging,
    /// Ended, or without a leader.
    Down,
}

/// The cluster.
#[derive(Clone, Debug)]
pub struct Etcd {
    cluster: u64,
    raft_term: u64,
    history: History,
    /// What stood before wipes and restores, oldest first.
    earlier: Vec<History>,
    leases: Leases,
    members: Vec<Member>,
    watches: Watches,
    availability: Availability,
    /// Writes that take space are refused.
    full: bool,
    quirks: Quirks,
    /// Rounds are at this distance from whole multiples of [`ROUND_EVERY`].
    round_phase: Duration,
    /// The next round has to be later than this.
    rounds_done: Option<Tick>,
}

impl Etcd {
    /// An empty cluster with this id and so many members (at least one), which elected its leader at tick 0.
    #[must_use]
    pub fn new(cluster: u64, members: usize) -> Self {
        Self {
            cluster,
            raft_term: FIRST_TERM,
            history: History::new(0, Tick::default()),
            earlier: Vec::new(),
            leases: Leases::default(),
            members: vec![Member::new(FIRST_REVISION); members.max(1)],
            watches: Watches::default(),
            availability: Availability::Up,
            full: false,
            quirks: Quirks::default(),
            round_phase: Duration::ZERO,
            rounds_done: None,
        }
    }

    /// Sets when rounds of watches and looks for expired leases take place, as distances from whole multiples of
    /// [`ROUND_EVERY`] and [`LOOK_EVERY`].
    #[must_use]
    pub fn with_phases(mut self, round: Duration, look: Duration) -> Self {
        self.round_phase = round;
        self.leases.phase = look;
        self
    }

    /// Number of members; they are called 0, 1, 2….
    #[must_use]
    pub fn members(&self) -> usize {
        self.members.len()
    }

    /// What happened since the last wipe or restore.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// All histories, the present one last.
    pub fn histories(&self) -> impl Iterator<Item = &History> {
        self.earlier.iter().chain([&self.history])
    }

    /// Whether `lease` stands, expired or not.
    #[must_use]
    pub fn has_lease(&self, lease: LeaseId) -> bool {
        self.leases.contains(lease)
    }

    /// The head of an answer that `member` gives now.
    #[must_use]
    pub fn header(&self, member: usize) -> Header {
        Header {
            cluster: self.cluster,
            member_id: self.cluster.rotate_left(17) ^ (member as u64 + 1),
            raft_term: self.raft_term,
            revision: self.applied(member),
        }
    }

    /// The newest revision that `member` has applied.
    #[must_use]
    pub fn applied(&self, member: usize) -> i64 {
        self.members.get(member).map_or(FIRST_REVISION, |it| it.applied)
    }

    /// When `member` has applied `revision`: not before then does it answer a transaction of that revision, or a
    /// linearizable read that was asked for when it was the newest. `None`: it is cut off, or there is no such revision.
    #[must_use]
    pub fn applied_at(&self, member: usize, revision: i64) -> Option<Tick> {
        self.members.get(member).and_then(|it| it.has_applied_at(&self.history, revision))
    }

    /// The entries of the span `from`, `end` ([`Span`]) as of `revision` (0: the newest), at most `limit` (0: all), out of
    /// what `member` has applied. A linearizable read is one at [`Self::applied_at`] the newest revision.
    ///
    /// Facts from `mvcc/kvstore_txn.go` (`rangeKeys`) and `etcdserver/apply.go` (`Range`).
    pub fn range(
        &self,
        member: usize,
        Span { from, end }: Span<'_>,
        limit: usize,
        revision: i64,
    ) -> Result<RangeAnswer, Error> {
        self.check_availability(None)?;
        let header = self.header(member);
        if from.is_empty() {
            return Err(Error::EmptyKey);
        }
        if revision > header.revision {
            return Err(Error::FutureRevision);
        }
        let revision = if revision <= 0 { header.revision } else { revision };
        if revision < self.history.compacted() {
            return Err(Error::Compacted);
        }
        let max = if limit == 0 { usize::MAX } else { limit };
        let mut found = self.history.entries_at(from, end, revision);
        let entries = found.by_ref().take(max).cloned().collect();
        Ok(RangeAnswer { header, entries, more: found.next().is_some() })
    }

    /// Grants the lease `id`, which must not be 0, for `ttl_s` seconds.
    pub fn grant(&mut self, now: Tick, member: usize, ttl_s: u64, id: LeaseId) -> Result<Granted, Error> {
        self.ready_for(now, Some(member))?;
        if self.full {
            return Err(Error::NoSpace);
        }
        let ttl = self.leases.grant(now, id, Duration::from_secs(ttl_s))?;
        Ok(Granted { lease: id, ttl })
    }

    /// Gives `lease` its whole ttl again. The leader answers, so that no lag matters (`etcdserver/v3_server.go`,
    /// `LeaseRenew`).
    pub fn keep_alive(&mut self, now: Tick, member: usize, lease: LeaseId) -> Result<KeepAlive, Error> {
        self.ready_for(now, Some(member))?;
        Ok(self.leases.renew(now, lease))
    }

    /// Ends `lease` and deletes its keys, in one revision; none if it has no keys.
    pub fn revoke(&mut self, now: Tick, member: usize, lease: LeaseId) -> Result<Header, Error> {
        self.ready_for(now, Some(member))?;
        if !self.end_lease(now, lease) {
            return Err(Error::LeaseNotFound);
        }
        Ok(Header { revision: self.history.revision(), ..self.header(member) })
    }

    /// What is left of `lease`; `None` if there is none, which etcd says with a ttl of -1.
    pub fn time_to_live(
        &mut self,
        now: Tick,
        member: usize,
        lease: LeaseId,
    ) -> Result<Option<TimeToLive>, Error> {
        self.ready_for(now, Some(member))?;
        Ok(self.leases.time_to_live(now, lease))
    }

    /// Makes revisions below `revision` unreadable. Watches that have not got them are canceled.
    ///
    /// Facts from `mvcc/kvstore.go` (`updateCompactRev`).
    pub fn compact(&mut self, now: Tick, member: usize, revision: i64) -> Result<(), Error> {
        self.ready_for(now, Some(member))?;
        if revision <= self.history.compacted() {
            return Err(Error::Compacted);
        }
        if revision > self.history.revision() {
            return Err(Error::FutureRevision);
        }
        self.history.compact(revision);
        Ok(())
    }

    /// Opens a watch on `member`, of the keys below `prefix`, from `revision` on (0: from the next one).
    pub fn watch(
        &mut self,
        now: Tick,
        member: usize,
        prefix: &[u8],
        revision: i64,
    ) -> Result<WatchId, Error> {
        self.ready_for(now, None)?;
        Ok(self.watches.open(self.cluster, (member, self.applied(member)), prefix, revision))
    }

    /// The client closed the stream.
    pub fn cancel(&mut self, watch: WatchId) {
        self.watches.close(watch);
    }

    /// The client asks for progress. It is answered only if the watch is synced, and not before its first revision exists
    /// (`progressIfSync`); with [`Quirks::progress_overtakes`] always.
    pub fn progress(&mut self, now: Tick, watch: WatchId) {
        if self.ready_for(now, None).is_ok()
            && let Some(member) = self.watches.member_of(watch)
        {
            self.watches.progress(watch, self.applied(member), self.quirks);
        }
    }

    /// Takes the messages of `watch` that leave at `now`, in order. Nothing for a watch that is over.
    pub fn messages(&mut self, now: Tick, watch: WatchId) -> Vec<WatchMessage> {
        self.messages_up_to(now, watch, usize::MAX)
    }

    /// The same, at most `max` of them, for a client that is slow: when [`QUEUE_MAX`] messages wait, its watch falls
    /// behind.
    pub fn messages_up_to(&mut self, now: Tick, watch: WatchId, max: usize) -> Vec<WatchMessage> {
        if self.ready_for(now, None).is_err() {
            return vec![];
        }
        let applied = self.watches.member_of(watch).map_or(FIRST_REVISION, |member| self.applied(member));
        self.watches.take(watch, max, applied)
    }

    /// The watches for which [`Self::messages`] has something.
    pub fn watches_with_messages(&self) -> impl Iterator<Item = WatchId> + '_ {
        self.watches.with_messages()
    }

    /// Whether `watch` can still get messages, once those that wait are taken.
    #[must_use]
    pub fn is_open(&self, watch: WatchId) -> bool {
        self.watches.is_open(watch)
    }

    /// When [`Self::advance`] has something to do.
    #[must_use]
    pub fn wake_at(&self) -> Option<Tick> {
        if self.availability != Availability::Up {
            return None;
        }
        let applies = self.members.iter().filter_map(|member| member.applies_at(&self.history));
        let looks = self.leases.look_at();
        let behind = (0..self.members.len()).any(|member| self.watches.has_unsynced(member));
        applies.chain(looks).chain(behind.then(|| self.round_at())).min()
    }

    /// Lets happen what is due until `now`: members apply, rounds of watches, looks for expired leases. Every call that
    /// takes the time does this first.
    pub fn advance(&mut self, now: Tick) {
        while let Some(at) = self.wake_at().filter(|at| *at <= now) {
            // In this order, so that a look's deletions reach synced watches before a round of the same moment.
            if self.leases.look_at().is_some_and(|due| due <= at) {
                self.look(at);
            }
            self.apply(at);
            if self.round_at() <= at {
                self.round(at);
            }
        }
        // The rounds up to now are over, also those that had nothing to do.
        if self.availability == Availability::Up {
            self.rounds_done = self.rounds_done.max(Some(now));
        }
    }

    /// The store can be used at `now`, by way of `member` if that has to reach the quorum.
    fn ready_for(&mut self, now: Tick, member: Option<usize>) -> Result<(), Error> {
        self.advance(now);
        self.check_availability(member)
    }

    fn check_availability(&self, member: Option<usize>) -> Result<(), Error> {
        let cut_off = member.is_some_and(|member| self.members.get(member).is_none_or(|it| it.cut_off));
        if self.availability == Availability::Up && !cut_off { Ok(()) } else { Err(Error::Unavailable) }
    }

    fn round_at(&self) -> Tick {
        let after = self.rounds_done.map_or(Tick::default(), |done| done.plus(Duration::from_micros(1)));
        grid(after, ROUND_EVERY, self.round_phase)
    }

    fn round(&mut self, at: Tick) {
        self.rounds_done = Some(at);
        for (index, member) in self.members.iter().enumerate() {
            self.watches.round(index, member.applied, &self.history, self.quirks);
        }
    }

    fn look(&mut self, at: Tick) {
        for lease in self.leases.look(at) {
            self.end_lease(at, lease);
        }
    }

    /// `false`: there is none.
    fn end_lease(&mut self, now: Tick, lease: LeaseId) -> bool {
        let Some(keys) = self.leases.end(lease) else {
            return false;
        };
        let mod_revision = self.history.next_revision();
        let changes = keys.into_iter().map(|key| Change::Delete { key, mod_revision });
        self.commit(now, changes.collect());
        true
    }

    fn commit(&mut self, now: Tick, changes: Vec<Change>) {
        self.history.commit(now, changes);
        self.apply(now);
    }

    /// Every member applies what it is to have applied by `now`.
    fn apply(&mut self, now: Tick) {
        for (index, member) in self.members.iter_mut().enumerate() {
            while member.applies_at(&self.history).is_some_and(|at| at <= now) {
                let Some((revision, next)) = self.history.revisions(member.applied + 1..).next() else {
                    break;
                };
                member.applied = revision;
                self.watches.notify(index, revision, &next.changes);
            }
        }
    }
}

/// The first moment at `at` or later that is `phase` past a whole multiple of `every`.
fn grid(at: Tick, every: Duration, phase: Duration) -> Tick {
    let us = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let (every, at) = (us(every), us(at.since(Tick::default())));
    let phase = us(phase) % every;
    let whole = at.saturating_sub(phase).div_ceil(every);
    Tick::from_us(phase.saturating_add(whole.saturating_mul(every)))
}
