//! The status of an instance: whether HAProxy sends it traffic, and why (not).
//!
//! This is the only place that derives it. Page, metrics, gRPC, events, `explain` and the files match on what it says.

use registry::name::InstanceId;
use registry::record::{Intent, OverrideRecord};

use crate::plan::observed::{Observed, Server};
use crate::view::View;
use haproxy::answer::flags::OpState;

/// Whether HAProxy sends an instance traffic, and the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InstanceStatus {
    /// What HAProxy does with it.
    pub phase: Phase,
    /// Why.
    pub reason: Reason,
}

/// What HAProxy does with an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It has no server.
    Absent,
    /// It gets its share.
    Up,
    /// HAProxy's own check fails.
    Down,
    /// It gets sticky clients only.
    Drain,
    /// It gets nothing.
    Maint,
}

/// Why an instance has its phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// What the registry wants: see [`Intent`].
    Wanted(Intent),
    /// It has expired with much of its service, or just after etcd was away. That is not believed yet.
    Suspect,
    /// A newer instance has its address.
    Shadowed,
    /// It has no record (any more).
    NotRegistered,
    /// HAProxy's own check fails.
    CheckFails,
    /// `http-check disable-on-404`.
    CheckAnswers404,
    /// HAProxy has no backend of its service's name.
    NoBackend,
    /// The next plan adds it.
    Pending,
    /// lb-sync did not make the server of its name.
    Foreign,
    /// HAProxy was told so, and not by the registry.
    ByHand,
}

/// What a status is derived from.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// What record and override want; `None` without a record.
    pub intent: Option<Intent>,
    /// A newer instance has its address.
    pub shadowed: bool,
    /// It has expired, and that is not believed.
    pub suspect: bool,
    /// What HAProxy has for it.
    pub has: ServerPresence<'a>,
}

/// What HAProxy has for an instance.
#[derive(Clone, Copy, Debug)]
pub enum ServerPresence<'a> {
    /// Not even a backend of its service's name.
    NoBackend,
    /// No server of its name.
    NoServer,
    /// A server of its name that lb-sync made.
    Ours(&'a Server),
    /// A server of its name that lb-sync did not make.
    Foreign(&'a Server),
}

/// What belongs to a reason: names and words that an operator looks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Details<'a> {
    /// The instance that is served at its address in its stead.
    pub shadowed_by: Option<&'a InstanceId>,
    /// The operator's order.
    pub overriding: Option<&'a OverrideRecord>,
    /// What HAProxy says of its check.
    pub check_said: Option<&'a str>,
}

impl<'a> ServerPresence<'a> {
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

impl Phase {
    /// A stable word for programs.
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
    /// A stable word for programs.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Wanted(intent) => intent.code(),
            Self::Suspect => "suspect",
            Self::Shadowed => "shadowed",
            Self::NotRegistered => "not_registered",
            Self::CheckFails => "check_fails",
            Self::CheckAnswers404 => "check_answers_404",
            Self::NoBackend => "no_backend",
            Self::Pending => "pending",
            Self::Foreign => "foreign",
            Self::ByHand => "by_hand",
        }
    }

    /// The reason as a main clause, for people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Wanted(intent) => intent.text(),
            Self::Suspect => {
                "it has expired with much of its service, or just after etcd was away, which is not believed while HAProxy's own check passes"
            }
            Self::Shadowed => "a newer instance has its address",
            Self::NotRegistered => "it is not registered",
            Self::CheckFails => "HAProxy's check fails",
            Self::CheckAnswers404 => "its check answers 404 (`http-check disable-on-404`)",
            Self::NoBackend => "this HAProxy has no backend of its service's name",
            Self::Pending => "it is about to be added",
            Self::Foreign => "HAProxy's server of its name is not lb-sync's",
            Self::ByHand => "HAProxy was told so, and not by the registry",
        }
    }

    /// [`Self::text`] with the names that belong to it.
    #[must_use]
    pub fn text_with(self, details: &Details<'_>) -> String {
        match (self, details) {
            (Self::Shadowed, Details { shadowed_by: Some(rival), .. }) => {
                format!("{rival} has the same address, and is newer")
            }
            (Self::Wanted(intent), Details { overriding: Some(overriding), .. })
                if matches!(intent, Intent::OperatorDrains | Intent::OperatorOut) =>
            {
                let by = if overriding.by.is_empty() { "an operator" } else { &overriding.by };
                let verb = if intent == Intent::OperatorDrains { "drains it" } else { "took it out" };
                let reason =
                    if overriding.reason.is_empty() { "no reason given" } else { &overriding.reason };
                format!("{by} {verb}: {reason}")
            }
            (Self::CheckFails, Details { check_said: Some(said), .. }) => {
                format!("HAProxy's check fails ({said})")
            }
            (reason, _) => reason.text().to_owned(),
        }
    }
}

