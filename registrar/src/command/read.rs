//! What stands in the registry.

use registry::follow::{Entry, Store, list};
use registry::key::{AckKey, AckLayout, Key, Prefix};
use registry::lease::LeaseId;
use registry::name::{BalancerName, InstanceId};
use registry::record::{AckRecord, BalancerRecord, InstanceRecord, OverrideRecord, parse};
use registry::session::{Class, EtcdConfig, EtcdError, Session};

/// Most keys of a kind that are kept in view.
pub(super) const KEYS_MAX: usize = 1_000_000;

/// An instance's record, and what etcd knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registered {
    pub(super) record: InstanceRecord,
    pub(super) lease: LeaseId,
    pub(super) mod_revision: i64,
}

/// All that is known: each set as far as it was read or followed.
#[derive(Clone, Debug)]
pub(super) struct Registry {
    pub(super) instances: Store<InstanceId, Registered>,
    pub(super) overrides: Store<InstanceId, OverrideRecord>,
    pub(super) balancers: Store<BalancerName, BalancerRecord>,
    pub(super) acks: Store<AckKey, AckRecord>,
}

impl Registry {
    /// Nothing yet.
    pub(super) fn new(prefix: &Prefix) -> Self {
        Self {
            instances: Store::new(prefix.clone(), KEYS_MAX, instance, |entry| {
                let Entry { lease, mod_revision, .. } = *entry;
                Some(Registered { record: parse(&entry.value).ok()?, lease, mod_revision })
            }),
            overrides: Store::new(prefix.clone(), KEYS_MAX, overridden, |entry| parse(&entry.value).ok()),
            balancers: Store::new(prefix.clone(), KEYS_MAX, balancer, |entry| parse(&entry.value).ok()),
            acks: Store::new(prefix.clone(), KEYS_MAX, acked, |entry| parse(&entry.value).ok()),
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
        let mut registry = Self::new(prefix);
        let instances = list(session, &prefix.instances(), 0).await?;
        let revision = instances.revision;
        registry.instances.fold(instances.into());
        registry.overrides.fold(list(session, &prefix.overrides(), revision).await?.into());
        registry.balancers.fold(list(session, &prefix.balancers(), revision).await?.into());
        registry.acks.fold(list(session, &prefix.acks(), revision).await?.into());
        Ok(registry)
    }

    /// What this balancer says of `id`, in either layout of keys. The record says in which it is.
    pub(super) fn ack(&self, id: &InstanceId, balancer: &BalancerName) -> Option<&AckRecord> {
        let about = AckKey { balancer: balancer.clone(), id: id.clone() };
        [AckLayout::ByBalancer, AckLayout::ByInstance].into_iter().find_map(|layout| {
            let key = AckKey::new(layout, balancer, id);
            self.acks.values().get(&key).filter(|ack| key.meaning(ack) == about)
        })
    }

    /// The balancers that serve the service of `id`, each with what it says of `id` as it is registered now.
    pub(super) fn said_of<'a>(
        &'a self,
        id: &'a InstanceId,
    ) -> impl Iterator<Item = (&'a BalancerName, Option<&'a AckRecord>)> {
        self.said_by(id, |balancer, _| self.ack(id, balancer))
    }

    /// The same, where `ack` says what each says.
    pub(super) fn said_by<'a>(
        &'a self,
        id: &'a InstanceId,
        ack: impl Fn(&BalancerName, &BalancerRecord) -> Option<&'a AckRecord>,
    ) -> impl Iterator<Item = (&'a BalancerName, Option<&'a AckRecord>)> {
        let owner = self.instances.values().get(id).map(|one| one.record.owner_under(id, one.lease));
        let serve = |record: &BalancerRecord| record.services.contains(&id.service);
        self.balancers.values().iter().filter(move |(_, record)| serve(record)).map(move |(name, record)| {
            // An ack of an earlier owner of the name says nothing about the present one.
            (name, ack(name, record).filter(|ack| owner.as_ref().is_none_or(|owner| ack.owner == *owner)))
        })
    }
}

pub(super) fn instance(key: Key) -> Option<InstanceId> {
    if let Key::Instance(id) = key { Some(id) } else { None }
}

pub(super) fn overridden(key: Key) -> Option<InstanceId> {
    if let Key::Override(id) = key { Some(id) } else { None }
}

fn balancer(key: Key) -> Option<BalancerName> {
    if let Key::Balancer(name) = key { Some(name) } else { None }
}

pub(super) fn acked(key: Key) -> Option<AckKey> {
    if let Key::Ack(key) = key { Some(key) } else { None }
}
