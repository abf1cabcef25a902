//! Which commands bring HAProxy's maps of routes up to the registry; and the routes themselves, for the files.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::plan::observed::Observed;
use crate::plan::routes::{self, Routes};
use crate::view::View;
use haproxy::Command;

/// What is known of routes.
#[derive(Debug, Default)]
pub(super) struct RouteSync {
    routes: Arc<Routes>,
    /// The view (by its count of changes of routes) that they are of.
    claimed_at: Option<u64>,
    /// HAProxy's maps follow them.
    synced: bool,
    /// Labels that were ignored, each logged once.
    ignored: BTreeSet<String>,
}

impl RouteSync {
    /// By the registry.
    pub(super) fn routes(&self) -> &Arc<Routes> {
        &self.routes
    }

    /// HAProxy's maps were read anew, or may be changed from now on.
    pub(super) fn invalidate(&mut self) {
        self.synced = false;
    }

    /// The commands that are missing. What HAProxy refuses is tried again after [`Self::invalidate`].
    pub(super) fn commands(&mut self, view: &View, observed: &Observed) -> Vec<Command> {
        self.read_view(view);
        if std::mem::replace(&mut self.synced, true) {
            return Vec::new();
        }
        routes::difference(&self.routes, observed, view.in_sync())
    }

    /// Takes in a view that may have changed.
    pub(super) fn read_view(&mut self, view: &View) {
        if self.claimed_at == Some(view.route_changes()) {
            return;
        }
        let claimed = routes::claimed(view);
        for ignored in claimed.ignored.difference(&self.ignored) {
            tracing::warn!("{ignored}");
        }
        self.ignored = claimed.ignored;
        if *self.routes != claimed.routes {
            self.routes = Arc::new(claimed.routes);
        }
        self.claimed_at = Some(view.route_changes());
        self.synced = false;
    }
}
