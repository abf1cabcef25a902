//! Finds out whether the app is healthy.
//!
//! `check` is what to try, `expected` what an answer must be, `http`, `tcp`, `grpc` and `exec` try it (`tls` where it is to
//! be so), `health` counts, `task` repeats.

mod check;
mod exec;
mod expected;
mod grpc;
mod health;
mod http;
mod perform;
pub mod prober;
mod tcp;
mod tls;

use std::time::Duration;

pub use check::{Check, CheckError};
pub use expected::{BodyText, Expected, ExpectedError, Header, Statuses};
pub use health::{Health, Verdict};
pub use perform::perform;
pub use tls::{CheckTls, CheckTlsError, CheckTlsOptions};

/// How the app's health is found out.
#[derive(Clone, Debug)]
pub struct ProbeConfig {
    /// What is tried.
    pub check: Check,
    /// What an HTTP check sends and expects.
    pub expected: Expected,
    /// How TLS is spoken, where the check is over TLS.
    pub tls: Option<CheckTlsOptions>,
    /// Time from the app's start within which failures are nothing to be told.
    pub start_grace: Duration,
    /// Time between two checks.
    pub interval: Duration,
    /// Longest a check may take.
    pub timeout: Duration,
    /// Passes in a row that make it healthy.
    pub rise: u32,
    /// Failures in a row that make it unhealthy.
    pub fall: u32,
}
