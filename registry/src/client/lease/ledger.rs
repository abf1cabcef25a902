//! Knows which keys are to stand under the lease, and writes those that do not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::LeaseId;
use crate::backoff::Backoff;
use crate::record::{BalancerRecord, InstanceRecord, parse};
use crate::time::Tick;

/// Keys in one transaction; etcd takes 128 operations (`--max-txn-ops`).
const BATCH_MAX: usize = 100;
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Whether others may hold the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fence {
    /// No other process writes the key, as long as what it is named by is ours.
    None,
    /// An instance's key, ours by this `owner` id. Our first write takes it over from any other owner; later
    /// writes happen only while it is still ours, or absent.
    Owner(String),
    /// The same, but the first write happens only if the key's `mod_revision` is this; 0: if it is absent. An owner that
    /// was quicker keeps it, and the key is reported as superseded.
    Claim {
        /// The id that our record carries.
        owner: String,
        /// What was seen.
        expected: i64,
    },
    /// A balancer's presence, ours by this `id`. Every write happens only on what was seen, or last written. The keys below
    /// `covers` carry the same name: once another one has it, they are let go of as well, and not deleted.
    Presence {
        /// The id that our record carries.
        id: String,
        /// The prefix of the keys that are ours as long as the name is.
        covers: String,
        /// For a claim, the key's `mod_revision` as it was seen; `None` for a new value of a key that is ours.
        expected: Option<i64>,
    },
}

/// What happened.
#[expect(missing_docs, reason = "the text of each variant names its fields")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The moment of [`Ledger::wake_at`] has come.
    Woke,
    /// The lease to stand under from now on.
    Lease(Option<LeaseId>),
    /// This key is to stand, with this value.
    Put { key: String, value: Vec<u8>, fence: Fence },
    /// This key is to go.
    Remove { key: String },
    /// What is believed to stand may not: etcd has another history, or a key was deleted.
    Doubt,
    /// The same of what is fenced alone.
    DoubtFenced,
    /// etcd says that these keys stand under `lease`, and no others.
    FoundKeys { lease: LeaseId, keys: BTreeSet<String> },
    /// The write under way is done, at this revision.
    Written { revision: i64 },
    /// The fenced write under way found the key changed.
    Occupied { found: Option<Found> },
    /// The write under way was not answered, or refused.
    Failed,
    /// The write under way named a lease that is gone; the keeper is told by the task.
    LeaseGone,
}

/// What stands at a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The value.
    pub value: Vec<u8>,
    /// etcd's revision of it.
    pub mod_revision: i64,
}

/// What to do.
#[expect(missing_docs, reason = "the text of each variant names its fields")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write and delete these, in one transaction.
    Write { lease: LeaseId, puts: Vec<(String, Vec<u8>)>, deletes: Vec<String> },
    /// Write this one, only if its `mod_revision` is this (0: absent).
    WriteFenced { lease: LeaseId, key: String, value: Vec<u8>, expected: i64 },
}

#[derive(Debug)]
struct Slot {
    value: Vec<u8>,
    fence: Fence,
    /// The lease under which `value` is known to stand.
    stands: Option<LeaseId>,
    /// The key's revision, as last seen; `None` until there was a write.
    revision: Option<i64>,
    /// The revision of our last write that was answered.
    written: Option<i64>,
}

/// A write under way: the keys it concerns, and the values that were sent.
#[derive(Debug)]
struct UnderWay {
    lease: LeaseId,
    puts: Vec<(String, Vec<u8>)>,
    deletes: Vec<String>,
}

/// The ledger machine. One write is under way at a time.
#[derive(Debug)]
pub(super) struct Ledger {
    lease: Option<LeaseId>,
    slots: BTreeMap<Arc<str>, Slot>,
    /// Those of them that do not stand under `lease`: of thousands nearly always a few.
    missing: BTreeSet<Arc<str>>,
    to_delete: BTreeSet<String>,
    superseded: BTreeSet<String>,
    /// Those of `slots` that are fenced: a few, where a balancer has thousands of others.
    fenced: BTreeSet<Arc<str>>,
    under_way: Option<UnderWay>,
    retry_at: Option<Tick>,
    backoff: Backoff,
}

