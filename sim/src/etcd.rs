//! A model of etcd: one logical store, its leases, and its watches.
//!
//! It has what the machines of `registry` meet: revisions, transactions on `mod_revision`, keys that move between leases,
//! leases that expire at a poll and get their whole ttl after an outage, watches that begin with `created` and get what
//! they missed with the next round of 100 ms (`mvcc/watchable_store.go`, `watchResyncPeriod`), compaction, and histories
//! that run backwards after a wipe or a restored backup under the same cluster id (a hash of token and peer URLs,
//! `membership/member.go`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use registry::follow::{Change, Entry};
use registry::lease::machine::Header;
use registry::lease::{LeaseId, TimeToLive};
use registry::time::Tick;

/// How often leases are looked at (`lease/lessor.go`, 500 ms).
pub const EXPIRE_EVERY: Duration = Duration::from_millis(500);
/// Most leases that end in one look (`lease/lessor.go`, `leaseRevokeRate` / 2).
const EXPIRE_MAX: usize = 500;
/// How often a watch that is behind gets what it missed.
pub const RESYNC_EVERY: Duration = Duration::from_millis(100);
/// Shortest ttl that is granted, in seconds: 1.5 election timeouts.
const TTL_MIN_S: u64 = 2;
/// The cluster's id. It survives a wipe.
pub const CLUSTER: u64 = 0x00c0_ffee;

/// A watch.
pub type StreamId = u64;

#[derive(Clone, Debug)]
struct Lease {
    ttl: Duration,
    expires: Tick,
    keys: BTreeSet<String>,
}

/// One message of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// It stands; etcd's revision at that moment.
    Created {
        /// etcd's revision.
        revision: i64,
    },
    /// Changes, whole revisions, in order.
    Changes(Vec<Change>),
    /// A sign of life without changes.
    Progress,
    /// It is over: the revision asked for is compacted.
    Compacted,
}

#[derive(Clone, Debug)]
struct Watch {
    prefix: String,
    /// The next revision that it is to get.
    next: i64,
    /// When it gets what it missed; `None` once it is synced.
    resync_at: Option<Tick>,
}

/// The keys, leases and history of one moment.
#[derive(Clone, Debug)]
pub struct Store {
    kvs: BTreeMap<String, Entry>,
    leases: BTreeMap<LeaseId, Lease>,
    revision: i64,
    compacted: i64,
    history: Vec<(i64, String, Change)>,
}

/// A condition and two writes.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    /// Holds if this key's `mod_revision` is this (0: it is absent).
    pub expected: Option<(String, i64)>,
    /// Then these are put.
    pub puts: Vec<(String, Vec<u8>)>,
    /// And these are deleted.
    pub deletes: Vec<String>,
    /// Puts stand under this lease; 0 for none.
    pub lease: LeaseId,
}

/// What came of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnAnswer {
    /// Done, at this revision.
    Done(i64),
    /// The condition does not hold; what stands at its key.
    Occupied(Option<Entry>),
    /// There is no such lease.
    LeaseGone,
    /// The quota is used up.
    NoSpace,
}

/// The cluster.
#[derive(Clone, Debug)]
pub struct Etcd {
    store: Store,
    watches: BTreeMap<StreamId, Watch>,
    /// When the first of them that is behind gets what it missed.
    next_resync: Option<Tick>,
    next_stream: StreamId,
    next_lease: LeaseId,
    up: bool,
    /// Writes are refused.
    full: bool,
    outbox: Vec<(StreamId, Message)>,
    /// Counts histories: a wipe or a restore begins another.
    epoch: u32,
    /// Leases that ran out.
    expired: BTreeSet<LeaseId>,
    /// The raft term: each start and each election is another; a restored cluster begins anew.
    term: u64,
    /// How often each kind of call was served, for the load at rest.
    pub calls: BTreeMap<&'static str, u64>,
}

impl Default for Store {
    fn default() -> Self {
        Self { kvs: BTreeMap::new(), leases: BTreeMap::new(), revision: 1, compacted: 0, history: Vec::new() }
    }
}

impl Default for Etcd {
    fn default() -> Self {
        Self {
            store: Store::default(),
            watches: BTreeMap::new(),
            next_resync: None,
            next_stream: 1,
            next_lease: 100,
            up: true,
            full: false,
            outbox: Vec::new(),
            epoch: 0,
            expired: BTreeSet::new(),
            term: 2,
            calls: BTreeMap::new(),
        }
    }
}

