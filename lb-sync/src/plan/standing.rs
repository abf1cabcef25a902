//! How an instance stands: what HAProxy does with it, and the reason, by the registry and by HAProxy. Decides nothing; the
//! page, the metrics, the gRPC service and `lb-sync explain` say it in the same words.

use registry::name::InstanceId;
use registry::record::{InstanceState, OverrideMode};

use super::observed::{Observed, Server};
use crate::view::View;
use haproxy::answer::flags::OpState;

/// What HAProxy does with an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It has no server.
    Absent,
    /// Gets its share.
    Up,
    /// HAProxy's own check fails.
    Down,
    /// Sticky clients only.
    Drain,
    /// Nothing.
    Maint,
}

/// Why it stands so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It is registered and up.
    Registered,
    /// It has expired with much of its service, and that is not believed yet.
    Suspect,
    /// Its record says `down`.
    Unhealthy,
    /// Its record says `draining`.
    Leaving,
    /// An override drains it.
    OperatorDrains,
    /// An override takes it out.
    OperatorOut,
    /// A newer instance has its address.
    Eclipsed,
    /// It has no record (any more).
    NotRegistered,
    /// HAProxy's own check fails.
    CheckFails,
    /// `http-check disable-on-404`.
    CheckAnswers404,
    /// HAProxy has no backend of its service's name.
    NoBackend,
    /// The next pass adds it.
    Pending,
    /// lb-sync did not make the server of its name.
    Foreign,
    /// HAProxy was told so, and not by the registry.
    ByHand,
}

/// What is known of one instance.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// What its record says, if it has one.
    pub record: Option<InstanceState>,
    /// What an operator wants.
    pub overriding: Option<OverrideMode>,
    /// A newer instance has its address.
    pub eclipsed: bool,
    /// It has expired, and that is not believed.
    pub suspect: bool,
    /// What HAProxy has for it.
    pub has: Has<'a>,
}

/// What HAProxy has for an instance.
#[derive(Clone, Copy, Debug)]
pub enum Has<'a> {
    /// Not even a backend of its service's name.
    NoBackend,
    /// No server of its name.
    NoServer,
    /// A server of its name that lb-sync made.
    Ours(&'a Server),
    /// A server of its name that lb-sync did not make.
    Foreign(&'a Server),
}

impl<'a> Has<'a> {
    /// By what was read, and whether a server is lb-sync's.
    #[must_use]
    pub fn of(observed: &'a Observed, ours: impl Fn(&Server) -> bool, id: &InstanceId) -> Self {
        match observed.server(id) {
            Some(server) if ours(server) => Self::Ours(server),
            Some(server) => Self::Foreign(server),
            None if observed.backends.contains_key(&id.service) => Self::NoServer,
            None => Self::NoBackend,
        }
    }

    /// The server, also if lb-sync did not make it.
    #[must_use]
    pub fn server(self) -> Option<&'a Server> {
        match self {
            Self::Ours(server) | Self::Foreign(server) => Some(server),
            Self::NoBackend | Self::NoServer => None,
        }
    }
}

impl State {
    /// For machines.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Up => "up",
            Self::Down => "down",
            Self::Drain => "drain",
            Self::Maint => "maint",
        }
    }
}

impl Reason {
    /// For machines.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Suspect => "suspect",
            Self::Unhealthy => "unhealthy",
            Self::Leaving => "leaving",
            Self::OperatorDrains => "operator_drains",
            Self::OperatorOut => "operator_out",
            Self::Eclipsed => "eclipsed",
            Self::NotRegistered => "not_registered",
            Self::CheckFails => "check_fails",
            Self::CheckAnswers404 => "check_answers_404",
            Self::NoBackend => "no_backend",
            Self::Pending => "pending",
            Self::Foreign => "foreign",
            Self::ByHand => "by_hand",
        }
    }

    /// For people: the rest of a sentence.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Registered => "it is registered and up",
            Self::Suspect => {
                "it has expired with much of its service, or just after etcd was away, which is not believed while HAProxy's own check passes"
            }
            Self::Unhealthy => "it says that it is unhealthy",
            Self::Leaving => "it is leaving",
            Self::OperatorDrains => "an operator drains it",
            Self::OperatorOut => "an operator took it out",
            Self::Eclipsed => "a newer instance has its address",
            Self::NotRegistered => "it is not registered",
            Self::CheckFails => "HAProxy's check fails",
            Self::CheckAnswers404 => "its check answers 404 (`http-check disable-on-404`)",
            Self::NoBackend => "this HAProxy has no backend of its service's name",
            Self::Pending => "it is about to be added",
            Self::Foreign => "HAProxy's server of its name is not lb-sync's",
            Self::ByHand => "HAProxy was told so, and not by the registry",
        }
    }
}