impl<'a> Inputs<'a> {
    /// Of `id`.
    #[must_use]
    pub fn of(view: &View, observed: &'a Observed, ours: impl Fn(&Server) -> bool, id: &InstanceId) -> Self {
        Self {
            intent: view.intent_of(id),
            shadowed: view.shadowed_by(id).is_some(),
            suspect: view.is_suspect(id),
            has: ServerPresence::of(observed, ours, id),
        }
    }

    /// Why the registry wants anything else than its full share of the traffic for it; `None` if it does not.
    fn restriction(&self) -> Option<Reason> {
        match self.intent {
            None => Some(Reason::NotRegistered),
            Some(_) if self.shadowed => Some(Reason::Shadowed),
            Some(Intent::Serve) => self.suspect.then_some(Reason::Suspect),
            Some(intent) => Some(Reason::Wanted(intent)),
        }
    }
}

impl InstanceStatus {
    /// By HAProxy's state first: that is what clients meet, whatever the registry wants.
    #[must_use]
    pub fn of(inputs: &Inputs<'_>) -> Self {
        let status = |phase, reason| Self { phase, reason };
        let (server, restriction) = match (inputs.has, inputs.restriction()) {
            (ServerPresence::Ours(server), restriction) => (server, restriction),
            (ServerPresence::Foreign(server), _) => (server, Some(Reason::Foreign)),
            (ServerPresence::NoBackend, None | Some(Reason::Suspect)) => {
                return status(Phase::Absent, Reason::NoBackend);
            }
            (ServerPresence::NoBackend | ServerPresence::NoServer, restriction) => {
                return status(Phase::Absent, restriction.unwrap_or(Reason::Pending));
            }
        };
        if server.admin.is_maint() {
            status(Phase::Maint, restriction.unwrap_or(Reason::ByHand))
        } else if server.op == OpState::Stopped {
            status(Phase::Down, Reason::CheckFails)
        } else if server.admin.is_drain() {
            status(Phase::Drain, restriction.unwrap_or(Reason::ByHand))
        } else if server.op == OpState::Stopping {
            status(Phase::Drain, Reason::CheckAnswers404)
        } else {
            status(Phase::Up, restriction.unwrap_or(Reason::Wanted(Intent::Serve)))
        }
    }
}

#[cfg(test)]
mod tests {
    use registry::record::{InstanceState, OverrideMode};

    use super::*;
    use haproxy::answer::flags::{AdminState, CheckState};

    fn server(admin: AdminState, op: OpState) -> Server {
        let (id, weight) = (10_000.try_into().unwrap(), 100.try_into().unwrap());
        Server {
            id,
            addr: None,
            admin,
            op,
            weight,
            check: CheckState::RUNNING,
            health: 2,
            check_said: None,
            sessions: None,
        }
    }

    fn up(has: ServerPresence<'_>) -> Inputs<'_> {
        Inputs { intent: Some(Intent::Serve), shadowed: false, suspect: false, has }
    }

    fn status(inputs: Inputs<'_>) -> (Phase, Reason) {
        let InstanceStatus { phase, reason } = InstanceStatus::of(&inputs);
        (phase, reason)
    }

    #[test]
    fn what_haproxy_does_goes_before_what_the_registry_wants() {
        use ServerPresence::{Foreign, NoBackend, NoServer, Ours};
        let ready = server(AdminState::READY, OpState::Running);
        let registered = Reason::Wanted(Intent::Serve);
        assert_eq!(status(up(Ours(&ready))), (Phase::Up, registered));
        let failing = server(AdminState::READY, OpState::Stopped);
        assert_eq!(status(up(Ours(&failing))), (Phase::Down, Reason::CheckFails));
        let out = server(AdminState::MAINT, OpState::Stopped);
        assert_eq!(status(up(Ours(&out))), (Phase::Maint, Reason::ByHand));
        let intent = Some(Intent::of(InstanceState::Up, Some(OverrideMode::Maintenance)));
        let ordered = Inputs { intent, ..up(Ours(&out)) };
        assert_eq!(status(ordered), (Phase::Maint, Reason::Wanted(Intent::OperatorOut)));
        let gone = Inputs { intent: None, ..up(Ours(&ready)) };
        assert_eq!(status(gone), (Phase::Up, Reason::NotRegistered));
        assert_eq!(status(up(Foreign(&ready))), (Phase::Up, Reason::Foreign));
        assert_eq!(status(up(NoServer)), (Phase::Absent, Reason::Pending));
        assert_eq!(status(up(NoBackend)), (Phase::Absent, Reason::NoBackend));
    }

    #[test]
    fn a_suspect_says_so_unless_an_operator_wants_it_out() {
        let ready = server(AdminState::READY, OpState::Running);
        let suspect = Inputs { suspect: true, ..up(ServerPresence::Ours(&ready)) };
        assert_eq!(status(suspect), (Phase::Up, Reason::Suspect));
        let drained = Inputs { intent: Some(Intent::OperatorDrains), ..suspect };
        assert_eq!(status(drained), (Phase::Up, Reason::Wanted(Intent::OperatorDrains)));
    }
}
