//! Which balancers a leaving instance still waits for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use registry::follow::{Event, Store};
use registry::key::{Key, Prefix};
use registry::name::{BalancerName, InstanceId, ServiceName};
use registry::record::{AckRecord, AckState, BalancerRecord, parse};
use registry::time::Tick;

use super::Identity;

/// Most balancers that are kept in view; over this, one more is not waited for.
const BALANCERS_MAX: usize = 10_000;

/// The balancers that serve a service, and those that did lately.
///
/// A balancer whose presence is gone may serve on: its lb-sync was stopped, is being upgraded, is paused or cut off, or etcd
/// has lost its history. Its HAProxy goes on with what it has. So it counts for another `linger`.
#[derive(Clone, Debug)]
pub struct Balancers {
    service: ServiceName,
    present: Store<BalancerName, BalancerRecord>,
    /// Those that were present, and until when they count.
    vanished: BTreeMap<BalancerName, Tick>,
    linger: Duration,
}

impl Balancers {
    /// None is known yet. A balancer that vanishes counts for `linger`.
    #[must_use]
    pub fn new(prefix: Prefix, service: ServiceName, linger: Duration) -> Self {
        let balancer = |key| if let Key::Balancer(name) = key { Some(name) } else { None };
        let present = Store::new(prefix, BALANCERS_MAX, balancer, |entry| parse(&entry.value).ok());
        Self { service, present, vanished: BTreeMap::new(), linger }
    }

    /// Takes in what was seen below [`Prefix::balancers`].
    pub fn fold(&mut self, now: Tick, event: Event) {
        let before = self.serving();
        self.present.fold(event);
        let after = self.serving();
        for name in before.difference(&after) {
            self.vanished.insert(name.clone(), now.plus(self.linger));
        }
        self.vanished.retain(|name, until| now < *until && !after.contains(name));
        while self.vanished.len() > BALANCERS_MAX {
            self.vanished.pop_first();
        }
    }

    /// What is known is of before the instance began to leave: it is listed anew.
    pub fn doubt(&mut self) {
        self.present.fold(Event::OutOfSync);
    }

    /// When one that has vanished no longer counts.
    #[must_use]
    pub fn wake_at(&self, now: Tick) -> Option<Tick> {
        self.vanished.values().copied().filter(|until| now < *until).min()
    }

    fn serving(&self) -> BTreeSet<BalancerName> {
        let serve = |record: &BalancerRecord| record.services.contains(&self.service);
        let serving = self.present.values().iter().filter(|(_, record)| serve(record));
        serving.map(|(name, _)| name.clone()).collect()
    }

    /// All that count at `now`; `None` as long as that cannot be told.
    fn counted(&self, now: Tick) -> Option<BTreeSet<BalancerName>> {
        let vanished = self.vanished.iter().filter(|(_, until)| now < **until).map(|(name, _)| name.clone());
        self.present.is_current().then(|| self.serving().into_iter().chain(vanished).collect())
    }
}

/// What the balancers say about a leaving instance.
///
/// Balancers and acks are to be listed only after the record stands as `draining`: the lists are then no older than that
/// record, so no balancer is missed that may have seen the instance up.
#[derive(Clone, Debug)]
pub struct View {
    identity: Identity,
    acks: Store<(InstanceId, BalancerName), AckRecord>,
}

impl View {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        let ack = |key| if let Key::Ack(id, name) = key { Some((id, name)) } else { None };
        let prefix = identity.prefix.clone();
        let acks = Store::new(prefix, BALANCERS_MAX, ack, |entry| parse(&entry.value).ok());
        Self { identity, acks }
    }

    /// Takes in what was seen below [`registry::key::Prefix::acks_of`].
    pub fn acks(&mut self, event: Event) {
        self.acks.fold(event);
    }

    /// The balancers that count and have not said `drained` of our record as it stands at `revision`, or later. `None` as
    /// long as that cannot be told: only a complete view that is current may say "none".
    #[must_use]
    pub fn awaited(
        &self,
        now: Tick,
        balancers: &Balancers,
        revision: Option<i64>,
    ) -> Option<BTreeSet<BalancerName>> {
        if !self.acks.is_current() {
            return None;
        }
        let Identity { id, owner, .. } = &self.identity;
        let has_drained = |balancer: &BalancerName| {
            let ack = self.acks.values().get(&(id.clone(), balancer.clone()));
            ack.is_some_and(|ack| {
                // An lb-sync of 0.1.0 names no revision.
                let answers = ack.revision.is_none_or(|of| revision.is_none_or(|ours| of >= ours));
                ack.owner == *owner && ack.state == AckState::Drained && answers
            })
        };
        Some(balancers.counted(now)?.into_iter().filter(|name| !has_drained(name)).collect())
    }
}

#[cfg(test)]
#[path = "leave_tests.rs"]
mod tests;
