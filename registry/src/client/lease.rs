//! Holds keys in etcd under one lease, for as long as the process lives.
//!
//! Two pure machines: [`keeper`] keeps a lease and replaces it the moment it is lost, [`ledger`] knows which keys
//! must stand under it and writes those that do not. [`machine`] puts both together, and the task performs what it
//! decides. The machines are public for simulations and tests of the whole.

pub mod keeper;
pub mod ledger;
pub mod machine;
mod metrics;
mod task;
mod time_to_live;

pub use crate::contract::LeaseId;
pub use ledger::Fence;
pub use machine::LeaseStatus;
pub use metrics::LeaseMetrics;
pub use task::{LeaseHandle, lease_task};
pub use time_to_live::{TimeToLive, time_to_live};

/// Shortest ttl that may be asked for, in seconds. etcd grants no less than 1.5 election timeouts (2 s by
/// default), and a lease must hold several beats.
pub const TTL_S_MIN: u64 = 2;
/// Longest, in seconds: for so long would a dead host be believed.
pub const TTL_S_MAX: u64 = 3_600;
