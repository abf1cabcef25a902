//! Starts the app and those beside it, watches them, and stops them in order.
//!
//! [`supervisor`] decides for the whole, [`program`] for each; `children` performs, [`output`] hands on what they print,
//! `reaper` owns every child process and every wait, `signals` says what is asked of us.

mod children;
pub mod output;
pub mod program;
mod reaper;
mod signals;
pub mod supervisor;

use std::fmt;

pub use children::{Children, ProgramConfig, Restarts};
pub use reaper::{Child, Processes, SpawnError, start};
pub use signals::{Request, requests};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(u8),
    /// By the signal of this number.
    Signal(u8),
}

impl Exit {
    /// The code a shell gives it: the process's own, or 128 and the signal's number.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(number) => 128_u8.saturating_add(number),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(number) => match i32::from(*number).try_into() {
                Ok(signal) => write!(f, "was ended by {}", nix::sys::signal::Signal::as_str(signal)),
                Err(_) => write!(f, "was ended by signal {number}"),
            },
        }
    }
}
