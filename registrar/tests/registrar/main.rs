//! The binary, against a real etcd, with real processes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by a panic, helpers included"
)]

mod etcd;
mod leaving;
mod leftovers;
mod library;
mod membership;
mod naming;
mod program;
mod starting;
mod supervising;

use testkit::blocking::until;
