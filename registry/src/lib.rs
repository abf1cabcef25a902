//! The contract with etcd: what the keys and records are, and how they are held and followed.
//!
//! [`contract`] says what may stand in a key and in a value. [`client`] is the etcd client. [`backoff`] spreads retries,
//! [`time`] has ticks and the clock, [`host`] says what this host is called. Decisions are pure machines (`lease::keeper`,
//! `lease::ledger`, `follow::machine`, `session::rotation`, [`backoff`]); the tasks around them only select, step and
//! perform.

pub mod backoff;
pub mod client;
pub mod contract;
pub mod host;
pub mod time;

pub use client::{cas, follow, lease, local_addr, preflight, session};
pub use contract::{key, name, record};
