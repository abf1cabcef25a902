//! What lb-sync tells others: acks and presence in the registry, health on its status port.

mod health;

use std::collections::{BTreeMap, BTreeSet};

use proto::health::Statuses;
use registry::key::{Key, Prefix};
use registry::lease::{Fence, LeaseHandle};
use registry::name::{BalancerName, InstanceId, ServiceName};
use registry::record::{AckRecord, AckState, BalancerRecord, to_value};
use registry::time::{Clock, Tick};
use tokio::sync::watch;

use crate::haproxy::answer::info::Info;
use crate::plan::observed::Observed;
use crate::view::View;

/// Most services whose health is told.
const SERVICES_MAX: usize = 100_000;

/// How things stand after a pass.
#[derive(Clone, Copy, Debug)]
pub struct SyncCondition<'a> {
    /// Now.
    pub now: Tick,
    /// What the registry says.
    pub view: &'a View,
    /// What HAProxy has, as last read.
    pub observed: &'a Observed,
    /// Counts how often anything of `observed` or `worker` was learnt anew.
    pub reads: u64,
    /// Who answers as HAProxy; `None` while nobody does.
    pub worker: Option<&'a Info>,
}

/// All that presence and health follow from: while it stays the same, so do they.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Basis {
    view_changes: u64,
    in_sync: bool,
    fresh: bool,
    reads: u64,
}

/// Tells what has changed since it was last told, and nothing else.
pub struct Publisher {
    prefix: Prefix,
    balancer: BalancerName,
    /// `ADDR:PORT` of the status port, for the presence record.
    status: String,
    lease: LeaseHandle,
    health: watch::Sender<Statuses>,
    acks: BTreeMap<InstanceId, (String, AckState)>,
    presence: Option<BalancerRecord>,
    /// What presence and health were last told on.
    basis: Option<Basis>,
    /// Services that are or were registered: a service whose last instance has left is not serving, not unknown.
    known: BTreeSet<ServiceName>,
    /// The view (by its count of changes) that `known` is of.
    known_at: u64,
}

impl Publisher {
    /// Has told nothing yet. Acks and presence stand under `lease`.
    #[must_use]
    pub fn new(
        prefix: Prefix,
        balancer: BalancerName,
        status: String,
        lease: LeaseHandle,
        health: watch::Sender<Statuses>,
    ) -> Self {
        Self {
            prefix,
            balancer,
            status,
            lease,
            health,
            acks: BTreeMap::new(),
            presence: None,
            basis: None,
            known: BTreeSet::new(),
            known_at: 0,
        }
    }

    /// Services that are or were registered.
    #[must_use]
    pub fn known(&self) -> &BTreeSet<ServiceName> {
        &self.known
    }

    /// Who tells.
    #[must_use]
    pub fn balancer(&self) -> &BalancerName {
        &self.balancer
    }

    /// Writes those acks that are news: on transitions only, so that nobody is woken for nothing.
    pub async fn acks(&mut self, acks: &[(InstanceId, Option<(String, AckState)>)]) {
        for (id, ack) in acks {
            if self.acks.get(id) == ack.as_ref() {
                continue;
            }
            let key = self.prefix.text(&Key::Ack(id.clone(), self.balancer.clone()));
            if let Some((owner, state)) = ack {
                let at = humantime::format_rfc3339_millis(Clock.time_of_day()).to_string();
                let record = AckRecord { owner: owner.clone(), state: *state, at };
                self.acks.insert(id.clone(), (owner.clone(), *state));
                self.lease.put(key, to_value(&record), Fence::None).await;
            } else {
                self.acks.remove(id);
                self.lease.remove(key).await;
            }
        }
    }

    /// Only where the view has changed: this is called several times a second.
    fn learn_services(&mut self, view: &View) {
        if std::mem::replace(&mut self.known_at, view.changes()) == view.changes() {
            return;
        }
        for service in view.services().keys() {
            if self.known.len() < SERVICES_MAX && !self.known.contains(service) {
                self.known.insert(service.clone());
            }
        }
    }

    /// Tells presence and health, where they have changed. Called several times a second, it looks through the services only
    /// where there is reason to.
    pub async fn tell(&mut self, condition: &SyncCondition<'_>) {
        let basis = Basis {
            view_changes: condition.view.changes(),
            in_sync: condition.view.in_sync(),
            fresh: health::is_fresh(condition),
            reads: condition.reads,
        };
        if self.basis.replace(basis) == Some(basis) {
            return;
        }
        if let Some(worker) = condition.worker {
            let presence = BalancerRecord {
                services: condition.observed.backends.keys().cloned().collect(),
                haproxy_version: worker.version.to_string(),
                status: self.status.clone(),
            };
            if self.presence.as_ref() != Some(&presence) {
                let key = self.prefix.text(&Key::Balancer(self.balancer.clone()));
                self.lease.put(key, to_value(&presence), Fence::None).await;
                self.presence = Some(presence);
            }
        }
        self.learn_services(condition.view);
        let health = health::statuses(condition, &self.known);
        self.health.send_if_modified(|told| {
            let changed = **told != health;
            if changed {
                *told = health.into();
            }
            changed
        });
    }

    /// Takes presence and acks out of the registry, so that nobody waits for this balancer.
    pub async fn leave(mut self) {
        self.lease.release().await;
        let mut standing = self.lease.standing();
        // Bounded by the lease task: it gives up revoking after three tries.
        let _ = standing.wait_for(|standing| standing.released).await;
    }
}