impl Etcd {
    /// Whether it answers.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Its revision.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.store.revision
    }

    /// Counts histories.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// What it says of itself with an answer.
    #[must_use]
    pub fn header(&self) -> Header {
        Header { revision: self.store.revision, raft_term: self.term }
    }

    /// The keys under `lease`; `None` if there is none.
    pub fn keys_of(&mut self, lease: LeaseId) -> Option<BTreeSet<String>> {
        *self.calls.entry("time-to-live").or_default() += 1;
        self.store.leases.get(&lease).map(|lease| lease.keys.clone())
    }

    /// What stands at `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.store.kvs.get(key)
    }

    /// Everything below `prefix`; without a `/` at its end it is one key.
    pub fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Entry)> {
        let from = self.store.kvs.range(prefix.to_owned()..);
        from.take_while(move |(key, _)| is_below(key, prefix)).map(|(key, entry)| (key.as_str(), entry))
    }

    /// Whether `lease` lives.
    #[must_use]
    pub fn is_alive(&self, lease: LeaseId) -> bool {
        self.store.leases.contains_key(&lease)
    }

    /// Whether `lease` has run out, and no backup has brought it back.
    #[must_use]
    pub fn has_expired(&self, lease: LeaseId) -> bool {
        self.expired.contains(&lease) && !self.is_alive(lease)
    }

    /// What it answers to a question about `lease`.
    #[must_use]
    pub fn time_to_live(&self, now: Tick, lease: LeaseId) -> Option<TimeToLive> {
        let left = Duration::from_secs(self.left(now, lease)?.as_secs());
        let granted = self.store.leases.get(&lease)?.ttl;
        Some(TimeToLive { granted, left }).filter(|ttl| !ttl.left.is_zero())
    }

    /// How long `lease` has left.
    #[must_use]
    pub fn left(&self, now: Tick, lease: LeaseId) -> Option<Duration> {
        self.store.leases.get(&lease).map(|lease| lease.expires.since(now))
    }

    /// Grants a lease of `ttl`.
    pub fn grant(&mut self, now: Tick, ttl: Duration) -> (LeaseId, Duration) {
        *self.calls.entry("grant").or_default() += 1;
        let ttl = ttl.max(Duration::from_secs(TTL_MIN_S));
        let id = self.next_lease;
        self.next_lease += 1;
        self.store.leases.insert(id, Lease { ttl, expires: now.plus(ttl), keys: BTreeSet::new() });
        (id, ttl)
    }

    /// Gives `lease` its whole ttl again. `false`: there is none.
    pub fn keep_alive(&mut self, now: Tick, lease: LeaseId) -> bool {
        *self.calls.entry("keep-alive").or_default() += 1;
        let Some(lease) = self.store.leases.get_mut(&lease) else { return false };
        lease.expires = now.plus(lease.ttl);
        true
    }

    /// Ends `lease`, and deletes its keys in one revision.
    pub fn revoke(&mut self, lease: LeaseId) {
        *self.calls.entry("revoke").or_default() += 1;
        let Some(lease) = self.store.leases.remove(&lease) else { return };
        if !lease.keys.is_empty() {
            self.commit(vec![], lease.keys.into_iter().collect(), 0);
        }
    }

    /// Carries a transaction out.
    pub fn txn(&mut self, txn: Txn) -> TxnAnswer {
        *self.calls.entry("txn").or_default() += 1;
        if self.full {
            return TxnAnswer::NoSpace;
        }
        if let Some((key, expected)) = &txn.expected {
            let found = self.store.kvs.get(key);
            if found.map_or(0, |entry| entry.mod_revision) != *expected {
                return TxnAnswer::Occupied(found.cloned());
            }
        }
        if txn.lease != 0 && !txn.puts.is_empty() && !self.is_alive(txn.lease) {
            return TxnAnswer::LeaseGone;
        }
        TxnAnswer::Done(self.commit(txn.puts, txn.deletes, txn.lease))
    }

    /// One revision; a transaction that changes nothing has none of its own.
    fn commit(&mut self, puts: Vec<(String, Vec<u8>)>, deletes: Vec<String>, lease: LeaseId) -> i64 {
        let store = &mut self.store;
        let revision = store.revision + 1;
        let mut changes = Vec::new();
        for (key, value) in puts {
            let before = store.kvs.get(&key);
            if let Some(before) = before.filter(|before| before.lease != lease && before.lease != 0)
                && let Some(old) = store.leases.get_mut(&before.lease)
            {
                old.keys.remove(&key);
            }
            if let Some(new) = store.leases.get_mut(&lease) {
                new.keys.insert(key.clone());
            }
            let create_revision = store.kvs.get(&key).map_or(revision, |before| before.create_revision);
            let entry = Entry {
                key: key.clone().into_bytes(),
                value,
                lease,
                create_revision,
                mod_revision: revision,
            };
            store.kvs.insert(key.clone(), entry.clone());
            changes.push((key, Change::Put(entry)));
        }
        for key in deletes {
            let Some(entry) = store.kvs.remove(&key) else { continue };
            if let Some(lease) = store.leases.get_mut(&entry.lease) {
                lease.keys.remove(&key);
            }
            changes.push((key, Change::Delete { key: entry.key, mod_revision: revision }));
        }
        if changes.is_empty() {
            return store.revision;
        }
        store.revision = revision;
        for (stream, watch) in &mut self.watches {
            if watch.resync_at.is_some() || watch.next > revision {
                continue;
            }
            watch.next = revision + 1;
            let seen: Vec<Change> = changes
                .iter()
                .filter(|(key, _)| is_below(key, &watch.prefix))
                .map(|(_, change)| change.clone())
                .collect();
            if !seen.is_empty() {
                self.outbox.push((*stream, Message::Changes(seen)));
            }
        }
        self.store.history.extend(changes.into_iter().map(|(key, change)| (revision, key, change)));
        revision
    }

    /// Everything below `prefix`, with the revision.
    pub fn list(&mut self, prefix: &str) -> (i64, Vec<Entry>) {
        *self.calls.entry("list").or_default() += 1;
        (self.store.revision, self.below(prefix).map(|(_, entry)| entry.clone()).collect())
    }

    /// The revision, and that of the key below `prefix` written last, if that was after `revision`.
    pub fn newer(&mut self, prefix: &str, revision: i64) -> (i64, Option<i64>) {
        *self.calls.entry("newer").or_default() += 1;
        let last = self.below(prefix).map(|(_, entry)| entry.mod_revision).max();
        (self.store.revision, last.filter(|last| *last > revision))
    }

    /// Opens a watch of `prefix` from revision `from` on. `wait` is how far its first round is away.
    pub fn watch(&mut self, now: Tick, prefix: &str, from: i64, wait: Duration) -> StreamId {
        *self.calls.entry("watch").or_default() += 1;
        let stream = self.next_stream;
        self.next_stream += 1;
        let behind = from <= self.store.revision;
        let resync_at = behind.then(|| now.plus(wait.min(RESYNC_EVERY)));
        self.watches.insert(stream, Watch { prefix: prefix.to_owned(), next: from, resync_at });
        self.outbox.push((stream, Message::Created { revision: self.store.revision }));
        self.plan_resync();
        stream
    }

    /// Closes a watch.
    pub fn close(&mut self, stream: StreamId) {
        self.watches.remove(&stream);
        self.plan_resync();
    }

    /// Asks a watch for a sign of life: it is answered only when the watch is synced.
    pub fn progress(&mut self, stream: StreamId) {
        *self.calls.entry("progress").or_default() += 1;
        if self.watches.get(&stream).is_some_and(|watch| watch.resync_at.is_none()) {
            self.outbox.push((stream, Message::Progress));
        }
    }

    /// Messages that leave now.
    pub fn take_messages(&mut self) -> Vec<(StreamId, Message)> {
        std::mem::take(&mut self.outbox)
    }

    /// When [`Self::resync`] has something to do.
    #[must_use]
    pub fn resync_at(&self) -> Option<Tick> {
        self.next_resync
    }

    /// To be called where a watch begins, ends or is synced: the queue asks after each event.
    fn plan_resync(&mut self) {
        self.next_resync = self.watches.values().filter_map(|watch| watch.resync_at).min();
    }

    /// Gives watches that are behind what they missed.
    pub fn resync(&mut self, now: Tick) {
        let mut ended = Vec::new();
        for (stream, watch) in &mut self.watches {
            if watch.resync_at.is_none_or(|at| now < at) {
                continue;
            }
            watch.resync_at = None;
            if watch.next <= self.store.compacted {
                self.outbox.push((*stream, Message::Compacted));
                ended.push(*stream);
                continue;
            }
            let missed: Vec<Change> = self
                .store
                .history
                .iter()
                .filter(|(revision, key, _)| *revision >= watch.next && is_below(key, &watch.prefix))
                .map(|(_, _, change)| change.clone())
                .collect();
            watch.next = self.store.revision + 1;
            if !missed.is_empty() {
                self.outbox.push((*stream, Message::Changes(missed)));
            }
        }
        for stream in ended {
            self.watches.remove(&stream);
        }
        self.plan_resync();
    }

    /// Ends leases that have run out. To be called every [`EXPIRE_EVERY`].
    pub fn expire(&mut self, now: Tick) {
        if !self.up {
            return;
        }
        let ended: Vec<LeaseId> = self
            .store
            .leases
            .iter()
            .filter(|(_, lease)| now >= lease.expires)
            .map(|(id, _)| *id)
            .take(EXPIRE_MAX)
            .collect();
        for lease in ended {
            self.expired.insert(lease);
            let Some(lease) = self.store.leases.remove(&lease) else { continue };
            if !lease.keys.is_empty() {
                self.commit(vec![], lease.keys.into_iter().collect(), 0);
            }
        }
    }

    /// Every lease has its whole ttl: a new leader, or an etcd that is back.
    pub fn refresh_leases(&mut self, now: Tick) {
        for lease in self.store.leases.values_mut() {
            lease.expires = now.plus(lease.ttl);
        }
    }

    /// It answers no more; every watch is over. Returns those.
    pub fn stop(&mut self) -> Vec<StreamId> {
        self.up = false;
        self.outbox.clear();
        self.next_resync = None;
        std::mem::take(&mut self.watches).into_keys().collect()
    }

    /// It is back.
    pub fn start(&mut self, now: Tick) {
        self.up = true;
        self.term += 1;
        self.refresh_leases(now);
    }

    /// What a backup holds.
    #[must_use]
    pub fn backup(&self) -> Store {
        self.store.clone()
    }

    /// What stood in `backup` is all there is; with `bump`, its revision is so much higher.
    pub fn restore(&mut self, backup: Store, bump: i64) {
        self.store = backup;
        self.expired.clear();
        // A restored history begins with its snapshot.
        self.store.compacted = self.store.revision;
        self.store.history.clear();
        self.store.revision += bump;
        (self.epoch, self.term) = (self.epoch + 1, 1);
    }

    /// Nothing is left.
    pub fn wipe(&mut self) {
        self.store = Store::default();
        self.expired.clear();
        (self.epoch, self.term) = (self.epoch + 1, 1);
    }

    /// Earlier revisions are not to be had any more.
    pub fn compact(&mut self) {
        self.store.compacted = self.store.revision;
        self.store.history.clear();
    }

    /// Whether it takes no writes.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Whether writes are refused.
    pub fn set_full(&mut self, full: bool) {
        self.full = full;
    }
}

