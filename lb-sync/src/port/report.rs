//! How everything stands at one moment, drawn up on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use registry::name::{BalancerName, InstanceId, ServiceName};
use registry::record::OverrideRecord;
use registry::time::Tick;

use super::totals::Metrics;
use crate::condition::SyncCondition;
use crate::plan::Planner;
use crate::plan::observed::Server;
use crate::status::{Details, Inputs, InstanceStatus};
use crate::view::Registered;
use haproxy::ServerId;

/// How everything stands.
#[derive(Clone, Debug)]
pub struct Report {
    /// When it was drawn up.
    pub made_at: Tick,
    /// It has all that was told before this.
    pub generation: u64,
    /// The balancer, under the name that it has in the registry.
    pub balancer: BalancerName,
    /// Another balancer has the name that it was given.
    pub has_other_name: bool,
    /// The view.
    pub registry: RegistryReport,
    /// The HAProxy that answers; `None` while none does.
    pub haproxy: Option<HaproxyReport>,
    /// How long ago the last pass was; `None` before the first.
    pub passed: Option<Duration>,
    /// The services that are or were registered, and whether HAProxy has a backend for each.
    pub services: BTreeMap<ServiceName, bool>,
    /// Everybody who has a record, or a server of ours.
    pub instances: BTreeMap<InstanceId, InstanceReport>,
    /// Counts since the start.
    pub totals: Metrics,
}

/// How the pass gets on.
#[derive(Clone, Copy, Debug)]
pub struct PassProgress {
    /// What [`super::StatusPublisher::changed`] has told so far.
    pub generation: u64,
    /// When the last pass was.
    pub passed: Option<Tick>,
    /// When all of HAProxy's state was last read.
    pub read_at: Tick,
}

/// The view of the registry.
#[derive(Clone, Copy, Debug)]
pub struct RegistryReport {
    /// Whether it is what etcd has at this moment.
    pub in_sync: bool,
    /// Whether it is from the disk: etcd has not been heard since the start.
    pub from_disk: bool,
    /// How long ago etcd was heard; `None` before it was.
    pub age: Option<Duration>,
    /// etcd's revision.
    pub revision: i64,
    /// Values that were not records, since the start.
    pub rejected_count: u64,
    /// Instances that became suspects, since the start.
    pub suspected_count: u64,
}

/// HAProxy.
#[derive(Clone, Debug)]
pub struct HaproxyReport {
    /// Its version.
    pub version: String,
    /// The worker's process id.
    pub pid: u32,
    /// How long the worker has run.
    pub uptime: Duration,
}

/// One instance.
#[derive(Clone, Debug)]
pub struct InstanceReport {
    /// Its record.
    pub registered: Option<Registered>,
    /// What an operator wants.
    pub overriding: Option<OverrideRecord>,
    /// How long it stays at most, if it is suspect.
    pub suspect_for: Option<Duration>,
    /// HAProxy's server of its name.
    pub server: Option<Server>,
    /// What HAProxy does with it, and why.
    pub status: InstanceStatus,
    /// Who is served at its address in its stead.
    pub shadowed_by: Option<InstanceId>,
    /// What HAProxy said last, where it refused a command for it.
    pub refusal: Option<String>,
}

impl InstanceReport {
    /// Why it stands so, with the names that belong to it, and HAProxy's words where it refused.
    #[must_use]
    pub fn reason(&self) -> String {
        let details = Details {
            shadowed_by: self.shadowed_by.as_ref(),
            overriding: self.overriding.as_ref(),
            check_said: self.server.as_ref().and_then(|server| server.check_said.as_deref()),
        };
        let text = self.status.reason.text_with(&details);
        match &self.refusal {
            Some(said) => format!("{text}; HAProxy refused: {said}"),
            None => text,
        }
    }
}

impl Report {
    /// Draws it up: some milliseconds at 10,000 instances. `given` is the balancer's name, and `name` the one that it has in
    /// the registry, if it has one; `known` are the services that are or were registered.
    #[must_use]
    pub fn of(
        condition: &SyncCondition<'_>,
        planner: &Planner,
        ((given, name), known): ((&BalancerName, Option<&BalancerName>), &BTreeSet<ServiceName>),
        totals: &Metrics,
        pulse: PassProgress,
    ) -> Self {
        let SyncCondition { now, view, observed, worker, .. } = *condition;
        let is_ours = |id: ServerId| planner.ids().is_ours(id);
        let ours = observed.backends.iter().flat_map(|(service, backend)| {
            let ours = backend.servers.iter().filter(|(_, server)| is_ours(server.id));
            ours.map(|(instance, _)| InstanceId { service: service.clone(), instance: instance.clone() })
        });
        let ids: BTreeSet<InstanceId> = view.instances().keys().cloned().chain(ours).collect();
        // Other backends are the administrator's.
        let mut services: BTreeSet<&ServiceName> = known.iter().collect();
        services.extend(ids.iter().map(|id| &id.service));
        let has_backend = |service: &ServiceName| (service.clone(), observed.backends.contains_key(service));
        let services = services.into_iter().map(has_backend).collect();
        let one = |id: &InstanceId| {
            let inputs = Inputs::of(view, observed, |server| is_ours(server.id), id);
            InstanceReport {
                registered: view.instances().get(id).cloned(),
                overriding: view.override_of(id).cloned(),
                suspect_for: view.suspect_until(id).map(|until| until.since(now)),
                server: inputs.has.server().cloned(),
                status: InstanceStatus::of(&inputs),
                shadowed_by: view.shadowed_by(id).cloned(),
                refusal: planner.refusal_of(id).map(str::to_owned),
            }
        };
        Self {
            made_at: now,
            generation: pulse.generation,
            passed: pulse.passed.map(|at| now.since(at)),
            balancer: name.unwrap_or(given).clone(),
            has_other_name: name.is_some_and(|name| name != given),
            registry: RegistryReport {
                in_sync: view.in_sync(),
                from_disk: view.is_from_disk(),
                age: view.heard().map(|heard| now.since(heard)),
                revision: view.revision(),
                rejected_count: view.rejected_count(),
                suspected_count: view.suspected_count(),
            },
            haproxy: worker.map(|worker| HaproxyReport {
                version: worker.version.to_string(),
                pid: worker.pid,
                uptime: Duration::from_secs(worker.uptime_s) + now.since(pulse.read_at),
            }),
            services,
            instances: ids.into_iter().map(|id| (id.clone(), one(&id))).collect(),
            totals: totals.clone(),
        }
    }

    /// The suspects.
    pub fn suspects(&self) -> impl Iterator<Item = (&InstanceId, &InstanceReport)> {
        self.instances.iter().filter(|(_, one)| one.suspect_for.is_some())
    }
}
