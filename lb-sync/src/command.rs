//! The commands that look and do not touch: [`plan`], [`check`], [`explain`].
//!
//! Each reads etcd by one list and HAProxy by the same code as the pass, and asks the planner that `run` uses. What they
//! say is a [`CommandOutput`]: `main` prints it.

mod check;
mod dry_run;
mod explain;
mod options;
mod plan;
mod read;
mod running;
mod text;

pub use check::check;
pub use explain::explain;
pub use options::{ExplainOptions, LookOptions, Output};
pub use plan::plan;

use daemon::exit::{CONFIG, FAILED, UNREACHABLE};
use daemon::output::CommandOutput;
use registry::session::{Class, EtcdError};

use crate::balancer::PassError;
use crate::config::ConfigError;
use haproxy::DialogueError;

/// There is something to do (`plan`), as `diff` and `grep` say it with 1: that one is taken by failures.
const SOMETHING_TO_DO: u8 = 2;

/// Why a command could not find out.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// An option does not do.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// etcd.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// HAProxy.
    #[error(transparent)]
    Haproxy(#[from] PassError),
}

impl CommandError {
    /// The exit code that says so.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_)
            | Self::Haproxy(PassError::TooOld(_) | PassError::Dialogue(DialogueError::NotAdmin { .. })) => {
                CONFIG
            }
            // It answers, and says no: to a user, a password, a role.
            Self::Etcd(error) if error.class == Class::Refused => CONFIG,
            Self::Etcd(_) | Self::Haproxy(_) => UNREACHABLE,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_exit_code_tells_what_cannot_be_reached_from_what_says_no() {
        let etcd =
            |class| EtcdError { what: "list", endpoint: "http://e:1".into(), class, cause: String::new() };
        assert_eq!(CommandError::from(etcd(Class::Unreachable)).exit_code(), 69);
        assert_eq!(CommandError::from(etcd(Class::Refused)).exit_code(), 78);
        let haproxy = |error: DialogueError| CommandError::from(PassError::from(error)).exit_code();
        assert_eq!(haproxy(DialogueError::Timeout(Duration::from_secs(5))), 69);
        assert_eq!(haproxy(DialogueError::NotAdmin { path: "s".into(), level: "user".into() }), 78);
        assert_eq!(CommandError::from(ConfigError("x".into())).exit_code(), 78);
    }
}