/// As `registry` asks for it: a prefix ends in `/`, and what does not is one key.
fn is_below(key: &str, prefix: &str) -> bool {
    if prefix.ends_with('/') { key.starts_with(prefix) } else { key == prefix }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, lease: LeaseId) -> Txn {
        Txn { puts: vec![(key.into(), b"v".to_vec())], lease, ..Txn::default() }
    }

    #[test]
    fn a_put_moves_a_key_between_leases_and_a_lease_takes_its_keys_along() {
        let mut etcd = Etcd::default();
        let (a, _) = etcd.grant(Tick::default(), Duration::from_secs(5));
        let (b, _) = etcd.grant(Tick::default(), Duration::from_secs(9));
        etcd.txn(put("k", a));
        etcd.txn(put("k", b));
        etcd.expire(Tick::from_ms(6_000));
        assert!(etcd.get("k").is_some() && !etcd.is_alive(a));
        etcd.expire(Tick::from_ms(9_000));
        assert!(etcd.get("k").is_none());
        assert_eq!(etcd.txn(put("k", b)), TxnAnswer::LeaseGone);
    }

    #[test]
    fn a_watch_gets_what_it_missed_with_the_next_round_and_the_rest_at_once() {
        let mut etcd = Etcd::default();
        etcd.txn(put("a/1", 0));
        let stream = etcd.watch(Tick::default(), "a/", 2, RESYNC_EVERY);
        etcd.txn(put("a/2", 0));
        assert_eq!(etcd.take_messages(), [(stream, Message::Created { revision: 2 })]);
        etcd.resync(Tick::from_ms(100));
        let [(_, Message::Changes(missed))] = &etcd.take_messages()[..] else { panic!("one message") };
        assert_eq!(missed.len(), 2);
        etcd.txn(put("a/3", 0));
        etcd.txn(put("b/3", 0));
        assert_eq!(etcd.take_messages().len(), 1);
    }

    #[test]
    fn a_watch_from_a_compacted_revision_is_created_and_then_ended() {
        let mut etcd = Etcd::default();
        etcd.txn(put("a", 0));
        etcd.compact();
        let stream = etcd.watch(Tick::default(), "a", 1, RESYNC_EVERY);
        etcd.resync(Tick::from_ms(100));
        let messages = etcd.take_messages();
        assert_eq!(messages.last(), Some(&(stream, Message::Compacted)));
    }

    #[test]
    fn a_restored_backup_runs_backwards_and_a_watch_of_the_future_is_silent() {
        let mut etcd = Etcd::default();
        etcd.txn(put("a", 0));
        let backup = etcd.backup();
        etcd.txn(put("b", 0));
        assert_eq!(etcd.revision(), 3);
        etcd.restore(backup, 0);
        assert_eq!((etcd.revision(), etcd.get("b").is_none()), (2, true));
        etcd.watch(Tick::default(), "a", 4, RESYNC_EVERY);
        etcd.take_messages();
        etcd.txn(put("a", 0));
        assert_eq!(etcd.take_messages(), []);
    }
}
