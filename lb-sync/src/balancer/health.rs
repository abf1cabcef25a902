//! Health by name: `""` in sync and HAProxy answers, `registry` the view is no older than its bound, and for each
//! service that is or was registered whether at least one of its servers is up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::health::Status;
use registry::name::ServiceName;

use crate::condition::SyncCondition;
use crate::plan::observed::Backend;
use haproxy::answer::flags::OpState;

/// Oldest view that is called good. A watch is asked for a sign of life after 5 s of quiet and has 3 s to give it.
const VIEW_AGE_MAX: Duration = Duration::from_secs(10);

/// What to answer for each name.
pub(super) fn statuses(
    condition: &SyncCondition<'_>,
    known: &BTreeSet<ServiceName>,
) -> BTreeMap<String, Status> {
    let SyncCondition { view, observed, worker, .. } = condition;
    let fresh = is_fresh(condition);
    let whole = worker.is_some() && view.in_sync();
    let services = known.iter().map(|service| {
        let up = worker.is_some() && observed.backends.get(service).is_some_and(any_up);
        (service.to_string(), Status::from(up))
    });
    services.chain([(String::new(), Status::from(whole)), ("registry".into(), Status::from(fresh))]).collect()
}

/// Whether the view is no older than its bound.
pub(super) fn is_fresh(condition: &SyncCondition<'_>) -> bool {
    condition.view.heard().is_some_and(|heard| condition.now.since(heard) <= VIEW_AGE_MAX)
}

fn any_up(backend: &Backend) -> bool {
    backend.servers.values().any(|server| server.admin.is_ready() && server.op != OpState::Stopped)
}
