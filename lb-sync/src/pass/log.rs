//! What a pass has done, for the log, the journal and the counts.

use std::collections::BTreeMap;
use std::time::Duration;

use registry::name::InstanceId;
use registry::time::{Clock, Tick};

use super::apply::{Outcome, deed};
use crate::haproxy::{Command, ServerState};
use crate::plan::{Cause, Step};
use crate::status::{Effect, Journal, JournalEvent, Metrics};
use crate::view::View;

/// Logs and counts every step, and remembers the latest steps.
/// `arrived` says when the changes that are passed for were taken up.
pub(super) fn note(
    outcomes: &[Outcome],
    (view, arrived): (&View, &BTreeMap<InstanceId, Tick>),
    totals: &mut Metrics,
    journal: &Journal,
) {
    let now = Clock.now();
    for Outcome { step, refused, took } in outcomes {
        totals.sent(&step.commands, refused.is_none());
        totals.steps += 1;
        if refused.is_none() {
            let (id, revision) = (&step.id, revision(view, &step.id));
            let took_us = micros(*took);
            tracing::info!(instance = %id, why = why(view, step), revision, took_us, "{}", deed(&step.commands));
        }
        let effect = step.commands.iter().find_map(effect).filter(|_| refused.is_none());
        if let (Some(effect), Some(at)) = (effect, arrived.get(&step.id)) {
            totals.took_effect(effect, now.since(*at));
        }
    }
    // Of thousands at once the ring keeps the last: the others need not be written down.
    let latest = outcomes.len().saturating_sub(crate::status::HAPPENINGS_MAX);
    for Outcome { step, refused, took } in outcomes.iter().skip(latest) {
        journal.note(JournalEvent {
            at: String::new(),
            instance: Some(step.id.to_string()),
            what: deed(&step.commands).into(),
            why: why(view, step),
            revision: revision(view, &step.id),
            took_us: Some(micros(*took)),
            commands: step.lines(),
            refused: refused.clone(),
        });
    }
}

/// Why, and where an operator wants it so, who and what for.
fn why(view: &View, step: &Step) -> String {
    let text = step.why.text();
    let asked = matches!(step.why, Cause::Leaving | Cause::Maintenance);
    match view.override_of(&step.id).filter(|wish| asked && wish.mode.is_some()) {
        None => text.into(),
        Some(wish) => {
            let by = if wish.by.is_empty() { "an operator" } else { &wish.by };
            let reason = if wish.reason.is_empty() { "no reason given" } else { &wish.reason };
            format!("{text} ({by}: {reason})")
        }
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
