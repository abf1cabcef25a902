//! The contract with etcd: what the keys and records are, and how they are held and followed.
//!
//! Top down: [`name`] and [`key`] say what may stand in a key, [`record`] what may stand in a value.
//! [`session`] talks to etcd with a deadline on every call; [`lease`] keeps keys alive under one lease;
//! [`follow`] keeps a prefix in view; [`cas`] changes one key. [`preflight`] tries what will be
//! needed of etcd, [`local_addr`] says by which address others reach us, [`host`] what this host is called. Decisions are pure machines
//! (`lease::keeper`, `lease::ledger`, `follow::machine`, `session::rotation`, [`backoff`]); the tasks around them
//! only select, step and perform.

pub mod backoff;
pub mod cas;
pub mod follow;
pub mod host;
pub mod key;
pub mod lease;
pub mod local_addr;
pub mod name;
pub mod preflight;
pub mod record;
pub mod session;
pub mod time;
