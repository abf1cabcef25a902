//! Whether an instance gets traffic, by what HAProxy does, and why, by what the registry says.

use std::fmt;

use registry::name::ServiceName;
use registry::record::Intent;

use crate::status::{InstanceStatus, Phase, Reason};

/// How much of the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Amount {
    /// Its share.
    Full,
    /// Only that of clients who had it before.
    Sticky,
    /// None.
    None,
}

/// Whether it gets traffic, and why or why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) amount: Amount,
    pub(super) why: String,
}

impl Amount {
    /// A stable word for programs.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Full => "yes",
            Self::Sticky => "sticky",
            Self::None => "no",
        }
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gets = match self.amount {
            Amount::Full => "It gets traffic",
            Amount::Sticky => "It gets traffic of sticky clients only",
            Amount::None => "It gets no traffic",
        };
        write!(f, "{gets}: {}.", self.why)
    }
}

/// What a status comes to. `service` is the instance's; `unreadable`: its record cannot be read; `check` is HAProxy's
/// last check of it, in HAProxy's words.
pub(super) fn traffic(
    status: InstanceStatus,
    service: &ServiceName,
    unreadable: bool,
    check: &str,
) -> Traffic {
    let InstanceStatus { phase, reason } = status;
    let amount = match phase {
        Phase::Up => Amount::Full,
        Phase::Drain => Amount::Sticky,
        Phase::Absent | Phase::Down | Phase::Maint => Amount::None,
    };
    let why = match reason {
        Reason::NotRegistered if unreadable => "its record cannot be read".to_owned(),
        Reason::NoBackend => format!("this HAProxy has no backend {service}; add one of that name"),
        Reason::CheckFails if !check.is_empty() => format!("{} ({check})", reason.text()),
        reason => reason.text().to_owned(),
    };
    let as_it_should = matches!(reason, Reason::Wanted(Intent::Serve) | Reason::Suspect);
    let why = if phase == Phase::Up && !as_it_should { format!("still, though {why}") } else { why };
    Traffic { amount, why }
}
