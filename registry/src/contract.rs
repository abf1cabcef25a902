//! The contract: names, keys and records, as they stand in etcd. No I/O.

pub mod key;
pub mod name;
pub mod record;

/// etcd's id of a lease; never 0.
pub type LeaseId = i64;
