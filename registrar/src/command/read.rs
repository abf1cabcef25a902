//! What stands in the registry.

use std::collections::BTreeMap;

use registry::follow::{Change, Entry, Event, list};
use registry::key::{Key, Prefix};
use registry::lease::LeaseId;
use registry::name::{BalancerName, InstanceId};
use registry::record::{AckRecord, BalancerRecord, InstanceRecord, OverrideRecord, parse};
use registry::session::{Class, EtcdConfig, EtcdError, Session};

/// An instance's record, and what etcd knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registered {
    pub(super) record: InstanceRecord,
    pub(super) lease: LeaseId,
    pub(super) mod_revision: i64,
}

/// All that is known.
#[derive(Clone, Debug)]
pub(super) struct Registry {
    prefix: Prefix,
    pub(super) instances: BTreeMap<InstanceId, Registered>,
    pub(super) overrides: BTreeMap<InstanceId, OverrideRecord>,
    pub(super) balancers: BTreeMap<BalancerName, BalancerRecord>,
    pub(super) acks: BTreeMap<InstanceId, BTreeMap<BalancerName, AckRecord>>,
}

impl Registry {
    /// Nothing yet.
    pub(super) fn new(prefix: Prefix) -> Self {
        Self {
            prefix,
            instances: BTreeMap::new(),
            overrides: BTreeMap::new(),
            balancers: BTreeMap::new(),
            acks: BTreeMap::new(),
        }
    }

    /// The whole registry at one revision. Each endpoint is tried once.
    pub(super) async fn read(config: &EtcdConfig) -> Result<Self, EtcdError> {
        let session = Session::new(config.clone());
        let mut left = session.endpoints().len();
        loop {
            left = left.saturating_sub(1);
            match Self::once(&session, config.prefix()).await {
                Err(error) if error.class == Class::Unreachable && left > 0 => {}
                read => return read,
            }
        }
    }

    async fn once(session: &Session, prefix: &Prefix) -> Result<Self, EtcdError> {
        let mut registry = Self::new(prefix.clone());
        let mut revision = 0;
        for prefix in [prefix.instances(), prefix.overrides(), prefix.balancers(), prefix.acks()] {
            let listed = list(session, &prefix, revision).await?;
            revision = listed.revision;
            listed.entries.iter().for_each(|entry| registry.put(entry));
        }
        Ok(registry)
    }

    /// Takes in what a follower tells.
    pub(super) fn fold(&mut self, event: Event) {
        match event {
            Event::Listed { entries, .. } => entries.iter().for_each(|entry| self.put(entry)),
            Event::Changed(changes) => {
                for change in changes {
                    match change {
                        Change::Put(entry) => self.put(&entry),
                        Change::Delete { key, .. } => self.delete(&key),
                    }
                }
            }
            Event::InSync | Event::OutOfSync => {}
        }
    }

    /// What is no record is nothing, as for balancers.
    fn put(&mut self, entry: &Entry) {
        match self.prefix.parse(&entry.key) {
            Ok(Key::Instance(id)) => {
                if let Ok(record) = parse(&entry.value) {
                    let Entry { lease, mod_revision, .. } = *entry;
                    self.instances.insert(id, Registered { record, lease, mod_revision });
                }
            }
            Ok(Key::Override(id)) => {
                self.overrides.extend(parse(&entry.value).ok().map(|wish| (id, wish)));
            }
            Ok(Key::Balancer(name)) => {
                self.balancers.extend(parse(&entry.value).ok().map(|record| (name, record)));
            }
            Ok(Key::Ack(id, name)) => {
                if let Ok(ack) = parse(&entry.value) {
                    self.acks.entry(id).or_default().insert(name, ack);
                }
            }
            Err(_) => {}
        }
    }

    fn delete(&mut self, key: &[u8]) {
        match self.prefix.parse(key) {
            Ok(Key::Instance(id)) => drop(self.instances.remove(&id)),
            Ok(Key::Override(id)) => drop(self.overrides.remove(&id)),
            Ok(Key::Balancer(name)) => drop(self.balancers.remove(&name)),
            Ok(Key::Ack(id, name)) => {
                if let Some(acks) = self.acks.get_mut(&id) {
                    acks.remove(&name);
                }
            }
            Err(_) => {}
        }
    }

    /// The balancers that serve the service of `id`, each with what it says of `id` as it is registered now.
    pub(super) fn said_of<'a>(
        &'a self,
        id: &'a InstanceId,
    ) -> impl Iterator<Item = (&'a BalancerName, Option<&'a AckRecord>)> {
        let owner = self.instances.get(id).map(|one| one.record.owner_under(id, one.lease));
        let serve = |record: &BalancerRecord| record.services.contains(&id.service);
        self.balancers.iter().filter(move |(_, record)| serve(record)).map(move |(name, _)| {
            let ack = self.acks.get(id).and_then(|acks| acks.get(name));
            // An ack of somebody who had the name before says nothing of who has it now.
            (name, ack.filter(|ack| owner.as_ref().is_none_or(|owner| ack.owner == *owner)))
        })
    }
}
