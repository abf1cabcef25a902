//! The log, on standard error.

use std::io::{self, IsTerminal as _};

use clap::{Args, ValueEnum};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::layer;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How to log.
#[derive(Args, Clone, Debug)]
pub struct LogOptions {
    /// Format of the log on standard error [default: text on a terminal, json elsewhere].
    #[arg(long, env = "LEASEHOLD_LOG_FORMAT", value_enum, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// What is logged: a level, or a filter such as `info,lb_sync=debug`.
    #[arg(long = "log", env = "LEASEHOLD_LOG", default_value = "info", value_name = "FILTER")]
    pub filter: String,
}

/// Format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line, for log collectors.
    Json,
}

/// A filter that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "--log (LEASEHOLD_LOG) {0:?} is no filter: {1}\n  write a level (error, warn, info, debug, trace, off), or levels by module, for example info,registry=debug"
)]
pub struct FilterError(String, String);

impl LogOptions {
    fn targets(&self) -> Result<Targets, FilterError> {
        // Without regular expressions: a host with many registrars would pay for them in memory.
        let refused = |why: String| FilterError(self.filter.clone(), why);
        // Taken for a module's name, a misspelt level would silence everything else.
        let misspelt = |part: &&str| !part.contains('=') && part.parse::<LevelFilter>().is_err();
        if let Some(part) = self.filter.split(',').find(misspelt) {
            return Err(refused(format!("{part:?} is no level")));
        }
        self.filter.parse::<Targets>().map_err(|error| refused(error.to_string()))
    }

    /// Starts the log. To be called once.
    pub fn start(&self) -> Result<(), FilterError> {
        let filter = self.targets()?;
        let terminal = io::stderr().is_terminal();
        let default = if terminal { LogFormat::Text } else { LogFormat::Json };
        // A standard error that is closed cannot be written to; trying to say so would panic.
        let layer = layer().with_writer(io::stderr).log_internal_errors(false);
        let layer = match self.log_format.unwrap_or(default) {
            LogFormat::Text => layer.with_ansi(terminal).with_target(false).with_filter(filter).boxed(),
            LogFormat::Json => layer.json().flatten_event(true).with_filter(filter).boxed(),
        };
        tracing_subscriber::registry().with(layer).init();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_read_is_refused_with_what_to_write() {
        let options = |filter: &str| LogOptions { log_format: None, filter: filter.into() };
        for good in ["info", "off", "warn,registry=debug"] {
            assert!(options(good).targets().is_ok(), "{good}");
        }
        for bad in ["loud", "debgu", "info,registry=loud"] {
            let error = options(bad).targets().unwrap_err().to_string();
            assert!(error.contains("LEASEHOLD_LOG") && error.contains("write a level"), "{error}");
        }
    }
}
