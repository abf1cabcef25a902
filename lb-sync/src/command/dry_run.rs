//! What the pass would do now, found out by its own planner and not done.

use registry::name::InstanceId;
use registry::record::AckState;
use registry::time::Clock;

use super::read::Haproxy;
use crate::balancer::reading::Reading;
use crate::balancer::{PassError, can_add_backends};
use crate::config::RunConfig;
use crate::files::peek_ids;
use crate::plan::{AckValue, Planner, Step, backends, routes};
use crate::scope::Scope;
use crate::view::View;
use haproxy::Command;

/// What would be done.
#[derive(Debug, Default)]
pub(super) struct Foreseen {
    /// In the order in which they would be.
    pub(super) steps: Vec<Step>,
    /// Instances that are on their way out: what is in flight on them is waited for.
    pub(super) waiting: Vec<InstanceId>,
    /// Instances that are not served, since a server of their name is there that lb-sync did not make.
    pub(super) foreign: Vec<InstanceId>,
    /// What concerns no single server, and why.
    pub(super) others: Vec<(String, Vec<Command>)>,
}

impl Foreseen {
    /// Nothing would be done.
    pub(super) fn is_nothing(&self) -> bool {
        self.steps.is_empty() && self.others.is_empty()
    }
}

/// Plans for `scope` as the first pass of an lb-sync that starts now would: with the ids of servers that were kept, or
/// are learnt from HAProxy, and the sessions of leaving servers read where the planner asks for them.
pub(super) async fn dry_run(
    config: &RunConfig,
    view: &View,
    haproxy: &mut Haproxy,
    scope: &Scope,
) -> Result<Foreseen, PassError> {
    let policy = config.pass.policy;
    let mut planner = Planner::new(policy);
    if let Some(kept) = config.state_dir.as_deref().and_then(|dir| peek_ids(dir, policy.id_base)) {
        *planner.ids_mut() = kept;
    }
    planner.start_anew(&haproxy.info.version);
    // One moment for all: what is read after it is not too old for a decision, however many are read.
    let now = Clock.now();
    planner.read_state(now, &haproxy.observed, &Scope::All);
    let first = planner.plan(now, view, &haproxy.observed, scope);
    let mut reading = Reading::default();
    reading.add_sessions(&haproxy.observed, &first.reads);
    haproxy.read(reading).await?;
    let read = Scope::Only(first.reads.into_iter().collect());
    let then = planner.plan(now, view, &haproxy.observed, &read);
    let waits = |(id, ack): (InstanceId, Option<AckValue>)| {
        ack.is_some_and(|ack| ack.state == AckState::Draining).then_some(id)
    };
    Ok(Foreseen {
        steps: first.steps.into_iter().chain(then.steps).collect(),
        waiting: first.acks.into_iter().chain(then.acks).filter_map(waits).collect(),
        foreign: first.foreign,
        others: others(config, view, haproxy, scope),
    })
}

/// Backends that HAProxy can make while it runs, and its maps of routes.
fn others(config: &RunConfig, view: &View, haproxy: &Haproxy, scope: &Scope) -> Vec<(String, Vec<Command>)> {
    let mut others = Vec::new();
    let observed = &haproxy.observed;
    if let Some(defaults) =
        config.pass.backend_defaults.as_ref().filter(|_| can_add_backends(&haproxy.info.version))
    {
        let missing = backends::missing(view, observed, scope);
        others.extend(missing.iter().map(|service| {
            (
                format!("{service}: HAProxy has no backend of that name"),
                backends::make(service, defaults).into(),
            )
        }));
    }
    let routes = routes::difference(&routes::claimed(view).routes, observed, view.in_sync());
    if *scope == Scope::All && !routes.is_empty() {
        others.push(("routes: as the instances' labels have them".into(), routes));
    }
    others
}
