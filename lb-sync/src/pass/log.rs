//! What a pass has done, for the journal and the counts.

use registry::name::InstanceId;

use super::apply::{Outcome, deed};
use crate::command::words;
use crate::status::{Happening, Journal, Totals};
use crate::view::View;

/// Counts every command, and remembers the latest steps.
pub(super) fn note(outcomes: &[Outcome<'_>], view: &View, totals: &mut Totals, journal: &Journal) {
    for Outcome { step, refused, .. } in outcomes {
        totals.sent(&step.commands, refused.is_none());
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

fn revision(view: &View, id: &InstanceId) -> Option<i64> {
    view.instances().get(id).map(|registered| registered.mod_revision)
}
