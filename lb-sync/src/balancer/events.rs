//! What a round has done: log lines, journal events and counts.

use std::collections::BTreeMap;
use std::time::Duration;

use registry::name::{BalancerName, InstanceId};
use registry::record::BalancerRecord;
use registry::time::Tick;

use super::Action;
use super::round::{Outcome, deed};
use crate::plan::{Cause, Step};
use crate::port::{Effect, JournalEvent, Metrics};
use crate::status::Details;
use crate::view::View;
use haproxy::{Command, Reply, ServerState};

/// Logs that another balancer has the name that this one was given, and returns what is recorded of it.
pub(super) fn name_taken(
    name: &BalancerName,
    by: Option<&BalancerRecord>,
    runs_as: Option<&BalancerName>,
) -> JournalEvent {
    let (host, socket) = by.map_or(("", ""), |by| (by.host.as_str(), by.socket.as_str()));
    if let Some(runs_as) = runs_as {
        tracing::error!(
            balancer = %name, %runs_as, host, socket,
            "another lb-sync has this balancer's name: running under another one, so that leaves wait for both\n  give each balancer a name of its own (--balancer), and start one lb-sync for each HAProxy"
        );
    } else {
        tracing::error!(
            balancer = %name, host, socket,
            "other lb-syncs have this balancer's name and all that are derived from it: leaves do not wait for this one\n  give each balancer a name of its own (--balancer)"
        );
    }
    let what = runs_as.map_or_else(|| "has no name".to_owned(), |runs_as| format!("runs as {runs_as}"));
    let why = format!("another lb-sync has the name {name} (host {host:?}, HAProxy's socket {socket:?})");
    JournalEvent { what, why, ..JournalEvent::default() }
}

/// Logs and counts every step, and has the latest steps recorded. `arrived` says when the changes that are carried out
/// were received.
pub(super) fn of_steps(
    now: Tick,
    outcomes: &[Outcome],
    (view, arrived): (&View, &BTreeMap<InstanceId, Tick>),
    metrics: &mut Metrics,
    actions: &mut Vec<Action>,
) {
    for Outcome { step, refused, took } in outcomes {
        metrics.sent(&step.commands, refused.is_none());
        metrics.steps += 1;
        let (why, revision, took_us) = (why(view, step), revision(view, &step.id), micros(*took));
        if refused.is_none() {
            tracing::info!(instance = %step.id, why, revision, took_us, "{}", deed(&step.commands));
        }
        let effect = step.commands.iter().find_map(effect).filter(|_| refused.is_none());
        if let (Some(effect), Some(at)) = (effect, arrived.get(&step.id)) {
            metrics.took_effect(effect, now.since(*at));
        }
        actions.push(Action::Record(JournalEvent {
            at: String::new(),
            instance: Some(step.id.to_string()),
            what: if refused.is_some() {
                format!("refused: {}", deed(&step.commands))
            } else {
                deed(&step.commands).into()
            },
            why,
            revision,
            took_us: Some(took_us),
            commands: step.lines(),
            refused: refused.clone(),
        }));
    }
}

/// Logs, counts and has recorded what came of a command that concerns no single server.
pub(super) fn of_command(command: &Command, reply: &Reply, metrics: &mut Metrics, actions: &mut Vec<Action>) {
    let refused = match reply {
        Reply::Ok => None,
        Reply::Other(text) => Some(text.to_string()),
        known => Some(format!("{known:?}")),
    };
    metrics.sent([command], refused.is_none());
    match &refused {
        None => tracing::info!(%command, "{}", command.kind()),
        Some(said) => tracing::error!(%command, said, "HAProxy refused a command; retried at the next audit"),
    }
    actions.push(Action::Record(JournalEvent {
        what: command.kind().into(),
        why: "the registry's routes and services".into(),
        commands: vec![command.to_string()],
        refused,
        ..JournalEvent::default()
    }));
}

/// The cause, and where an operator wants it so, their name and reason.
fn why(view: &View, step: &Step) -> String {
    match step.why {
        Cause::Status(reason) => reason.text_with(&Details {
            shadowed_by: view.shadowed_by(&step.id),
            overriding: view.override_of(&step.id),
            check_said: None,
        }),
        cause => cause.text().into(),
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn effect(command: &Command) -> Option<Effect> {
    match command {
        Command::SetState { state: ServerState::Ready, .. } => Some(Effect::Serves),
        Command::SetState { state: ServerState::Drain | ServerState::Maint, .. } => Some(Effect::Removed),
        _ => None,
    }
}

fn revision(view: &View, id: &InstanceId) -> Option<i64> {
    view.instances().get(id).map(|registered| registered.mod_revision)
}