impl Ledger {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            lease: None,
            slots: BTreeMap::new(),
            missing: BTreeSet::new(),
            to_delete: BTreeSet::new(),
            superseded: BTreeSet::new(),
            fenced: BTreeSet::new(),
            under_way: None,
            retry_at: None,
            backoff: Backoff::new(RETRY_FIRST, RETRY_MAX, seed),
        }
    }

    /// When [`Input::Woke`] is due.
    pub(super) fn wake_at(&self) -> Option<Tick> {
        self.retry_at
    }

    /// All that is to stand does, and all that is to go is gone.
    pub(super) fn settled(&self) -> bool {
        self.lease.is_some() && self.to_delete.is_empty() && self.missing.is_empty()
    }

    /// The lease of the write that is under way.
    pub(super) fn writes_under(&self) -> Option<LeaseId> {
        self.under_way.as_ref().map(|write| write.lease)
    }

    /// The revision of our last write of each fenced key.
    pub(super) fn revisions(&self) -> impl Iterator<Item = (&str, i64)> {
        let fenced = self.fenced.iter().filter_map(|key| self.slots.get_key_value(key));
        fenced.filter_map(|(key, slot)| Some((&**key, slot.written?)))
    }

    /// The fenced keys that stand under the lease with the value that was put last.
    pub(super) fn standing(&self) -> impl Iterator<Item = &str> {
        let stands = |key: &&Arc<str>| self.lease.is_some() && !self.missing.contains(*key);
        self.fenced.iter().filter(stands).map(|key| &**key)
    }

    /// What is believed to stand may not: all of these are written again.
    fn doubt(&mut self, which: impl Fn(&Slot) -> bool) {
        for (key, slot) in self.slots.iter_mut().filter(|(_, slot)| which(slot)) {
            slot.stands = None;
            self.missing.insert(Arc::clone(key));
        }
    }

    /// Of the keys that are believed to stand under `lease`, only these do: the others are written again.
    fn compare_keys(&mut self, lease: LeaseId, keys: &BTreeSet<String>) {
        for (key, slot) in &mut self.slots {
            if slot.stands == Some(lease) && !keys.contains(&**key) {
                slot.stands = None;
                self.missing.insert(Arc::clone(key));
            }
        }
    }

    /// Keys that a newer owner took over from us.
    pub(super) fn superseded(&self) -> &BTreeSet<String> {
        &self.superseded
    }

    /// The next actions.
    pub(super) fn step(&mut self, now: Tick, input: Input) -> Vec<Action> {
        match input {
            Input::Woke => {
                if self.retry_at.is_some_and(|due| now >= due) {
                    self.retry_at = None;
                }
            }
            Input::Lease(lease) => {
                self.lease = lease;
                self.retry_at = None;
                let missing = self.slots.iter().filter(|(_, slot)| slot.stands != lease);
                self.missing = missing.map(|(key, _)| Arc::clone(key)).collect();
            }
            Input::Put { key, value, fence } => self.put(key, value, fence),
            Input::Remove { key } => self.remove(key),
            Input::Doubt => self.doubt(|_| true),
            Input::DoubtFenced => self.doubt(|slot| slot.fence != Fence::None),
            Input::FoundKeys { lease, keys } => self.compare_keys(lease, &keys),
            Input::Written { revision } => self.written(revision),
            Input::Occupied { found } => self.occupied(found),
            Input::Failed => {
                self.under_way = None;
                self.retry_at = Some(now.plus(self.backoff.after_failure()));
            }
            Input::LeaseGone => {
                if let Some(UnderWay { lease, .. }) = self.under_way.take()
                    && self.lease == Some(lease)
                {
                    self.lease = None;
                }
            }
        }
        self.next_write().into_iter().collect()
    }

    fn put(&mut self, key: String, value: Vec<u8>, fence: Fence) {
        let (fence, expected) = match fence {
            Fence::Claim { owner, expected } => (Fence::Owner(owner), Some(expected)),
            Fence::Presence { id, covers, expected } => {
                (Fence::Presence { id, covers, expected: None }, expected)
            }
            other => (other, None),
        };
        // A claim was made after a look at what stands there. Everything else was asked for before the news had reached
        // who asks: taking it back would be a fight.
        if expected.is_none() && self.superseded.contains(&key) {
            return;
        }
        self.superseded.remove(&key);
        self.to_delete.remove(&key);
        match self.slots.get_mut(&*key) {
            Some(slot) if slot.value == value && slot.fence == fence && expected.is_none() => {}
            Some(slot) => {
                slot.value = value;
                slot.fence = fence;
                slot.stands = None;
                slot.revision = expected.or(slot.revision);
                self.missing.insert(key.into());
            }
            None => {
                let key: Arc<str> = key.into();
                if fence != Fence::None {
                    self.fenced.insert(Arc::clone(&key));
                }
                self.missing.insert(Arc::clone(&key));
                self.slots
                    .insert(key, Slot { value, fence, stands: None, revision: expected, written: None });
            }
        }
    }

    /// A fenced key is only let go of, and ends with the lease: deleting it could hit a newer owner's.
    fn remove(&mut self, key: String) {
        let slot = self.slots.remove(&*key);
        self.missing.remove(&*key);
        self.fenced.remove(&*key);
        if slot.is_none_or(|slot| slot.fence == Fence::None) && !self.superseded.contains(&key) {
            self.to_delete.insert(key);
        }
    }

    fn written(&mut self, revision: i64) {
        self.backoff.reset();
        let Some(UnderWay { lease, puts, deletes }) = self.under_way.take() else {
            return;
        };
        for (key, value) in puts {
            if let Some(slot) = self.slots.get_mut(&*key) {
                (slot.revision, slot.written) = (Some(revision), Some(revision));
                if slot.value == value {
                    slot.stands = Some(lease);
                    if self.lease == Some(lease) {
                        self.missing.remove(&*key);
                    } else {
                        self.missing.insert(key.into());
                    }
                }
            }
        }
        for key in deletes {
            // Put again in the meantime: it is no longer in the set, and its slot says that it does not stand.
            self.to_delete.remove(&key);
        }
    }

    fn occupied(&mut self, found: Option<Found>) {
        let Some(UnderWay { puts, .. }) = self.under_way.take() else {
            return;
        };
        let Some((key, _)) = puts.into_iter().next() else {
            return;
        };
        let Some(slot) = self.slots.get_mut(&*key) else {
            return;
        };
        match found {
            // Our lease ended and took the key with it: it may be written again.
            None => slot.revision = Some(0),
            // A record that is older than our last write is no newer owner's: a restored backup brought it back.
            Some(found)
                if is_foreign(&found.value, &slot.fence)
                    && slot.written.is_none_or(|ours| found.mod_revision > ours) =>
            {
                let covers = match &slot.fence {
                    Fence::Presence { covers, .. } => Some(covers.clone()),
                    _ => None,
                };
                self.slots.remove(&*key);
                self.missing.remove(&*key);
                self.fenced.remove(&*key);
                self.superseded.insert(key);
                if let Some(prefix) = covers {
                    self.let_go(&prefix);
                }
            }
            // Ours (an unanswered write that did arrive), or no record at all: it is written over.
            Some(found) => slot.revision = Some(found.mod_revision),
        }
    }

    /// The keys below `prefix` are another one's from now on.
    fn let_go(&mut self, prefix: &str) {
        self.slots.retain(|key, _| !key.starts_with(prefix));
        self.missing.retain(|key| !key.starts_with(prefix));
        self.to_delete.retain(|key| !key.starts_with(prefix));
    }

    fn next_write(&mut self) -> Option<Action> {
        if self.under_way.is_some() || self.retry_at.is_some() {
            return None;
        }
        let lease = self.lease?;
        // What is fenced first: presence stands before any ack, so that no leave misses a balancer.
        let missing = || self.missing.iter().rev().filter_map(|key| self.slots.get_key_value(key));
        let mut fenced = self.fenced.iter().filter(|key| self.missing.contains(*key));
        if let Some((key, slot)) = fenced.next_back().and_then(|key| self.slots.get_key_value(key)) {
            let put = (key.to_string(), slot.value.clone());
            let revision = slot.revision;
            self.under_way = Some(UnderWay { lease, puts: vec![put.clone()], deletes: vec![] });
            return Some(match revision {
                Some(expected) => Action::WriteFenced { lease, key: put.0, value: put.1, expected },
                None => Action::Write { lease, puts: vec![put], deletes: vec![] },
            });
        }
        let puts: Vec<_> =
            missing().take(BATCH_MAX).map(|(key, slot)| (key.to_string(), slot.value.clone())).collect();
        let deletes: Vec<_> = self.to_delete.iter().take(BATCH_MAX - puts.len()).cloned().collect();
        if puts.is_empty() && deletes.is_empty() {
            return None;
        }
        self.under_way = Some(UnderWay { lease, puts: puts.clone(), deletes: deletes.clone() });
        Some(Action::Write { lease, puts, deletes })
    }
}

/// Whether `value` is another owner's record. What is no record has no owner.
fn is_foreign(value: &[u8], fence: &Fence) -> bool {
    match fence {
        Fence::Owner(ours) | Fence::Claim { owner: ours, .. } => {
            parse::<InstanceRecord>(value).is_ok_and(|record| record.owner.as_ref() != Some(ours))
        }
        Fence::Presence { id, .. } => {
            parse::<BalancerRecord>(value).is_ok_and(|record| record.id.as_ref() != Some(id))
        }
        Fence::None => false,
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
