//! What etcd answers: the head of each answer, errors, and spans of keys.

use std::fmt;
use std::time::Duration;

use registry::follow::Entry;
use registry::lease::LeaseId;
use registry::session::Class;

/// The head of every answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The cluster's id: a hash of the peer URLs and the token, so that a wiped cluster has it again
    /// (`etcdserver/api/membership/cluster.go`, `genID`).
    pub cluster: u64,
    /// The id of the member that answered; it survives a wipe too (`membership/member.go`, `newMember`).
    pub member_id: u64,
    /// Raft's term.
    pub raft_term: u64,
    /// The revision of the store.
    pub revision: i64,
}

/// The answer to a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeAnswer {
    /// With the member's newest revision, whichever was asked for.
    pub header: Header,
    /// The keys and values, by key.
    pub entries: Vec<Entry>,
    /// There are more than the limit.
    pub more: bool,
}

/// A lease that was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Its id.
    pub lease: LeaseId,
    /// Its ttl; longer than asked for if that was below [`super::TTL_MIN`].
    pub ttl: Duration,
}

/// A call that etcd refused or could not answer. The text is etcd's (`etcdserver/api/v3rpc/rpctypes/error.go`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// There is no leader, or the member is cut off from it.
    Unavailable,
    /// The revision asked for is compacted.
    Compacted,
    /// The revision asked for does not exist yet.
    FutureRevision,
    /// The quota is used up.
    NoSpace,
    /// There is no such lease.
    LeaseNotFound,
    /// There is such a lease already.
    LeaseExists,
    /// A transaction has more than [`super::OPS_MAX`] compares, or operations in a branch.
    TooManyOps,
    /// A branch writes a key twice.
    DuplicateKey,
    /// A key is empty.
    EmptyKey,
}

impl Error {
    /// What a caller of `registry::session` sees of it.
    #[must_use]
    pub fn class(self) -> Class {
        match self {
            Self::Unavailable | Self::Compacted | Self::FutureRevision | Self::NoSpace => Class::Unreachable,
            Self::LeaseNotFound => Class::NotFound,
            Self::LeaseExists | Self::TooManyOps | Self::DuplicateKey | Self::EmptyKey => Class::Refused,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unavailable => "etcdserver: no leader",
            Self::Compacted => "etcdserver: mvcc: required revision has been compacted",
            Self::FutureRevision => "etcdserver: mvcc: required revision is a future revision",
            Self::NoSpace => "etcdserver: mvcc: database space exceeded",
            Self::LeaseNotFound => "etcdserver: requested lease not found",
            Self::LeaseExists => "etcdserver: lease already exists",
            Self::TooManyOps => "etcdserver: too many operations in txn request",
            Self::DuplicateKey => "etcdserver: duplicate key given in txn request",
            Self::EmptyKey => "etcdserver: key is not provided",
        })
    }
}

impl std::error::Error for Error {}

/// The keys from `from` to before `end`. An empty `end` means the one key `from`; an `end` of one zero byte means all keys
/// from `from` on (`etcdserver/apply.go`, `mkGteRange`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span<'a> {
    /// The first key.
    pub from: &'a [u8],
    /// The end, exclusive.
    pub end: &'a [u8],
}

impl Span<'_> {
    /// Whether `key` is within.
    #[must_use]
    pub fn contains(self, key: &[u8]) -> bool {
        match self.end {
            [] => key == self.from,
            [0] => key >= self.from,
            end => key >= self.from && key < end,
        }
    }
}
