//! Whole stacks of real processes on loopback, and the load that counts their failures.
//!
//! A scenario starts a [`Stack`], puts a [`load::Load`] on it, does something to it and says what must be seen:
//! [`stack`] is the words for that, and [`service`], [`instance`], [`app`], [`etcd`], [`haproxy`] and [`lb_sync`] are
//! what the words act on. Below: [`process`] (nothing outlives its guard), [`home`] (one temporary folder, logs
//! included), [`port`], [`program`], `slot` (how many stacks at a time), [`apart`] (a network namespace whose packets can be lost), [`wait`]. [`blocking`] is for tests of one binary.
//!
//! Nothing here shares code with the programs under test but the keys' prefix and the clock: a test that believed
//! the code it tests would find nothing.

pub mod apart;
pub mod app;
#[allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "a test fails by a panic, helpers included"
)]
pub mod blocking;
pub mod etcd;
mod fail;
pub mod haproxy;
pub mod home;
pub mod http;
pub mod instance;
pub mod lb_sync;
pub mod load;
pub mod port;
pub mod process;
pub mod program;
pub mod service;
mod slot;
pub mod stack;
pub mod wait;

pub use load::PerSecond;
pub use registry::time::{Clock, Tick};
pub use stack::Stack;

/// Where the registry's keys stand in every stack's own etcd.
pub const PREFIX: &str = "/leasehold/v1";
