//! All memberships of one process, under its one lease.
//!
//! [`Members`] decides: one [`crate::member::machine::Machine`] for each, and what the lease says about their records.
//! [`MembersIo`] performs what it decides, on the thread that talks to etcd.

mod io;
mod machine;

pub use io::MembersIo;
pub use machine::{Action, Input, Members};
