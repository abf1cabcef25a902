//! HAProxy ids of our servers: unique within a backend, never given to another instance.

use std::collections::BTreeMap;

use registry::name::{InstanceId, InstanceName, ServiceName};

use super::observed::Observed;
use crate::haproxy::ServerId;

/// Ids given out, for each backend counting up from a base: a server whose id is at or above it is ours.
#[derive(Debug)]
pub struct Ids {
    base: ServerId,
    services: BTreeMap<ServiceName, Given>,
}

#[derive(Debug)]
struct Given {
    next: u32,
    of: BTreeMap<InstanceName, ServerId>,
}

impl Ids {
    /// Ids from `base` up.
    #[must_use]
    pub fn new(base: ServerId) -> Self {
        Self { base, services: BTreeMap::new() }
    }

    /// Whether a server with this id was made by lb-sync.
    #[must_use]
    pub fn is_ours(&self, id: ServerId) -> bool {
        id >= self.base
    }

    /// Learns what HAProxy has: an id in use is never given out again, and an instance keeps the one it has.
    pub fn learn(&mut self, observed: &Observed) {
        for (service, backend) in &observed.backends {
            for (instance, server) in &backend.servers {
                if !self.is_ours(server.id) {
                    continue;
                }
                let given = self.given(service);
                given.next = given.next.max(server.id.get().saturating_add(1));
                given.of.insert(instance.clone(), server.id);
            }
        }
    }

    /// The id of `instance`, given out now if it has none. `None` when they are all used up.
    pub fn id_of(&mut self, instance: &InstanceId) -> Option<ServerId> {
        let given = self.given(&instance.service);
        if let Some(id) = given.of.get(&instance.instance) {
            return Some(*id);
        }
        let id = ServerId::try_from(given.next).ok()?;
        given.next += 1;
        given.of.insert(instance.instance.clone(), id);
        Some(id)
    }

    /// Forgets which id `instance` had: it is gone. The id itself is not used again.
    pub fn forget(&mut self, instance: &InstanceId) {
        if let Some(given) = self.services.get_mut(&instance.service) {
            given.of.remove(&instance.instance);
        }
    }

    fn given(&mut self, service: &ServiceName) -> &mut Given {
        let next = self.base.get();
        self.services.entry(service.clone()).or_insert_with(|| Given { next, of: BTreeMap::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_stays_with_its_instance_and_is_never_given_twice() {
        let mut ids = Ids::new(ServerId::try_from(10_000).unwrap());
        let id = |text: &str| text.parse::<InstanceId>().unwrap();
        let first = ids.id_of(&id("web/a")).unwrap();
        assert_eq!(first.get(), 10_000);
        assert_eq!(ids.id_of(&id("web/a")), Some(first));
        assert_eq!(ids.id_of(&id("api/a")), Some(first), "another backend counts by itself");
        ids.forget(&id("web/a"));
        assert_eq!(ids.id_of(&id("web/a")).unwrap().get(), 10_001);
        assert!(ids.is_ours(first) && !ids.is_ours(ServerId::try_from(9_999).unwrap()));
    }
}
