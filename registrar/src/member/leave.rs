//! Which balancers a leaving instance still waits for.

use std::collections::{BTreeMap, BTreeSet};

use registry::follow::{Change, Entry, Event};
use registry::key::Key;
use registry::name::BalancerName;
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
    /// Those present, and whether they serve our service.
    present: Side<bool>,
    /// Those who wrote an ack, and whether it says `drained`, of us.
    acks: Side<bool>,
}

/// One followed prefix, by balancer.
#[derive(Clone, Debug, Default)]
struct Side<T> {
    listed: bool,
    in_sync: bool,
    known: BTreeMap<BalancerName, T>,
}

impl View {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self { identity, present: Side::default(), acks: Side::default() }
    }

    /// Takes in what was seen below [`registry::key::Prefix::balancers`].
    pub fn presence(&mut self, event: Event) {
        let Identity { id, prefix, .. } = &self.identity;
        let name = |key: &[u8]| match prefix.parse(key) {
            Ok(Key::Balancer(balancer)) => Some(balancer),
            _ => None,
        };
        let serves = |value: &[u8]| {
            let record = parse::<BalancerRecord>(value).ok()?;
            Some(record.services.contains(&id.service))
        };
        self.present.fold(event, name, serves);
    }

    /// Takes in what was seen below [`registry::key::Prefix::acks_of`].
    pub fn acks(&mut self, event: Event) {
        let Identity { id, owner, prefix } = &self.identity;
        let name = |key: &[u8]| match prefix.parse(key) {
            Ok(Key::Ack(about, balancer)) if about == *id => Some(balancer),
            _ => None,
        };
        let drained = |value: &[u8]| {
            let ack = parse::<AckRecord>(value).ok()?;
            Some(ack.owner == *owner && ack.state == AckState::Drained)
        };
        self.acks.fold(event, name, drained);
    }

    /// The balancers that serve the service and have not said that they are done with us. `None` as long as that
    /// cannot be told: only a complete view that is up to date may say "none".
    #[must_use]
    pub fn awaited(&self) -> Option<BTreeSet<BalancerName>> {
        if !(self.present.is_whole() && self.acks.is_whole()) {
            return None;
        }
        let done = |balancer| self.acks.known.get(balancer) == Some(&true);
        let serving = self.present.known.iter().filter(|(_, serves)| **serves);
        Some(serving.map(|(balancer, _)| balancer).filter(|balancer| !done(balancer)).cloned().collect())
    }
}

impl<T> Side<T> {
    fn is_whole(&self) -> bool {
        self.listed && self.in_sync
    }

    fn fold(
        &mut self,
        event: Event,
        name: impl Fn(&[u8]) -> Option<BalancerName>,
        read: impl Fn(&[u8]) -> Option<T>,
    ) {
        match event {
            Event::Listed { entries, .. } => {
                self.listed = true;
                // What a new value of a balancer cannot be read as, its last good one still says.
                let mut before = std::mem::take(&mut self.known);
                for Entry { key, value, .. } in entries {
                    let Some(balancer) = name(&key) else { continue };
                    let last = before.remove(&balancer);
                    self.put(balancer, read(&value).or(last));
                }
            }
            Event::Changed(changes) => {
                for change in changes {
                    match change {
                        Change::Put(Entry { key, value, .. }) => {
                            let Some(balancer) = name(&key) else { continue };
                            self.put(balancer, read(&value));
                        }
                        Change::Delete { key, .. } => {
                            let gone = name(&key);
                            self.known.retain(|balancer, _| Some(balancer) != gone.as_ref());
                        }
                    }
                }
            }
            Event::InSync => self.in_sync = true,
            Event::OutOfSync => self.in_sync = false,
        }
    }

    fn put(&mut self, balancer: BalancerName, value: Option<T>) {
        let room = self.known.len() < BALANCERS_MAX || self.known.contains_key(&balancer);
        if let (Some(value), true) = (value, room) {
            self.known.insert(balancer, value);
        }
    }
}

#[cfg(test)]
#[path = "leave_tests.rs"]
mod tests;
