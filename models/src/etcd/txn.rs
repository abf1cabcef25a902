//! Transactions: what they compare, check and write.
//!
//! Facts from `etcdserver/apply.go` (3.4.23: `Txn`, `applyCompare`, `checkRequestPut`), `etcdserver/api/v3rpc/key.go`
//! (`checkTxnRequest`, `checkIntervals`) and `mvcc/kvstore_txn.go` (`put`, `End`).

use std::collections::BTreeSet;

use registry::follow::{Change, Entry};
use registry::lease::LeaseId;
use registry::time::Tick;

use super::{Error, Etcd, Header, Key, Span, key_of};

/// Most compares, and most operations of a branch (`embed/config.go`, `DefaultMaxTxnOps`).
pub const OPS_MAX: usize = 128;

/// What is compared of a key. An absent key has 0 for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The revision of its value.
    Mod,
    /// The revision at which it came to be.
    Create,
    /// Its lease.
    Lease,
}

/// Holds if `target` of `key` equals `value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The key, whole.
    pub key: Key,
    /// What is compared.
    pub target: Target,
    /// What it is compared with.
    pub value: i64,
}

impl Compare {
    /// Holds if `key` was last written at `revision`; 0: if it is absent.
    #[must_use]
    pub fn mod_revision(key: impl Into<Key>, revision: i64) -> Self {
        Self { key: key.into(), target: Target::Mod, value: revision }
    }
}

/// An operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a key. It moves from the lease under which it stood to `lease` (0: none).
    Put {
        /// The key, whole.
        key: Key,
        /// The value.
        value: Vec<u8>,
        /// The lease; 0 for none.
        lease: LeaseId,
    },
    /// Deletes the keys of a span.
    Delete {
        /// The first key.
        from: Key,
        /// The end, as in [`Span`].
        end: Key,
    },
    /// Reads a key, after the operations before it.
    Get {
        /// The key, whole.
        key: Key,
    },
}

impl Op {
    /// Writes `key` under `lease` (0: none).
    #[must_use]
    pub fn put(key: impl Into<Key>, value: impl Into<Vec<u8>>, lease: LeaseId) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease }
    }

    /// Deletes `key`.
    #[must_use]
    pub fn delete(key: impl Into<Key>) -> Self {
        Self::Delete { from: key.into(), end: vec![] }
    }

    /// Reads `key`.
    #[must_use]
    pub fn get(key: impl Into<Key>) -> Self {
        Self::Get { key: key.into() }
    }

    fn key(&self) -> &[u8] {
        match self {
            Self::Put { key, .. } | Self::Get { key } | Self::Delete { from: key, .. } => key,
        }
    }
}

/// A transaction: `then` if all of `compare` hold, `otherwise` if not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub compare: Vec<Compare>,
    /// Done if they do.
    pub then: Vec<Op>,
    /// Done if they do not.
    pub otherwise: Vec<Op>,
}

impl Txn {
    /// A transaction without a condition.
    #[must_use]
    pub fn of(ops: impl Into<Vec<Op>>) -> Self {
        Self { then: ops.into(), ..Self::default() }
    }
}

/// The answer to an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpAnswer {
    /// It is written.
    Put,
    /// So many keys are deleted.
    Deleted(usize),
    /// What stands there.
    Got(Option<Entry>),
}

/// The answer to a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnAnswer {
    /// With the revision of the transaction; of the last one before it if it changed nothing.
    pub header: Header,
    /// Whether the compares held.
    pub succeeded: bool,
    /// One for each operation of the branch that was taken.
    pub answers: Vec<OpAnswer>,
}

impl Etcd {
    /// Carries `txn` out, sent to `member`. The answer can leave that member from [`Etcd::applied_at`] its revision on.
    pub fn txn(&mut self, now: Tick, member: usize, txn: &Txn) -> Result<TxnAnswer, Error> {
        self.ready_for(now, Some(member))?;
        self.check(txn)?;
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        self.check_leases(ops)?;
        let mut changes = Vec::new();
        let answers = ops.iter().map(|op| self.carry_out(op, &mut changes)).collect();
        self.commit(now, changes);
        let header = Header { revision: self.history.revision(), ..self.header(member) };
        Ok(TxnAnswer { header, succeeded, answers })
    }

