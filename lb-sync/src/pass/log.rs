//! What a pass has done, for the journal and the counts.

use std::collections::BTreeMap;

use registry::name::InstanceId;
use registry::time::{Clock, Tick};

use super::apply::{Outcome, deed};
use crate::command::words;
use crate::haproxy::{Command, ServerState};
use crate::status::{Effect, Happening, Journal, Totals};
use crate::view::View;

/// Counts every command, and remembers the latest steps.
/// `arrived` says when the changes that are passed for were taken up.
pub(super) fn note(
    outcomes: &[Outcome<'_>],
    (view, arrived): (&View, &BTreeMap<InstanceId, Tick>),
    totals: &mut Totals,
    journal: &Journal,
) {
    let now = Clock.now();
    for Outcome { step, refused, .. } in outcomes {
        totals.sent(&step.commands, refused.is_none());
        let effect = step.commands.iter().find_map(effect).filter(|_| refused.is_none());
        if let (Some(effect), Some(at)) = (effect, arrived.get(&step.id)) {
            totals.took_effect(effect, now.since(*at));
        }
    }
    // Of thousands at once the ring keeps the last: the others need not be written down.
    let latest = outcomes.len().saturating_sub(crate::status::HAPPENINGS_MAX);
    for Outcome { step, refused, took } in outcomes.iter().skip(latest) {
        journal.note(Happening {
            at: String::new(),
            instance: Some(step.id.to_string()),
            what: deed(&step.commands).into(),
            why: words::why(step).into(),
            revision: revision(view, &step.id),
            took_us: Some(u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
            commands: words::lines(step),
            refused: refused.clone(),
        });
    }
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
