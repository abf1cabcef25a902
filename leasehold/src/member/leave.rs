//! Which balancers a leaving instance still waits for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use registry::follow::{Event, InstanceAcks, Store};
use registry::key::{AckLayout, Key, Prefix};
use registry::name::{BalancerName, ServiceName};
use registry::record::{AckState, BalancerRecord, parse};
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
    /// Those that were present, until when they count, and how they write acks.
    vanished: BTreeMap<BalancerName, (Tick, AckLayout)>,
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
        for (name, layout) in before {
            if !after.contains_key(&name) {
                self.vanished.insert(name, (now.plus(self.linger), layout));
            }
        }
        self.vanished.retain(|name, _| !after.contains_key(name));
        while self.vanished.len() > BALANCERS_MAX {
            self.vanished.pop_first();
        }
    }

    /// What is known is of before the instance began to leave: it is listed anew.
    pub fn doubt(&mut self) {
        self.present.fold(Event::OutOfSync);
    }

    /// When one that has vanished may be let go.
    #[must_use]
    pub fn wake_at(&self) -> Option<Tick> {
        self.vanished.values().map(|(until, _)| *until).min()
    }

    /// Lets those go that were gone for their time. If there were any, the balancers are to be listed again before a leave may
    /// end: one that is back may have been missed, as by a process that was paused.
    pub fn let_go(&mut self, now: Tick) -> bool {
        let before = self.vanished.len();
        self.vanished.retain(|_, (until, _)| now < *until);
        self.vanished.len() < before
    }

    /// Those that are present, and how each writes its acks.
    fn serving(&self) -> BTreeMap<BalancerName, AckLayout> {
        let serve = |record: &BalancerRecord| record.services.contains(&self.service);
        let serving = self.present.values().iter().filter(|(_, record)| serve(record));
        serving.map(|(name, record)| (name.clone(), record.ack_layout())).collect()
    }

    /// All that count, as far as is known.
    fn known(&self) -> BTreeMap<BalancerName, AckLayout> {
        let vanished = self.vanished.iter().map(|(name, (_, layout))| (name.clone(), *layout));
        self.serving().into_iter().chain(vanished).collect()
    }

    /// All that count; `None` as long as that cannot be told.
    fn counted(&self) -> Option<BTreeMap<BalancerName, AckLayout>> {
        self.present.is_current().then(|| self.known())
    }
}

/// What the balancers say about a leaving instance.
///
/// Balancers and acks are to be listed only after the record stands as `draining`: the lists are then no older than that
/// record, so no balancer is missed that may have seen the instance up.
#[derive(Clone, Debug)]
pub struct View {
    identity: Identity,
    acks: InstanceAcks,
}

impl View {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        let acks = InstanceAcks::new(identity.prefix.clone(), identity.id.clone());
        Self { identity, acks }
    }

    /// The keys of acks that are to be followed from now on. The acks of balancers that are known already need not wait for
    /// the list of `balancers/`.
    pub fn follow(&mut self, balancers: &Balancers) -> Vec<String> {
        let known = balancers.known();
        self.acks.follow(known.iter().map(|(name, layout)| (name, *layout)))
    }

    /// Takes in what was seen of `key`, one of those that [`Self::follow`] named.
    pub fn acks(&mut self, key: &str, event: Event) {
        self.acks.fold(key, event);
    }

    /// The balancers that count and have not said `drained` of our record as it stands at `revision`, or later. `None` as
    /// long as that cannot be told: only a complete view that is current may say "none".
    #[must_use]
    pub fn awaited(&self, balancers: &Balancers, revision: Option<i64>) -> Option<BTreeSet<BalancerName>> {
        let counted = balancers.counted()?;
        if !counted.iter().all(|(name, layout)| self.acks.is_current(name, *layout)) {
            return None;
        }
        let has_drained = |balancer: &BalancerName, layout: AckLayout| {
            self.acks.of(balancer, layout).is_some_and(|ack| {
                let answers = match ack.revision {
                    Some(of) => revision.is_none_or(|ours| of >= ours),
                    // An lb-sync of 0.1.0 names no revision. The ack of an upgraded one would be of its earlier life.
                    None => layout == AckLayout::ByInstance,
                };
                ack.owner == self.identity.owner && ack.state == AckState::Drained && answers
            })
        };
        let awaited = counted.into_iter().filter(|(name, layout)| !has_drained(name, *layout));
        Some(awaited.map(|(name, _)| name).collect())
    }
}

#[cfg(test)]
#[path = "leave_tests.rs"]
mod tests;
