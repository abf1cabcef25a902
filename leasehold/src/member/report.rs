//! What a member has to say: a line for each change, with its cause.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

use registry::name::{BalancerName, InstanceName};

/// One change of a member, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Its checks fail since the start.
    NotYet {
        /// The last failure.
        cause: String,
    },
    /// It is healthy, and is being registered.
    Up {
        /// Where.
        at: SocketAddr,
    },
    /// It is healthy no longer.
    Down {
        /// The last failure.
        cause: String,
    },
    /// It claims this name.
    Claiming(InstanceName),
    /// Another owner has the name that it had, or claimed it first; it claims another name.
    NameLost(InstanceName),
    /// etcd did not list the names of the service; the search is retried.
    NamesUnknown {
        /// The error.
        cause: String,
    },
    /// A living instance elsewhere has the host's name.
    NameHeld {
        /// The name.
        name: InstanceName,
        /// Where that one is, if its record says so.
        by: Option<SocketAddr>,
    },
    /// Every number is taken.
    NoName,
    /// Its record stands in etcd.
    Registered,
    /// Its record is gone from etcd, and not by us.
    Gone,
    /// Another client wrote over its record.
    WrittenOver,
    /// A newer registrar has its name.
    Superseded,
    /// The newer registrar of its name has ended: it claims the name again.
    NameReturned,
    /// It is on its way out.
    Leaving,
    /// It is on its way out, and etcd does not answer.
    LeavingBlind,
    /// These balancers have yet to say that they are done with it.
    Awaiting(BTreeSet<BalancerName>),
    /// No balancer is awaited any more: all have acked, or none was there.
    Left,
    /// The wait is over, and these are not done; `None`: it could not be told.
    TimedOut(Option<BTreeSet<BalancerName>>),
}

impl Report {
    /// How urgent it is for an operator.
    #[must_use]
    pub fn level(&self) -> tracing::Level {
        match self {
            Self::Superseded | Self::NameHeld { .. } | Self::NoName => tracing::Level::ERROR,
            Self::NotYet { .. }
            | Self::Down { .. }
            | Self::NamesUnknown { .. }
            | Self::Gone
            | Self::WrittenOver
            | Self::NameReturned
            | Self::LeavingBlind
            | Self::TimedOut(_) => tracing::Level::WARN,
            Self::Up { .. }
            | Self::Claiming(_)
            | Self::NameLost(_)
            | Self::Registered
            | Self::Leaving
            | Self::Awaiting(_)
            | Self::Left => tracing::Level::INFO,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotYet { cause } => {
                write!(f, "not healthy yet: {cause}; it is registered once its checks pass")
            }
            Self::Up { at } => write!(f, "healthy at {at}"),
            Self::Down { cause } => write!(f, "down: {cause}"),
            Self::Claiming(name) => write!(f, "claiming the name {name}"),
            Self::NameLost(name) => write!(f, "another owner has the name {name}: claiming another name"),
            Self::NamesUnknown { cause } => write!(f, "cannot list the names of the service: {cause}; retrying"),
            Self::NameHeld { name, by } => {
                let at = by.map_or_else(|| "elsewhere".to_owned(), |by| format!("at {by}"));
                write!(f, "an instance {at} has the name {name} and lives: not registered before its lease has missed a beat\n  this name is the host's; give each instance its own with --instance NAME, or --instance auto")
            }
            Self::NoName => f.write_str(
                "all numbered names of the service are taken\n  give the instance a name of its own with --instance NAME",
            ),
            Self::Registered => f.write_str("the record stands"),
            Self::Gone => {
                f.write_str("the record is gone from etcd: its lease ended, or it was deleted; it is written again")
            }
            Self::WrittenOver => f.write_str("another client wrote over the record: claiming it"),
            Self::Superseded => f.write_str(
                "another registrar took over this name: standing down, the app is left alone\n  give each instance a name of its own with --instance NAME",
            ),
            Self::NameReturned => {
                f.write_str("the other registrar of this name has ended: registering under it again")
            }
            Self::Leaving => f.write_str("leaving: the record says draining"),
            Self::LeavingBlind => {
                f.write_str("leaving, but etcd does not answer: balancers cannot be told until it does")
            }
            Self::Awaiting(names) => write!(f, "waiting for {} to drain", list(names)),
            Self::Left => f.write_str("left: no balancer is waited for"),
            Self::TimedOut(Some(names)) => write!(f, "left late: {} did not say drained in time", list(names)),
            Self::TimedOut(None) => f.write_str("left late: etcd did not say in time which balancers are done"),
        }
    }
}

fn list(names: &BTreeSet<BalancerName>) -> String {
    names.iter().map(BalancerName::as_str).collect::<Vec<_>>().join(", ")
}
