//! What happened to the keys, revision by revision. Nothing is forgotten: compaction only says what clients may still read.
//!
//! etcd keeps every revision of a key until it is compacted (`mvcc/kvstore.go`, `mvcc/key_index.go`), and one counter of
//! revisions for all keys. A wipe or a restore begins another [`History`], under the next epoch.

use std::collections::BTreeMap;
use std::ops::{Bound, RangeBounds};

use registry::follow::{Change, Entry};
use registry::time::Tick;

use super::Key;

/// etcd's revision of a store without a write (`mvcc/kvstore.go`, `NewStore`).
pub const FIRST_REVISION: i64 = 1;

/// What [`History::compacted`] is before the first compaction.
const NOT_COMPACTED: i64 = -1;

/// One revision: every change of one transaction.
#[derive(Clone, Debug)]
pub struct Revision {
    /// When it was committed.
    pub time: Tick,
    /// The changes, in etcd's order. Never empty, and no key is in it twice.
    pub changes: Vec<Change>,
}

/// Where a key's change is found.
#[derive(Clone, Copy, Debug)]
struct Version {
    revision: i64,
    index: usize,
}

/// All changes since the store was made. It grows with the length of the schedule, and with nothing else.
#[derive(Clone, Debug)]
pub struct History {
    epoch: u32,
    began: Tick,
    origin: Option<(u32, i64)>,
    revision: i64,
    compacted: i64,
    revisions: BTreeMap<i64, Revision>,
    keys: BTreeMap<Key, Vec<Version>>,
}

impl History {
    /// An empty store.
    pub(super) fn new(epoch: u32, began: Tick) -> Self {
        Self {
            epoch,
            began,
            origin: None,
            revision: FIRST_REVISION,
            compacted: NOT_COMPACTED,
            revisions: BTreeMap::new(),
            keys: BTreeMap::new(),
        }
    }

    /// The history that goes on from this one in a restored store, `bump` revisions further on.
    ///
    /// A bumped store is marked as compacted at its new revision: no watch can be resumed across the restore
    /// (`etcdutl/snapshot/v3_snapshot.go`, `modifyLatestRevision`; from 3.6 on, etcdctl 3.4 cannot bump).
    pub(super) fn restored(&self, epoch: u32, began: Tick, bump: Option<i64>) -> Self {
        let revision = self.revision + bump.unwrap_or(0);
        let compacted = if bump.is_some() { revision } else { self.compacted };
        let origin = Some((self.epoch, self.revision));
        Self { epoch, began, origin, revision, compacted, ..self.clone() }
    }

    /// Adds a revision with `changes`, which carry [`Self::next_revision`]. No changes, no revision.
    pub(super) fn commit(&mut self, time: Tick, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        self.revision += 1;
        for (index, change) in changes.iter().enumerate() {
            let version = Version { revision: self.revision, index };
            match self.keys.get_mut(key_of(change)) {
                Some(versions) => versions.push(version),
                None => {
                    self.keys.insert(key_of(change).to_vec(), vec![version]);
                }
            }
        }
        self.revisions.insert(self.revision, Revision { time, changes });
    }

    /// Revisions below `revision` can no longer be read by clients.
    pub(super) fn compact(&mut self, revision: i64) {
        self.compacted = revision;
    }

    pub(super) fn next_revision(&self) -> i64 {
        self.revision + 1
    }

    /// Counts stores: 0 for the first, one more with each wipe or restore.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// When this store was made.
    #[must_use]
    pub fn began(&self) -> Tick {
        self.began
    }

    /// The epoch and revision of the backup that this store was restored from. Revisions up to it, and their times, are
    /// those of the earlier store.
    #[must_use]
    pub fn origin(&self) -> Option<(u32, i64)> {
        self.origin
    }

