//! A round: carries out what is pending in bounded requests, and knows what has to be read back afterwards.

use std::collections::BTreeSet;
use std::time::Duration;

use registry::name::{InstanceId, ServiceName};
use registry::time::Tick;

use super::COMMANDS_MAX;
use super::reading::Reading;
use crate::plan::observed::{Observed, Touched};
use crate::plan::pending::PendingPlan;
use crate::plan::{Planner, Step};
use haproxy::{Command, Reply, ServerState};

/// Longest that something newer waits for what is pending. After each round what was touched is read back and planned
/// again: at a hundred events of a burst, that would take longer than carrying it out.
const SLICE: Duration = Duration::from_millis(20);

/// What came of a step.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) step: Step,
    /// What HAProxy said, where it refused.
    pub(super) refused: Option<String>,
    /// How long HAProxy took to answer the request that the step was part of.
    pub(super) took: Duration,
}

/// Steps that are carried out, and then read back.
#[derive(Debug)]
pub(super) struct Round {
    started: Tick,
    /// Instances whose sessions the planner asked for.
    reads: Vec<InstanceId>,
    touched: Vec<Touched>,
    /// Services on whose restarting map a name was put or struck off.
    listed: BTreeSet<ServiceName>,
    /// Everything that is to be planned again.
    ids: BTreeSet<InstanceId>,
}

impl Round {
    pub(super) fn new(now: Tick, reads: Vec<InstanceId>) -> Self {
        let ids = reads.iter().cloned().collect();
        Self { started: now, reads, touched: Vec::new(), listed: BTreeSet::new(), ids }
    }

    /// The steps of the next request; empty once the round is over: nothing is pending, or something newer waits and had
    /// to wait long enough.
    pub(super) fn batch(&self, now: Tick, pending: &mut PendingPlan, newer_waits: NewerWaits) -> Vec<Step> {
        if newer_waits == NewerWaits::Yes && now.since(self.started) >= SLICE {
            return Vec::new();
        }
        pending.take(COMMANDS_MAX)
    }

    /// Takes the answers to a batch that was sent at `sent`.
    pub(super) fn answers(
        &mut self,
        now: Tick,
        (batch, sent): (Vec<Step>, Tick),
        answers: &[String],
        observed: &Observed,
        planner: &mut Planner,
    ) -> Vec<Outcome> {
        let took = now.since(sent);
        let mut answers = answers.iter();
        let mut outcomes = Vec::with_capacity(batch.len());
        for step in batch {
            let replies = step.commands.iter().zip(&mut answers);
            let replies = replies.map(|(command, text)| (command, Reply::read(command, text)));
            let refused = settle(now, planner, &step, replies);
            self.touched.extend(touched(&step, observed));
            if step.commands.iter().any(changes_restarting_map) {
                self.listed.insert(step.id.service.clone());
            }
            self.ids.insert(step.id.clone());
            outcomes.push(Outcome { step, refused, took });
        }
        outcomes
    }

    /// An empty reply proves nothing: what was touched is read back. The instances are to be planned again after that.
    pub(super) fn read_back(self, observed: &Observed) -> (Reading, BTreeSet<InstanceId>) {
        let mut reading = Reading::default();
        reading.add_servers(observed, self.touched);
        reading.add_restarting(observed, self.listed);
        reading.add_sessions(observed, &self.reads);
        (reading, self.ids)
    }
}

/// Whether something has happened that is not planned for yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NewerWaits {
    Yes,
    No,
}

/// The server that a step was for.
fn touched(step: &Step, observed: &Observed) -> Option<Touched> {
    let made = step.commands.iter().find_map(|command| match command {
        Command::AddServer { id, options, .. } => Some((*id, options.check.is_none())),
        _ => None,
    });
    let number = observed.server(&step.id).map(|server| server.id).or(made.map(|(id, _)| id))?;
    Some(Touched { id: step.id.clone(), number, unchecked: made.is_some_and(|(_, unchecked)| unchecked) })
}

fn changes_restarting_map(command: &Command) -> bool {
    matches!(command, Command::AddToMap { .. } | Command::DelFromMap { .. })
}

/// Tells the planner what came of a step, and the log what HAProxy refused.
fn settle<'a>(
    now: Tick,
    planner: &mut Planner,
    step: &Step,
    replies: impl Iterator<Item = (&'a Command, Reply)>,
) -> Option<String> {
    // The first is the cause: after an `add server` that was refused, all others name a server that is not there.
    let refused = first_refusal(replies);
    let id = &step.id;
    let Some((command, reply)) = refused else {
        planner.record_success(id);
        return None;
    };
    let said = match &reply {
        Reply::Other(text) => text.to_string(),
        known => format!("{known:?}"),
    };
    let is_new = planner.record_refusal(now, id, &said);
    match reply {
        // A connection that has not closed yet, or a view of HAProxy that was out of date: put right by the next plan.
        Reply::StillHasConnections | Reply::AlreadyExists | Reply::NoSuchServer | Reply::NotInMaint => {
            tracing::debug!(instance = %id, %command, said, "HAProxy refused; retried with the next plan");
        }
        _ if is_new => {
            let hint = hint(&said);
            tracing::warn!(instance = %id, %command, said, "HAProxy refused a command; retried automatically\n  {hint}");
        }
        _ => tracing::debug!(instance = %id, %command, said, "HAProxy refused the command again"),
    }
    Some(said)
}

/// The first command that HAProxy refused. All replies are taken: those to the next step follow.
fn first_refusal<'a>(replies: impl Iterator<Item = (&'a Command, Reply)>) -> Option<(&'a Command, Reply)> {
    let mut refused: Vec<_> = replies.filter(|(_, reply)| *reply != Reply::Ok).collect();
    (!refused.is_empty()).then(|| refused.swap_remove(0))
}

/// What to do about it.
fn hint(said: &str) -> &'static str {
    if said.contains("dynamic load balancing") {
        "this backend's `balance` takes no servers at run time: write roundrobin, leastconn, first or random there, or `hash-type consistent` beside a hash"
    } else {
        "`lb-sync check` says what this HAProxy and its configuration lack"
    }
}

/// What `commands` do, in a word for the log.
pub(super) fn deed(commands: &[Command]) -> &'static str {
    let deed = |command: &Command| match command {
        Command::AddServer { .. } => Some("added"),
        Command::DelServer { .. } => Some("removed"),
        Command::SetState { state: ServerState::Drain, .. } => Some("draining"),
        Command::SetState { state: ServerState::Maint, .. } => Some("out of rotation"),
        Command::SetState { state: ServerState::Ready, .. } => Some("back in rotation"),
        Command::ShutdownSessions { .. } => Some("requests still in flight cut off"),
        Command::SetWeight { .. } => Some("weight changed"),
        _ => None,
    };
    let listed = |command: &Command| match command {
        Command::AddToMap { .. } => Some("away: its clients keep their cookie"),
        Command::DelFromMap { .. } => Some("its clients are not waiting for it any more"),
        _ => None,
    };
    // An address that changes for its own sake, not to let go of a connection before a deletion.
    let moved =
        || commands.iter().any(|command| matches!(command, Command::SetAddr { .. })).then_some("moved");
    commands
        .iter()
        .find_map(deed)
        .or_else(moved)
        .or_else(|| commands.iter().find_map(listed))
        .unwrap_or("checks enabled")
}
