//! What every daemon of Leasehold needs, and nothing that only one of them does.
//!
//! [`exit`] has the exit codes, [`output`] what a command prints, [`help`] completions and manual pages, [`log`] the log.
//! [`service_manager`] speaks with systemd, [`port`] serves health, reflection and pages with TLS. [`file`] replaces a file
//! whole or not at all, [`log_once`] logs a condition once, [`table`] lays out rows, [`duration`] reads durations.

pub mod duration;
pub mod exit;
pub mod file;
pub mod help;
pub mod log;
pub mod log_once;
pub mod output;
pub mod port;
pub mod service_manager;
pub mod table;