    /// The newest revision.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The lowest revision that clients can still read; -1 before the first compaction.
    #[must_use]
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// What stood at `key` as of `revision`, whether compacted or not.
    #[must_use]
    pub fn entry_at(&self, key: &[u8], revision: i64) -> Option<&Entry> {
        self.keys.get(key).and_then(|versions| self.entry_of(versions, revision))
    }

    /// What stands at `key` now.
    #[must_use]
    pub fn entry(&self, key: &[u8]) -> Option<&Entry> {
        self.entry_at(key, self.revision)
    }

    /// What stood between `from` and `end` (exclusive) as of `revision`, by key. [`super::Span`] explains `end`.
    pub fn entries_at<'a>(
        &'a self,
        from: &'a [u8],
        end: &'a [u8],
        revision: i64,
    ) -> impl Iterator<Item = &'a Entry> {
        self.versions(from, end).filter_map(move |(_, versions)| self.entry_of(versions, revision))
    }

    /// What stands below `prefix` now, by key.
    pub fn entries_below<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = &'a Entry> {
        let below = self.versions_below(prefix);
        below.filter_map(|(_, versions)| self.entry_of(versions, self.revision))
    }

    /// The revisions that changed `key`, oldest first, each with its time.
    pub fn revisions_of<'a>(&'a self, key: &[u8]) -> impl Iterator<Item = (i64, Tick)> + use<'a> {
        let versions = self.keys.get(key).map(Vec::as_slice).unwrap_or_default();
        versions.iter().filter_map(|version| Some((version.revision, self.time_of(version.revision)?)))
    }

    /// The newest revision that changed a key below `prefix`, with its time.
    #[must_use]
    pub fn last_change_below(&self, prefix: &[u8]) -> Option<(i64, Tick)> {
        let last = self.versions_below(prefix).filter_map(|(_, versions)| versions.last());
        let revision = last.map(|version| version.revision).max()?;
        Some((revision, self.time_of(revision)?))
    }

    /// When `revision` was committed; `None` if there is no such revision, or it is the first one of an empty store.
    #[must_use]
    pub fn time_of(&self, revision: i64) -> Option<Tick> {
        self.revisions.get(&revision).map(|it| it.time)
    }

    /// The revisions within `range`, oldest first.
    pub fn revisions(&self, range: impl RangeBounds<i64>) -> impl Iterator<Item = (i64, &Revision)> {
        self.revisions.range(range).map(|(revision, it)| (*revision, it))
    }

    /// The newest revision that was committed at `time` or before.
    #[must_use]
    pub fn revision_at(&self, time: Tick) -> i64 {
        // Times never fall as revisions rise, and what is asked for is seldom long ago.
        let found = self.revisions.iter().rev().find(|(_, it)| it.time <= time);
        found.map_or(FIRST_REVISION, |(revision, _)| *revision)
    }

    fn entry_of(&self, versions: &[Version], revision: i64) -> Option<&Entry> {
        let later = versions.partition_point(|version| version.revision <= revision);
        let version = versions.get(later.checked_sub(1)?)?;
        match self.revisions.get(&version.revision)?.changes.get(version.index)? {
            Change::Put(entry) => Some(entry),
            Change::Delete { .. } => None,
        }
    }

    fn versions<'a>(
        &'a self,
        from: &'a [u8],
        end: &'a [u8],
    ) -> impl Iterator<Item = (&'a Key, &'a Vec<Version>)> {
        let keys = (Bound::Included(from), Bound::Unbounded);
        self.keys.range::<[u8], _>(keys).take_while(move |(key, _)| super::Span { from, end }.contains(key))
    }

    fn versions_below<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = (&'a Key, &'a Vec<Version>)> {
        let keys = (Bound::Included(prefix), Bound::Unbounded);
        self.keys.range::<[u8], _>(keys).take_while(move |(key, _)| key.starts_with(prefix))
    }
}

/// The key of a change.
#[must_use]
pub fn key_of(change: &Change) -> &[u8] {
    match change {
        Change::Put(entry) => &entry.key,
        Change::Delete { key, .. } => key,
    }
}
