//! Keeps HAProxy's maps of routes as the registry has them, and remembers the routes for the files.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{COMMANDS_MAX, PassError, observe};
use crate::haproxy::{Command, Dialogue, Reply};
use crate::plan::observed::Observed;
use crate::plan::routes::{self, Routes};
use crate::status::{Journal, JournalEvent, Metrics};
use crate::view::View;

/// What is known of routes.
#[derive(Debug, Default)]
pub(super) struct RouteKeeper {
    routes: Arc<Routes>,
    /// The view (by its count of changes of routes) that they are of.
    claimed_at: Option<u64>,
    /// HAProxy's maps follow them.
    kept: bool,
    /// What was ignored, each told once.
    ignored: BTreeSet<String>,
}

impl RouteKeeper {
    /// By the registry.
    pub(super) fn routes(&self) -> &Arc<Routes> {
        &self.routes
    }

    /// HAProxy's maps were read anew, or may be changed from now on.
    pub(super) fn again(&mut self) {
        self.kept = false;
    }

    /// Takes in a view that may have changed; true if HAProxy's maps are to be looked at, which is then expected to be
    /// done.
    pub(super) fn follow(&mut self, view: &View) -> bool {
        if self.claimed_at == Some(view.route_changes()) {
            return !std::mem::replace(&mut self.kept, true);
        }
        let claimed = routes::claimed(view);
        for news in claimed.ignored.difference(&self.ignored) {
            tracing::warn!("{news}");
        }
        self.ignored = claimed.ignored;
        if *self.routes != claimed.routes {
            self.routes = Arc::new(claimed.routes);
        }
        self.claimed_at = Some(view.route_changes());
        self.kept = true;
        true
    }

    /// Brings HAProxy's maps up to the routes, and reads them back. What is refused is tried again at the next audit.
    pub(super) async fn keep(
        &self,
        dialogue: &mut Dialogue,
        in_sync: bool,
        observed: &mut Observed,
        journal: &Journal,
        totals: &mut Metrics,
    ) -> Result<(), PassError> {
        let commands = routes::difference(&self.routes, observed, in_sync);
        if commands.is_empty() {
            return Ok(());
        }
        for batch in commands.chunks(COMMANDS_MAX) {
            let answers = dialogue.ask(batch).await?;
            for (command, answer) in batch.iter().zip(&answers) {
                note(command, &Reply::read(command, answer), journal, totals);
            }
        }
        observe::routes(dialogue, observed).await
    }
}

/// Tells what came of a command that concerns no single server.
pub(super) fn note(command: &Command, reply: &Reply, journal: &Journal, totals: &mut Metrics) {
    let refused = match reply {
        Reply::Ok => None,
        Reply::Other(text) => Some(text.to_string()),
        known => Some(format!("{known:?}")),
    };
    totals.sent([command], refused.is_none());
    match &refused {
        None => tracing::info!(%command, "{}", command.kind()),
        Some(said) => tracing::error!(%command, said, "HAProxy refused; tried again at the next audit"),
    }
    journal.note(JournalEvent {
        what: command.kind().into(),
        why: "the registry's routes and services".into(),
        commands: vec![command.to_string()],
        refused,
        ..JournalEvent::default()
    });
}