impl<'a> Situation<'a> {
    /// Of `id`.
    #[must_use]
    pub fn of(view: &View, observed: &'a Observed, ours: impl Fn(&Server) -> bool, id: &InstanceId) -> Self {
        Self {
            record: view.instances().get(id).map(|registered| registered.record.state),
            overriding: view.override_of(id).and_then(|overriding| overriding.mode),
            eclipsed: view.shadowed_by(id).is_some(),
            suspect: view.is_suspect(id),
            has: Has::of(observed, ours, id),
        }
    }

    /// Why the registry wants anything else than its full share of the traffic for it; `None` if it does not.
    #[must_use]
    pub fn unwanted(&self) -> Option<Reason> {
        let Some(state) = self.record else {
            return Some(Reason::NotRegistered);
        };
        if self.eclipsed {
            return Some(Reason::Eclipsed);
        }
        match (state, self.overriding) {
            (InstanceState::Down, _) => Some(Reason::Unhealthy),
            (_, Some(OverrideMode::Maintenance)) => Some(Reason::OperatorOut),
            (InstanceState::Draining, _) => Some(Reason::Leaving),
            (_, Some(OverrideMode::Drain)) => Some(Reason::OperatorDrains),
            (InstanceState::Up, None) if self.suspect => Some(Reason::Suspect),
            (InstanceState::Up, None) => None,
        }
    }

    /// By HAProxy's state first: that is what clients meet, whatever the registry wants.
    #[must_use]
    pub fn standing(&self) -> (State, Reason) {
        let (server, unwanted) = match (self.has, self.unwanted()) {
            (Has::Ours(server), unwanted) => (server, unwanted),
            (Has::Foreign(server), _) => (server, Some(Reason::Foreign)),
            (Has::NoBackend, None | Some(Reason::Suspect)) => return (State::Absent, Reason::NoBackend),
            (Has::NoBackend | Has::NoServer, unwanted) => {
                return (State::Absent, unwanted.unwrap_or(Reason::Pending));
            }
        };
        if server.admin.is_maint() {
            (State::Maint, unwanted.unwrap_or(Reason::ByHand))
        } else if server.op == OpState::Stopped {
            (State::Down, Reason::CheckFails)
        } else if server.admin.is_drain() {
            (State::Drain, unwanted.unwrap_or(Reason::ByHand))
        } else if server.op == OpState::Stopping {
            (State::Drain, Reason::CheckAnswers404)
        } else {
            (State::Up, unwanted.unwrap_or(Reason::Registered))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use haproxy::answer::flags::{AdminState, CheckState};

    fn server(admin: AdminState, op: OpState) -> Server {
        let (id, weight) = (10_000.try_into().unwrap(), 100.try_into().unwrap());
        Server { id, addr: None, admin, op, weight, check: CheckState::RUNNING, sessions: None }
    }

    fn up(has: Has<'_>) -> Situation<'_> {
        Situation { record: Some(InstanceState::Up), overriding: None, eclipsed: false, suspect: false, has }
    }

    #[test]
    fn what_haproxy_does_goes_before_what_the_registry_wants() {
        let ready = server(AdminState::READY, OpState::Running);
        assert_eq!(up(Has::Ours(&ready)).standing(), (State::Up, Reason::Registered));
        let failing = server(AdminState::READY, OpState::Stopped);
        assert_eq!(up(Has::Ours(&failing)).standing(), (State::Down, Reason::CheckFails));
        let out = server(AdminState::MAINT, OpState::Stopped);
        assert_eq!(up(Has::Ours(&out)).standing(), (State::Maint, Reason::ByHand));
        let overriding = Situation { overriding: Some(OverrideMode::Maintenance), ..up(Has::Ours(&out)) };
        assert_eq!(overriding.standing(), (State::Maint, Reason::OperatorOut));
        let gone = Situation { record: None, ..up(Has::Ours(&ready)) };
        assert_eq!(gone.standing(), (State::Up, Reason::NotRegistered));
        let foreign = up(Has::Foreign(&ready));
        assert_eq!(foreign.standing(), (State::Up, Reason::Foreign));
        assert_eq!(up(Has::NoServer).standing(), (State::Absent, Reason::Pending));
        assert_eq!(up(Has::NoBackend).standing(), (State::Absent, Reason::NoBackend));
    }

    #[test]
    fn a_suspect_says_so_unless_somebody_wants_it_out() {
        let ready = server(AdminState::READY, OpState::Running);
        let suspect = Situation { suspect: true, ..up(Has::Ours(&ready)) };
        assert_eq!(suspect.standing(), (State::Up, Reason::Suspect));
        let drained = Situation { overriding: Some(OverrideMode::Drain), ..suspect };
        assert_eq!(drained.standing(), (State::Up, Reason::OperatorDrains));
    }
}
