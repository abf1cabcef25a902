//! Sends a plan's commands and sorts out the replies.

use std::collections::BTreeSet;
use std::time::Duration;

use registry::name::{InstanceId, ServiceName};
use registry::time::Clock;

use super::rhythm::GLANCE_EVERY;
use super::{COMMANDS_MAX, PassError, observe};
use crate::haproxy::{Command, Dialogue, Reply, ServerId, ServerState};
use crate::plan::observed::Observed;
use crate::plan::{Planner, Step};

/// What came of a step.
#[derive(Debug)]
pub(super) struct Outcome<'a> {
    pub(super) step: &'a Step,
    /// What HAProxy said, where it refused.
    pub(super) refused: Option<String>,
    /// How long it took to answer the request that the step was part of.
    pub(super) took: Duration,
}

/// Carries out `steps` in order, as many as there is time for: between requests, `interrupted` says whether something
/// newer waits. Thousands take seconds: whether `worker` (its process id) still serves is looked at meanwhile, too.
/// What came of each is in `outcomes`, also when HAProxy is lost on the way. Returns which instances were touched.
pub(super) async fn apply<'a>(
    dialogue: &mut Dialogue,
    planner: &mut Planner,
    steps: &'a [Step],
    worker: u32,
    interrupted: impl Fn() -> bool,
    outcomes: &mut Vec<Outcome<'a>>,
) -> Result<BTreeSet<InstanceId>, PassError> {
    let mut touched = BTreeSet::new();
    let mut rest = steps;
    let mut glanced = Clock.now();
    while !rest.is_empty() && (touched.is_empty() || !interrupted()) {
        if Clock.now().since(glanced) >= GLANCE_EVERY {
            let info = observe::info(dialogue).await?;
            if info.stopping || info.pid != worker {
                return Err(PassError::Replaced);
            }
            glanced = Clock.now();
        }
        let (batch, after) = rest.split_at(batch_len(rest));
        rest = after;
        let commands: Vec<Command> = batch.iter().flat_map(|step| step.commands.iter().cloned()).collect();
        let sent = Clock.now();
        let answers = dialogue.ask(&commands).await?;
        let took = Clock.now().since(sent);
        let mut answers = answers.iter();
        for step in batch {
            let replies = step
                .commands
                .iter()
                .zip(&mut answers)
                .map(|(command, text)| (command, Reply::read(command, text)));
            let refused = settle(planner, step, replies);
            outcomes.push(Outcome { step, refused, took });
            touched.insert(step.id.clone());
        }
    }
    Ok(touched)
}

/// The servers that the `touched` of `steps` have or were to get, with their numbers.
pub(super) fn servers(
    steps: &[Step],
    touched: &BTreeSet<InstanceId>,
    observed: &Observed,
) -> Vec<(InstanceId, ServerId)> {
    let made = |command: &Command| match command {
        Command::AddServer { id, .. } => Some(*id),
        _ => None,
    };
    let number = |step: &Step| {
        let number = observed.server(&step.id).map(|server| server.id);
        number.or_else(|| step.commands.iter().find_map(made))
    };
    let those = steps.iter().filter(|step| touched.contains(&step.id));
    those.filter_map(|step| Some((step.id.clone(), number(step)?))).collect()
}

/// The services on whose restarting maps the `touched` of `steps` were put or struck off.
pub(super) fn listed(steps: &[Step], touched: &BTreeSet<InstanceId>) -> BTreeSet<ServiceName> {
    let lists = |command: &Command| matches!(command, Command::AddToMap { .. } | Command::DelFromMap { .. });
    let those = steps.iter().filter(|step| touched.contains(&step.id) && step.commands.iter().any(lists));
    those.map(|step| step.id.service.clone()).collect()
}

/// How many of `steps` make the next request: at least one.
fn batch_len(steps: &[Step]) -> usize {
    let mut commands = 0;
    let fits = |step: &&Step| {
        commands += step.commands.len();
        commands <= COMMANDS_MAX
    };
    steps.iter().take_while(fits).count().max(1)
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
        planner.note_success(id);
        return None;
    };
    let said = match &reply {
        Reply::Other(text) => text.to_string(),
        known => format!("{known:?}"),
    };
    let news = planner.note_refusal(Clock.now(), id, &said);
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
