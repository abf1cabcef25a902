//! Steps: the commands for one instance, the cause of them, and their order.

use registry::name::InstanceId;
use registry::record::{AckState, Intent};

use crate::status::Reason;
use haproxy::Command;

/// What to do about one instance, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which instance.
    pub id: InstanceId,
    /// Why.
    pub why: Cause,
    /// In this order.
    pub commands: Vec<Command>,
}

/// Why a server is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// By the status that its instance is to have.
    Status(Reason),
    /// It was suspect, and HAProxy's own check of it fails.
    SuspectFails,
    /// It had its time to finish.
    TimeUp,
}

impl Cause {
    /// The registry wants this.
    #[must_use]
    pub fn wanted(intent: Intent) -> Self {
        Self::Status(Reason::Wanted(intent))
    }

    /// As a main clause, for people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Status(reason) => reason.text(),
            Self::SuspectFails => "it has expired, and HAProxy's own check of it fails",
            Self::TimeUp => "it had its time to finish",
        }
    }

    /// A stable word for programs.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Status(reason) => reason.code(),
            Self::SuspectFails => "suspect_fails",
            Self::TimeUp => "time_up",
        }
    }
}

/// When a step's turn is: additions come before removals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// Additions and repairs.
    Serve,
    /// What takes traffic away.
    Restrict,
    /// Deletions.
    Delete,
}

impl Order {
    /// All of them, in their order.
    pub const ALL: [Self; 3] = [Self::Serve, Self::Restrict, Self::Delete];
}

impl Step {
    /// When its turn is.
    #[must_use]
    pub fn order(&self) -> Order {
        if self.commands.iter().any(|command| matches!(command, Command::DelServer { .. })) {
            return Order::Delete;
        }
        match self.why {
            Cause::Status(Reason::Wanted(Intent::Serve) | Reason::Suspect) => Order::Serve,
            Cause::Status(_) | Cause::SuspectFails | Cause::TimeUp => Order::Restrict,
        }
    }

    /// The lines for HAProxy's socket.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.commands.iter().map(ToString::to_string).collect()
    }
}

/// What the registry is to be told of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AckValue {
    /// The owner of the record that it answers.
    pub owner: String,
    /// etcd's revision of that record.
    pub revision: i64,
    /// How far this balancer is with it.
    pub state: AckState,
}

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Additions first, so that a server is there to take over; deletions last.
    pub steps: Vec<Step>,
    /// Servers whose sessions must be read before more can be planned.
    pub reads: Vec<InstanceId>,
    /// Instances that are not served, since a server of their name is there that lb-sync did not make. Told once.
    pub foreign: Vec<InstanceId>,
    /// Suspects whose check has failed: the view is to be told.
    pub failed: Vec<InstanceId>,
    /// What to tell the registry, where that is settled.
    pub acks: Vec<(InstanceId, Option<AckValue>)>,
}

impl Plan {
    /// Nothing to do now, and nothing to read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.reads.is_empty()
    }
}
