//! Sends what is in hand and sorts out the replies.

use std::collections::BTreeSet;
use std::time::Duration;

use registry::name::ServiceName;
use registry::time::Clock;

use super::schedule::PING_EVERY;
use super::{COMMANDS_MAX, PassError, observe};
use crate::haproxy::{Command, Dialogue, Reply, ServerState};
use crate::plan::observed::{Observed, Touched};
use crate::plan::pending::PendingPlan;
use crate::plan::{Planner, Step};

/// What came of a step.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) step: Step,
    /// What HAProxy said, where it refused.
    pub(super) refused: Option<String>,
    /// How long it took to answer the request that the step was part of.
    pub(super) took: Duration,
}

/// Longest that something newer waits for what is in hand. What was touched is read back and planned again each time: at a
/// hundred events of a burst, that would take longer than carrying it out.
const SLICE: Duration = Duration::from_millis(20);

/// Carries out what is in hand in its order, as much as there is time for: after a [`SLICE`], and then between requests,
/// `interrupted` says whether something newer waits. Thousands take seconds: whether `worker` (its process id) still
/// serves is looked at meanwhile, too. What came of each is in `outcomes`, also when HAProxy is lost on the way.
pub(super) async fn apply(
    dialogue: &mut Dialogue,
    planner: &mut Planner,
    pending: &mut PendingPlan,
    worker: u32,
    interrupted: impl Fn() -> bool,
    outcomes: &mut Vec<Outcome>,
) -> Result<(), PassError> {
    let started = Clock.now();
    let mut pinged = started;
    while !pending.is_empty() && (Clock.now().since(started) < SLICE || !interrupted()) {
        if Clock.now().since(pinged) >= PING_EVERY {
            let info = observe::info(dialogue).await?;
            if info.stopping || info.pid != worker {
                return Err(PassError::Replaced);
            }
            pinged = Clock.now();
        }
        let batch = pending.take(COMMANDS_MAX);
        let sent = Clock.now();
        let answers = dialogue.ask(batch.iter().flat_map(|step| &step.commands)).await?;
        let took = Clock.now().since(sent);
        let mut answers = answers.iter();
        for step in batch {
            let replies = step
                .commands
                .iter()
                .zip(&mut answers)
                .map(|(command, text)| (command, Reply::read(command, text)));
            let refused = settle(planner, &step, replies);
            outcomes.push(Outcome { step, refused, took });
        }
    }
    Ok(())
}

/// The servers that were touched.
pub(super) fn servers(outcomes: &[Outcome], observed: &Observed) -> Vec<Touched> {
    let made = |command: &Command| match command {
        Command::AddServer { id, options, .. } => Some((*id, options.check.is_none())),
        _ => None,
    };
    let touched = |step: &Step| {
        let made = step.commands.iter().find_map(made);
        let number = observed.server(&step.id).map(|server| server.id).or(made.map(|(id, _)| id))?;
        Some(Touched { id: step.id.clone(), number, unchecked: made.is_some_and(|(_, unchecked)| unchecked) })
    };
    outcomes.iter().filter_map(|outcome| touched(&outcome.step)).collect()
}

/// The services on whose restarting maps somebody was put or struck off.
pub(super) fn listed(outcomes: &[Outcome]) -> BTreeSet<ServiceName> {
    let lists = |command: &Command| matches!(command, Command::AddToMap { .. } | Command::DelFromMap { .. });
    let those = outcomes.iter().filter(|Outcome { step, .. }| step.commands.iter().any(lists));
    those.map(|Outcome { step, .. }| step.id.service.clone()).collect()
}

/// Tells the planner what came of a step, and the log what HAProxy refused.
fn settle<'a>(
    planner: &mut Planner,
    step: &Step,
    replies: impl Iterator<Item = (&'a Command, Reply)>,
) -> Option<String> {
    let refused = replies.filter(|(_, reply)| *reply != Reply::Ok).last();
    let id = &step.id;
    let Some((command, reply)) = refused else {
        planner.record_success(id);
        return None;
    };
    let said = match &reply {
        Reply::Other(text) => text.to_string(),
        known => format!("{known:?}"),
    };
    let news = planner.record_refusal(Clock.now(), id, &said);
    match reply {
        // A connection that has not closed yet, or a view of HAProxy that was out of date: put right by the next plan.
        Reply::StillHasConnections | Reply::AlreadyExists | Reply::NoSuchServer | Reply::NotInMaint => {
            tracing::debug!(instance = %id, %command, said, "to be tried again");
        }
        _ if news => {
            tracing::error!(instance = %id, %command, said, "HAProxy refused; tried again by itself");
        }
        _ => tracing::debug!(instance = %id, %command, said, "HAProxy refused again"),
    }
    Some(said)
}

/// What `commands` come to, in a word for the log.
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
