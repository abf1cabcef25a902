//! What a command prints, and the code that it exits with.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::exit;

/// What a command found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandOutput {
    /// For standard output, with its last newline.
    pub text: String,
    /// The exit code.
    pub code: u8,
}

impl CommandOutput {
    /// Done: exit code 0.
    #[must_use]
    pub fn done(text: String) -> Self {
        Self { text, code: 0 }
    }

    /// `value` as JSON.
    #[must_use]
    pub fn json(value: &serde_json::Value, code: u8) -> Self {
        Self { text: format!("{value:#}\n"), code }
    }

    /// Prints it. A reader that has gone (`| head`) is no failure.
    #[must_use]
    pub fn print(&self) -> ExitCode {
        let _ = io::stdout().write_all(self.text.as_bytes());
        self.code.into()
    }
}

/// Prints `error` to standard error, and returns `code`.
#[must_use]
pub fn failed(code: u8, error: &dyn Display) -> ExitCode {
    // With the output closed the exit code still says it.
    let _ = writeln!(io::stderr(), "error: {error}");
    code.into()
}

/// Prints what clap says of a command line that asks for help or cannot be read.
#[must_use]
pub fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if error.use_stderr() { exit::USAGE.into() } else { ExitCode::SUCCESS }
}
