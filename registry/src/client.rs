//! The etcd client: what holds, follows and changes keys. The pure machines inside are public for simulations.
//!
//! [`session`] makes every call, with a deadline; [`lease`] keeps keys alive; [`follow`] keeps a prefix in view; [`cas`]
//! changes one key; [`preflight`] tries what will be needed; [`local_addr`] says by which address others reach us.

pub mod cas;
pub mod follow;
pub mod lease;
pub mod local_addr;
pub mod preflight;
pub mod session;
