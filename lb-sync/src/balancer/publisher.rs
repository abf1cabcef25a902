//! What others are told: acks and presence in the registry, health on the status port. Only what has changed.

use std::collections::{BTreeMap, BTreeSet};

use proto::health::Status;
use registry::key::AckKey;
use registry::name::{InstanceId, ServiceName};
use registry::record::AckState;
use registry::time::Tick;

use super::held_acks::HeldAcks;
use super::presence::{Presence, PresenceAction};
use super::{Action, events, health};
use crate::condition::SyncCondition;
use crate::files::Files;
use crate::plan::AckValue;
use crate::scope::Scope;
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
    /// The name, under which presence and acks stand.
    pub(super) presence: Presence,
    health: BTreeMap<String, Status>,
    acks: BTreeMap<InstanceId, AckValue>,
    held: HeldAcks,
    /// Whose ack is said once more, though it is the same.
    repeat: BTreeSet<InstanceId>,
    /// What presence and health were last published on.
    basis: Option<Basis>,
    /// Services that are or were registered: a service whose last instance has left is not serving, not unknown.
    known: BTreeSet<ServiceName>,
    /// The view (by its count of changes) that `known` is of.
    known_at: u64,
}

impl Publisher {
    /// Nothing is published yet.
    pub(super) fn new(presence: Presence) -> Self {
        Self {
            presence,
            health: BTreeMap::new(),
            acks: BTreeMap::new(),
            held: HeldAcks::default(),
            repeat: BTreeSet::new(),
            basis: None,
            known: BTreeSet::new(),
            known_at: 0,
        }
    }

    /// What was last said of an instance.
    pub(super) fn state_of(&self, id: &InstanceId) -> Option<AckState> {
        self.acks.get(id).map(|ack| ack.state)
    }

    /// Services that are or were registered.
    pub(super) fn known(&self) -> &BTreeSet<ServiceName> {
        &self.known
    }

    /// Publishes the acks of a plan; `drained` once the files have it, too.
    pub(super) fn publish_acks(
        &mut self,
        now: Tick,
        acks: &[(InstanceId, Option<AckValue>)],
        files: &Files,
        actions: &mut Vec<Action>,
    ) {
        for (id, ack) in acks {
            let is_known = self.acks.get(id).is_some_and(|known| known.state == AckState::Drained);
            let ack = self.held.hold(now, id, ack.as_ref(), is_known, files);
            self.publish_ack(id, ack.as_ref(), actions);
        }
    }

    /// Instances whose ack need not wait for the files any longer: to be planned anew.
    pub(super) fn acks_to_plan(&mut self, now: Tick, files: &Files) -> Scope {
        self.held.over(now, files)
    }

    /// Another HAProxy process answers.
    pub(super) fn start_anew(&mut self) {
        self.held.clear();
    }

    /// etcd has another history: what was said of records of the one before is taken back, and said anew of those that stand
    /// now. Revisions of two histories cannot be compared: an ack could be taken for the answer to a record that it never saw.
    pub(super) fn history_broke(&mut self, actions: &mut Vec<Action>) {
        self.presence.history_broke();
        let drained = |_: &InstanceId, ack: &mut AckValue| ack.state == AckState::Drained;
        for (id, _) in self.acks.extract_if(.., drained) {
            let key = self.presence.name().map(|name| AckKey { balancer: name.clone(), id });
            actions.extend(key.map(Action::RemoveAck));
        }
    }

    /// In sync again, after a break in which etcd may have been restored to an earlier value: what was said to those who leave,
    /// and wait for it, is said once more when the next plan says it.
    pub(super) fn repeat_acks(&mut self) {
        let waits = self.acks.iter().filter(|(_, ack)| ack.state.is_of_a_leave());
        self.repeat = waits.map(|(id, _)| id.clone()).collect();
    }

    /// When [`Self::acks_to_plan`] has something.
    pub(super) fn wake_at(&self) -> Option<Tick> {
        self.held.wake_at()
    }

    /// Publishes an ack that differs from what stands: on transitions only, so that no registrar wakes for nothing. As long
    /// as no name is known to be ours, it is only remembered.
    fn publish_ack(&mut self, id: &InstanceId, ack: Option<&AckValue>, actions: &mut Vec<Action>) {
        let same = |one: &AckValue, other: &AckValue| {
            // A leave waits for an answer to the record that says so; of one that serves no later record asks anything.
            let answers = one.revision == other.revision || !other.state.is_of_a_leave();
            one.owner == other.owner && one.state == other.state && answers
        };
        let again = self.repeat.remove(id);
        if match (self.acks.get(id), ack) {
            (Some(known), Some(ack)) => same(known, ack) && !again,
            (known, ack) => known.is_none() && ack.is_none(),
        } {
            return;
        }
        let key = self.presence.name().map(|name| AckKey { balancer: name.clone(), id: id.clone() });
        if let Some(ack) = ack {
            self.acks.insert(id.clone(), ack.clone());
            actions.extend(key.map(|key| Action::PutAck(key, ack.clone())));
        } else {
            self.acks.remove(id);
            actions.extend(key.map(Action::RemoveAck));
        }
    }

    /// Publishes the record of this life, and the acks again under a name that is new.
    pub(super) fn publish_presence(&mut self, actions: &mut Vec<Action>) {
        for action in self.presence.step() {
            match action {
                PresenceAction::Put { name, record, expected } => {
                    actions.push(Action::PutPresence { name, record, expected });
                }
                PresenceAction::Confirmed(balancer) => {
                    let key = |id: &InstanceId| AckKey { balancer: balancer.clone(), id: id.clone() };
                    actions.extend(self.acks.iter().map(|(id, ack)| Action::PutAck(key(id), ack.clone())));
                    actions.push(Action::StatusChanged);
                }
                PresenceAction::Taken { by, runs_as } => {
                    let life = self.presence.life();
                    actions.push(Action::Record(events::name_taken(
                        &life.name,
                        by.as_ref(),
                        runs_as.as_ref(),
                    )));
                    actions.push(Action::StatusChanged);
                }
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
        let is_new = self.basis.replace(basis) != Some(basis);
        if let Some(worker) = condition.worker.filter(|_| is_new) {
            let services = condition.observed.backends.keys().cloned().collect();
            self.presence.want(services, worker.version.to_string());
        }
        self.publish_presence(actions);
        if !is_new {
            return;
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
