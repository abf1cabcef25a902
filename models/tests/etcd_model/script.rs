//! Draws what is done next, out of a seed and of what the model holds: most of it hits something, some of it misses.

use models::etcd::{Compare, Etcd, Key, Op, Span, Target, Txn};

/// What is done to the model and to etcd. Revisions are the model's.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Txn(Txn),
    Range {
        from: Key,
        end: Key,
        limit: usize,
        revision: i64,
    },
    Grant {
        lease: i64,
        ttl_s: u64,
    },
    KeepAlive(i64),
    Revoke(i64),
    TimeToLive(i64),
    Compact(i64),
    /// Opens a watch below the prefix, from the revision on.
    Watch {
        prefix: Key,
        from: i64,
    },
    /// Closes the n-th watch of those that are open.
    Close(usize),
    /// Asks the n-th watch of those that are open for progress.
    Progress(usize),
    /// Sets or lifts the alarm that the quota is used up.
    Full(bool),
}

/// Most watches that are open at a time.
const WATCHES_MAX: usize = 6;

/// Draws steps.
pub(crate) struct Script {
    rng: fastrand::Rng,
    root: String,
    first_lease: i64,
    leases: Vec<i64>,
    full: bool,
}

impl Script {
    /// The script of `seed`. All its keys begin with `root`.
    pub(crate) fn new(seed: u64, root: String) -> Self {
        let first_lease = i64::try_from(seed).unwrap() * 1_000 + 1;
        Self { rng: fastrand::Rng::with_seed(seed), root, first_lease, leases: Vec::new(), full: false }
    }

    /// The next step, of a model with so many open watches.
    pub(crate) fn next(&mut self, model: &Etcd, watches: usize) -> Step {
        if self.full && self.rng.bool() {
            self.full = false;
            return Step::Full(false);
        }
        let revision = model.history().revision();
        match self.rng.u32(..100) {
            40..56 => self.range(model),
            56..64 => self.grant(),
            64..68 => Step::KeepAlive(self.lease()),
            68..72 => Step::Revoke(self.lease()),
            72..76 => Step::TimeToLive(self.lease()),
            76..80 => Step::Compact(self.rng.i64(1..revision + 3)),
            80..90 if watches < WATCHES_MAX => self.watch(model),
            80..94 if watches > 0 => Step::Progress(self.rng.usize(..watches)),
            94..97 if watches > 0 => Step::Close(self.rng.usize(..watches)),
            97 => {
                self.full = true;
                Step::Full(true)
            }
            _ => Step::Txn(self.txn(model)),
        }
    }

    /// Every lease that was asked for.
    pub(crate) fn leases(&self) -> Vec<i64> {
        self.leases.clone()
    }

    fn key(&mut self) -> Key {
        let name = ["a/1", "a/2", "a/3", "b/1", "b/2", "c"][self.rng.usize(..6)];
        format!("{}{name}", self.root).into_bytes()
    }

    fn prefix(&mut self) -> Key {
        let prefix = ["", "a/", "b/", "a/1", "none/"][self.rng.usize(..5)];
        format!("{}{prefix}", self.root).into_bytes()
    }

    /// A lease that stood once, and one time in eight one that never did.
    fn lease(&mut self) -> i64 {
        match self.rng.choice(&self.leases) {
            Some(lease) if self.rng.u32(..8) > 0 => *lease,
            _ => self.first_lease + 999,
        }
    }

    fn grant(&mut self) -> Step {
        let known = self.rng.choice(&self.leases).copied().filter(|_| self.rng.u32(..8) == 0);
        let next = self.first_lease + i64::try_from(self.leases.len()).unwrap();
        let lease = known.unwrap_or(next);
        // Long enough to outlive the script. What becomes of a short one is a test of its own.
        let ttl_s = self.rng.u64(300..400);
        if !self.leases.contains(&lease) {
            self.leases.push(lease);
        }
        Step::Grant { lease, ttl_s }
    }

    fn txn(&mut self, model: &Etcd) -> Txn {
        let len = self.rng.usize(..3);
        let compare = (0..len).map(|_| self.compare(model)).collect();
        let then = self.ops();
        let otherwise = if self.rng.bool() { self.ops() } else { vec![] };
        match self.rng.u32(..40) {
            0 => Txn::of(vec![Op::get(self.key()); 129]),
            1 => Txn::of([Op::get("")]),
            _ => Txn { compare, then, otherwise },
        }
    }

    /// Two of three hold.
    fn compare(&mut self, model: &Etcd) -> Compare {
        let key = self.key();
        let target = [Target::Mod, Target::Create, Target::Lease][self.rng.usize(..3)];
        let entry = model.history().entry(&key);
        let found = entry.map_or(0, |entry| match target {
            Target::Mod => entry.mod_revision,
            Target::Create => entry.create_revision,
            Target::Lease => entry.lease,
        });
        let value = if self.rng.u32(..3) > 0 { found } else { self.rng.i64(0..30) };
        Compare { key, target, value }
    }

    fn ops(&mut self) -> Vec<Op> {
        let len = self.rng.usize(1..4);
        (0..len).map(|_| self.op()).collect()
    }

    fn op(&mut self) -> Op {
        match self.rng.u32(..10) {
            0..6 => {
                let lease = if self.rng.bool() { self.lease() } else { 0 };
                let value = vec![self.rng.alphanumeric() as u8; self.rng.usize(..4)];
                Op::put(self.key(), value, lease)
            }
            6..8 => Op::delete(self.key()),
            8 => {
                let from = self.prefix();
                let end = after(&from);
                Op::Delete { from, end }
            }
            _ => Op::get(self.key()),
        }
    }

    fn range(&mut self, model: &Etcd) -> Step {
        let (from, end) = match self.rng.u32(..4) {
            0 => (self.key(), vec![]),
            1 => (self.key(), after(self.root.as_bytes())),
            2 => (self.key(), self.key()),
            _ => {
                let from = self.prefix();
                let end = after(&from);
                (from, end)
            }
        };
        let revision = if self.rng.bool() { 0 } else { self.revision(model) };
        Step::Range { from, end, limit: self.rng.usize(..4), revision }
    }

    fn watch(&mut self, model: &Etcd) -> Step {
        let next = model.history().revision() + 1;
        let from = if self.rng.bool() { next } else { self.revision(model) };
        Step::Watch { prefix: self.prefix(), from }
    }

    /// Compacted, past, present or future.
    fn revision(&mut self, model: &Etcd) -> i64 {
        let (newest, compacted) = (model.history().revision(), model.history().compacted().max(1));
        match self.rng.u32(..8) {
            0 => (compacted - 1).max(1),
            1 => compacted,
            2 => newest + self.rng.i64(1..5),
            _ => self.rng.i64(compacted..=newest),
        }
    }
}

/// The end of the span of all keys that begin with `prefix`.
pub(crate) fn after(prefix: &[u8]) -> Key {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// The span of a range.
pub(crate) fn span<'a>(from: &'a Key, end: &'a Key) -> Span<'a> {
    Span { from, end }
}
