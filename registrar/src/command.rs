//! The operator's commands: they speak to etcd alone, and end.
//!
//! [`read`] lists what stands in the registry, [`list`], [`show`] and [`explain`] tell it, [`operator_override`] writes overrides, [`wait`] follows
//! until something is so, [`watch`] for as long as its output is read. What they say is a [`CommandOutput`]: `main` prints it.

mod explain;
mod list;
mod names;
mod operator_override;
mod options;
mod read;
mod show;
mod wait;
mod watch;

pub use explain::explain;
pub use list::list;
pub use operator_override::{drain, resume, weight};
pub use options::{
    DrainOptions, ExplainOptions, ListOptions, LookOptions, Output, OverrideOptions, Reached, ResumeOptions,
    ShowOptions, WaitOptions, WeightOptions, WeightOverride,
};
pub use show::show;
pub use wait::wait;
pub use watch::watch;

use daemon::exit::{CONFIG, FAILED, UNREACHABLE};
use daemon::output::CommandOutput;
use registry::name::InstanceId;
use registry::session::{Class, EtcdError, OptionsError};

/// Why a command could not do what it is for.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// An option does not do.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// etcd.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// The name of an order is that of no instance.
    #[error(
        "no instance {id} is registered{nearest}\n  `registrar list` has all names; `drain` and `weight` take --force for one that is not there yet"
    )]
    NotRegistered {
        /// The name.
        id: InstanceId,
        /// One that is like it, as a question.
        nearest: String,
    },
    /// The order would leave a service without an instance in rotation.
    #[error(
        "{0} is the last one of its service in rotation: without it, no instance would serve\n  bring another one in first (`registrar list`), or give --force"
    )]
    Last(InstanceId),
    /// Other writes to the same override come first, again and again.
    #[error(
        "another client changed the override before each of our writes\n  find out which (`registrar watch`), and try again"
    )]
    Contested,
}

impl CommandError {
    /// The exit code that says so.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Options(_) => CONFIG,
            Self::Etcd(error) if error.class == Class::Refused => CONFIG,
            Self::Etcd(_) => UNREACHABLE,
            Self::NotRegistered { .. } | Self::Last(_) | Self::Contested => FAILED,
        }
    }
}
