//! Which balancers a leaving instance still waits for.

use std::collections::BTreeSet;

use registry::follow::{Event, Store};
use registry::key::Key;
use registry::name::{BalancerName, InstanceId};
use registry::record::{AckRecord, AckState, BalancerRecord, parse};

use super::Identity;

/// Most balancers that are kept in view; over this, one more is not waited for.
const BALANCERS_MAX: usize = 10_000;

/// What is known of the balancers, from their presence and their acks.
///
/// Both are to be followed only after the record stands as `draining`: the lists are then no older than that
/// record, so no balancer is missed that may have seen the instance up.
#[derive(Clone, Debug)]
pub struct View {
    identity: Identity,
    present: Store<BalancerName, BalancerRecord>,
    acks: Store<(InstanceId, BalancerName), AckRecord>,
}

impl View {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        let prefix = || identity.prefix.clone();
        let balancer = |key| if let Key::Balancer(name) = key { Some(name) } else { None };
        let ack = |key| if let Key::Ack(id, name) = key { Some((id, name)) } else { None };
        let present = Store::new(prefix(), BALANCERS_MAX, balancer, |entry| parse(&entry.value).ok());
        let acks = Store::new(prefix(), BALANCERS_MAX, ack, |entry| parse(&entry.value).ok());
        Self { identity, present, acks }
    }

    /// Takes in what was seen below [`registry::key::Prefix::balancers`].
    pub fn presence(&mut self, event: Event) {
        self.present.fold(event);
    }

    /// Takes in what was seen below [`registry::key::Prefix::acks_of`].
    pub fn acks(&mut self, event: Event) {
        self.acks.fold(event);
    }

    /// The balancers that serve the service and have not acked `drained` for our owner. `None` as long as that cannot be
    /// told: only a complete view that is current may say "none".
    #[must_use]
    pub fn awaited(&self) -> Option<BTreeSet<BalancerName>> {
        if !(self.present.is_current() && self.acks.is_current()) {
            return None;
        }
        let Identity { id, owner, .. } = &self.identity;
        let has_drained = |balancer: &BalancerName| {
            let ack = self.acks.values().get(&(id.clone(), balancer.clone()));
            ack.is_some_and(|ack| ack.owner == *owner && ack.state == AckState::Drained)
        };
        let serving =
            self.present.values().iter().filter(|(_, record)| record.services.contains(&id.service));
        Some(serving.map(|(name, _)| name).filter(|name| !has_drained(name)).cloned().collect())
    }
}

#[cfg(test)]
#[path = "leave_tests.rs"]
mod tests;
