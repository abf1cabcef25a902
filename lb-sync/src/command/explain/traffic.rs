//! Whether an instance gets traffic, by what HAProxy does, and why, by what the registry says.

use std::fmt;

use super::facts::Facts;
use crate::plan::standing::{Reason, State};

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
    let (state, reason) = facts.situation().standing();
    let amount = match state {
        State::Up => Amount::Full,
        State::Drain => Amount::Sticky,
        State::Absent | State::Down | State::Maint => Amount::None,
    };
    let why = match reason {
        Reason::NotRegistered if facts.unreadable.is_some() => "its record cannot be read".to_owned(),
        Reason::NoBackend => {
            format!("this HAProxy has no backend {}; add one of that name", facts.id.service)
        }
        Reason::CheckFails => {
            let check = facts.row.as_ref().map_or("", |row| row.check_status.trim_start_matches("* "));
            let check = if check.is_empty() { String::new() } else { format!(" ({check})") };
            format!("{}{check}", reason.text())
        }
        reason => reason.text().to_owned(),
    };
    let as_it_should = matches!(reason, Reason::Registered | Reason::Suspect);
    let why = if state == State::Up && !as_it_should { format!("still, though {why}") } else { why };
    Traffic { amount, why }
}
