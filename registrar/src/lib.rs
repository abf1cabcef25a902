//! Holds an app's place in the registry: a leased key that stands while the app is healthy, and leaves before it stops.
//!
//! Top down: [`cli`] and [`file`] say what is asked for, [`config`] what that comes to, [`run`] wires it up. [`probe`] finds out whether the app
//! is healthy, the crate `leasehold` turns that into the instance's record, [`supervise`] starts, watches and stops the app,
//! `health` and `metrics` say what to answer who asks, [`command`] holds the operator's commands. [`machine`] has every decision of
//! a registrar: over the programs, the checks and the memberships. The tasks around it only select, step and perform.

pub mod cli;
pub mod command;
pub mod config;
mod health;
pub mod machine;
mod metrics;
pub mod probe;
mod run;
pub mod supervise;

pub use machine::Registrar;
pub use run::{RunError, run};
