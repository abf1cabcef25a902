//! How servers are made: what holds for all of them.

use std::time::Duration;

use haproxy::{Check, ServerId};

/// How servers are made.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// HAProxy's own checks of new servers.
    pub check: Option<Check>,
    /// Ids of our servers start here.
    pub id_base: ServerId,
    /// Whether a server gets traffic before HAProxy's own first check of it has passed.
    pub first_check: FirstCheck,
    /// Whether this HAProxy knows `init-state` (3.1 and newer).
    pub init_state: bool,
    /// How long an instance may be away before its clients choose anew; zero for at once.
    pub restart_gap: Duration,
}

/// Whether a server gets traffic before HAProxy's own first check of it has passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FirstCheck {
    /// It does: the registrar has checked already.
    #[default]
    Skip,
    /// It does not.
    Wait,
}

impl Policy {
    /// The health of a server whose check has passed since it was made ready (`rise + fall - 1`); `None` without checks.
    #[must_use]
    pub fn best_health(&self) -> Option<u32> {
        self.check.map(|check| u32::from(check.rise.get()) + u32::from(check.fall.get()) - 1)
    }

    /// Whether servers start down.
    #[must_use]
    pub fn waits_for_first_check(&self) -> bool {
        self.check.is_some() && self.first_check == FirstCheck::Wait
    }
}
