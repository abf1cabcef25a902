//! What others are told: acks and presence in the registry, health on the status port. Only what has changed.

use std::collections::{BTreeMap, BTreeSet};

use proto::health::Status;
use registry::name::{BalancerName, InstanceId, ServiceName};
use registry::record::{AckState, BalancerRecord};

use super::{Action, Life, health};
use crate::condition::SyncCondition;
use crate::plan::AckValue;
use crate::view::View;

/// Most services whose health is published.
const SERVICES_MAX: usize = 100_000;

/// All that presence and health follow from: while it stays the same, so do they.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Basis {
    view_changes: u64,
    in_sync: bool,
    fresh: bool,
    reads: u64,
}

/// Remembers what was published last.
#[derive(Debug)]
pub(super) struct Publisher {
    life: Life,
    health: BTreeMap<String, Status>,
    acks: BTreeMap<InstanceId, AckValue>,
    presence: Option<BalancerRecord>,
    /// What presence and health were last published on.
    basis: Option<Basis>,
    /// Services that are or were registered: a service whose last instance has left is not serving, not unknown.
    known: BTreeSet<ServiceName>,
    /// The view (by its count of changes) that `known` is of.
    known_at: u64,
}

impl Publisher {
    /// Nothing is published yet.
    pub(super) fn new(life: Life) -> Self {
        Self {
            life,
            health: BTreeMap::new(),
            acks: BTreeMap::new(),
            presence: None,
            basis: None,
            known: BTreeSet::new(),
            known_at: 0,
        }
    }

    /// Services that are or were registered.
    pub(super) fn known(&self) -> &BTreeSet<ServiceName> {
        &self.known
    }

    /// The balancer's name.
    pub(super) fn balancer(&self) -> &BalancerName {
        &self.life.name
    }

    /// Publishes the acks that differ from what stands: on transitions only, so that no registrar wakes for nothing.
    pub(super) fn publish_acks(
        &mut self,
        acks: &[(InstanceId, Option<AckValue>)],
        actions: &mut Vec<Action>,
    ) {
        for (id, ack) in acks {
            let same = |one: &AckValue, other: &AckValue| {
                // A leave waits for an answer to the record that says so; of one that serves no later record asks anything.
                let answers = one.revision == other.revision || other.state == AckState::Serving;
                one.owner == other.owner && one.state == other.state && answers
            };
            if match (self.acks.get(id), ack) {
                (Some(known), Some(ack)) => same(known, ack),
                (known, ack) => known.is_none() && ack.is_none(),
            } {
                continue;
            }
            let id = id.clone();
            if let Some(ack) = ack {
                self.acks.insert(id.clone(), ack.clone());
                actions.push(Action::PutAck(id, ack.clone()));
            } else {
                self.acks.remove(&id);
                actions.push(Action::RemoveAck(id));
            }
        }
    }

    /// Publishes presence and health where they have changed. It is called several times a second, and looks through the
    /// services only where there is reason to.
    pub(super) fn publish(&mut self, condition: &SyncCondition<'_>, actions: &mut Vec<Action>) {
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
                id: Some(self.life.id.clone()),
                services: condition.observed.backends.keys().cloned().collect(),
                haproxy_version: worker.version.to_string(),
                status: self.life.status.clone(),
            };
            if self.presence.as_ref() != Some(&presence) {
                actions.push(Action::PutPresence(presence.clone()));
                self.presence = Some(presence);
            }
        }
        self.add_services(condition.view);
        let health = health::statuses(condition, &self.known);
        if self.health != health {
            actions.push(Action::PutHealth(health.clone()));
            self.health = health;
        }
    }

    /// Only where the view has changed: this is called several times a second.
    fn add_services(&mut self, view: &View) {
        if std::mem::replace(&mut self.known_at, view.changes()) == view.changes() {
            return;
        }
        for service in view.services().keys() {
            if self.known.len() < SERVICES_MAX && !self.known.contains(service) {
                self.known.insert(service.clone());
            }
        }
    }
}