    /// What is refused whichever branch is taken.
    fn check(&self, txn: &Txn) -> Result<(), Error> {
        let branches = [&txn.then, &txn.otherwise];
        let is_too_long = |len: usize| len > OPS_MAX;
        if is_too_long(txn.compare.len()) || branches.iter().any(|ops| is_too_long(ops.len())) {
            return Err(Error::TooManyOps);
        }
        let mut keys = txn.compare.iter().map(|compare| &*compare.key);
        if keys.any(<[u8]>::is_empty) || branches.iter().any(|ops| ops.iter().any(|op| op.key().is_empty())) {
            return Err(Error::EmptyKey);
        }
        if branches.iter().any(|ops| writes_twice(ops)) {
            return Err(Error::DuplicateKey);
        }
        // A transaction that only deletes or reads costs no space, and is let through (`quota.go`, `costTxn`).
        let puts = |ops: &[Op]| ops.iter().any(|op| matches!(op, Op::Put { .. }));
        if self.full && branches.iter().any(|ops| puts(ops)) {
            return Err(Error::NoSpace);
        }
        Ok(())
    }

    fn check_leases(&self, ops: &[Op]) -> Result<(), Error> {
        let unknown =
            |op: &Op| matches!(op, Op::Put { lease, .. } if *lease != 0 && !self.leases.contains(*lease));
        if ops.iter().any(unknown) { Err(Error::LeaseNotFound) } else { Ok(()) }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let entry = self.history.entry(&compare.key);
        let found = entry.map_or(0, |entry| match compare.target {
            Target::Mod => entry.mod_revision,
            Target::Create => entry.create_revision,
            Target::Lease => entry.lease,
        });
        found == compare.value
    }

    fn carry_out(&mut self, op: &Op, changes: &mut Vec<Change>) -> OpAnswer {
        match op {
            Op::Put { key, value, lease } => {
                changes.push(Change::Put(self.written(key, value, *lease)));
                OpAnswer::Put
            }
            Op::Delete { from, end } => {
                let deleted = self.deletions(Span { from, end }, changes);
                let count = deleted.len();
                changes.extend(deleted);
                OpAnswer::Deleted(count)
            }
            Op::Get { key } => OpAnswer::Got(match changes.iter().rev().find(|it| key_of(it) == key) {
                Some(Change::Put(entry)) => Some(entry.clone()),
                Some(Change::Delete { .. }) => None,
                None => self.history.entry(key).cloned(),
            }),
        }
    }

    fn written(&mut self, key: &[u8], value: &[u8], lease: LeaseId) -> Entry {
        let mod_revision = self.history.next_revision();
        let before = self.history.entry(key);
        let create_revision = before.map_or(mod_revision, |entry| entry.create_revision);
        let old_lease = before.map_or(0, |entry| entry.lease);
        self.leases.move_key(key, old_lease, lease);
        Entry { key: key.to_vec(), value: value.to_vec(), lease, create_revision, mod_revision }
    }

    /// Deletions of what stands within `span`, without what `changes` have already deleted.
    fn deletions(&mut self, span: Span<'_>, changes: &[Change]) -> Vec<Change> {
        let mod_revision = self.history.next_revision();
        let standing = self.history.entries_at(span.from, span.end, self.history.revision());
        let is_changed = |entry: &&Entry| changes.iter().any(|change| key_of(change) == entry.key);
        let entries: Vec<_> = standing
            .filter(|entry| !is_changed(entry))
            .map(|entry| (entry.key.clone(), entry.lease))
            .collect();
        let delete = |(key, lease): (Key, LeaseId)| {
            self.leases.move_key(&key, lease, 0);
            Change::Delete { key, mod_revision }
        };
        entries.into_iter().map(delete).collect()
    }
}

/// Whether a key is put twice, or put and deleted.
fn writes_twice(ops: &[Op]) -> bool {
    let mut puts = BTreeSet::new();
    let is_new = ops.iter().all(|op| !matches!(op, Op::Put { key, .. } if !puts.insert(key)));
    let mut deletes = ops.iter().filter_map(|op| match op {
        Op::Delete { from, end } => Some(Span { from, end }),
        _ => None,
    });
    !is_new || deletes.any(|span| puts.iter().any(|key| span.contains(key)))
}
