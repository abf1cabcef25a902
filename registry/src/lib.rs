//! The contract with etcd: what the keys and records are, and how they are held and followed.
//!
//! Top down: [`name`] and [`key`] say what may stand in a key, [`record`] what may stand in a value.
//! [`session`] talks to etcd with a deadline on every call; [`lease`] keeps keys alive under one lease;
//! [`follow`] keeps a prefix in view; [`trial`] tries what will be needed of etcd, [`route`] says by which address we are reached. Decisions are pure machines
//! (`lease::keeper`, `lease::ledger`, `follow::machine`, `session::rotation`, [`backoff`]); the tasks around them
//! only select, step and perform.

pub mod backoff;
pub mod cas;
pub mod follow;
pub mod key;
pub mod lease;
pub mod name;
pub mod record;
pub mod route;
pub mod session;
pub mod time;
pub mod trial;
