//! Whether an instance gets traffic, by what HAProxy does, and why, by what the registry says.

use std::fmt;

use registry::record::{InstanceState, OverrideMode};

use super::facts::Facts;
use crate::haproxy::answer::flags::OpState;

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
    /// For machines.
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

/// By HAProxy's state first: that is what clients meet, whatever the registry wants.
pub(super) fn traffic(facts: &Facts<'_>) -> Traffic {
    let told = |amount, why: String| Traffic { amount, why };
    let Some(server) = facts.server else {
        let backend = &facts.id.service;
        let why = match unwanted(facts) {
            None if !facts.has_backend => {
                format!("this HAProxy has no backend {backend}; add one of that name")
            }
            None => "it is about to be added".into(),
            Some(why) => why.to_owned(),
        };
        return told(Amount::None, why);
    };
    let by_hand = "HAProxy was told so, and not by the registry";
    let unwanted =
        if facts.ours { unwanted(facts) } else { Some("HAProxy's server of its name is not lb-sync's") };
    let ordered = || unwanted.unwrap_or(by_hand).to_owned();
    if server.admin.is_maint() {
        return told(Amount::None, ordered());
    }
    if server.op == OpState::Stopped {
        let check = facts.row.as_ref().map_or("", |row| row.check_status.trim_start_matches("* "));
        let why = if check.is_empty() {
            "HAProxy's check fails".into()
        } else {
            format!("HAProxy's check fails ({check})")
        };
        return told(Amount::None, why);
    }
    if server.admin.is_drain() {
        return told(Amount::Sticky, ordered());
    }
    if server.op == OpState::Stopping {
        return told(Amount::Sticky, "its check answers 404 (`http-check disable-on-404`)".into());
    }
    told(
        Amount::Full,
        unwanted.map_or_else(|| "it is registered and up".into(), |why| format!("still, though {why}")),
    )
}

/// Why the registry does not want it served; `None` if it does.
fn unwanted(facts: &Facts<'_>) -> Option<&'static str> {
    let Some(registered) = facts.registered else {
        return Some(if facts.unreadable.is_some() {
            "its record cannot be read"
        } else {
            "it is not registered"
        });
    };
    if facts.eclipsed_by.is_some() {
        return Some("a newer instance has its address");
    }
    match (registered.record.state, facts.wish.and_then(|wish| wish.mode)) {
        (InstanceState::Down, _) => Some("it says that it is unhealthy"),
        (_, Some(OverrideMode::Maintenance)) => Some("an operator took it out"),
        (InstanceState::Draining, _) => Some("it is leaving"),
        (_, Some(OverrideMode::Drain)) => Some("an operator drains it"),
        (InstanceState::Up, None) => None,
    }
}
