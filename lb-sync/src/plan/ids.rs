//! HAProxy ids of our servers: unique within a backend, kept by their instance, never given to another one.
//!
//! An id decides where a server stands in consistent hashing and in stick tables, so it is to outlive lb-sync and
//! HAProxy. What is saved is which instance has which, and a mark that no id ever given out reaches: whatever was not
//! written in time is skipped, not given out a second time.

use std::collections::BTreeMap;

use registry::name::{InstanceId, InstanceName, ServiceName};
use serde::{Deserialize, Serialize};

use super::observed::Observed;
use crate::scope::Scope;
use haproxy::ServerId;

/// How many instances that are gone are remembered, so that they find their id again: twice the largest backend that
/// lb-sync is made for. Those gone longest are forgotten first.
const GONE_MAX: usize = 20_000;
/// The only format that is read.
const FORMAT: u32 = 1;

/// Ids given out, for each backend counting up from a base: a server whose id is at or above it is ours.
#[derive(Debug)]
pub struct Ids {
    base: ServerId,
    /// Where a service that is new counts from: an earlier run may have given out any id below.
    floor: u32,
    /// Above every id in use, in any service.
    top: u32,
    services: BTreeMap<ServiceName, Given>,
    /// Who is gone, in the order of leaving.
    gone: BTreeMap<u64, InstanceId>,
    departures: u64,
    changes: u64,
}

#[derive(Debug)]
struct Given {
    next: u32,
    of: BTreeMap<InstanceName, Holding>,
    holders: BTreeMap<ServerId, InstanceName>,
}

#[derive(Clone, Copy, Debug)]
struct Holding {
    id: ServerId,
    /// Its place in `gone`, if its instance is.
    gone: Option<u64>,
}

/// Ids as they stand on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedIds {
    format: u32,
    /// No id ever given out is at or above this.
    pub reserved: u32,
    /// Which instance has which.
    pub services: BTreeMap<ServiceName, BTreeMap<InstanceName, u32>>,
}

/// Saved ids that contradict themselves, or are of another format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SavedIdsError {
    /// Of another format.
    #[error("it is of format {0}, and this lb-sync reads format {FORMAT}")]
    Format(u32),
    /// An id that HAProxy cannot have, or that should not have been given out yet.
    #[error("{0} has the id {1}, which is not within what was reserved")]
    Range(InstanceId, u32),
    /// Two instances of one service with one id.
    #[error("{0} has the id {1}, and so has another one")]
    Twice(InstanceId, u32),
}

impl Ids {
    /// Ids from `base` up.
    #[must_use]
    pub fn new(base: ServerId) -> Self {
        let (floor, top) = (base.get(), base.get());
        let (services, gone) = (BTreeMap::new(), BTreeMap::new());
        Self { base, floor, top, services, gone, departures: 0, changes: 0 }
    }

    /// Goes on from what was saved. No instance is taken for present: each instance finds its id when it is asked for.
    pub fn restore(base: ServerId, saved: &SavedIds) -> Result<Self, SavedIdsError> {
        if saved.format != FORMAT {
            return Err(SavedIdsError::Format(saved.format));
        }
        let mut ids = Self::new(base);
        ids.floor = saved.reserved.max(base.get());
        ids.top = ids.floor;
        for (service, instances) in &saved.services {
            for (instance, number) in instances {
                let path = || InstanceId { service: service.clone(), instance: instance.clone() };
                let id = ServerId::try_from(*number).ok().filter(|id| id.get() < saved.reserved);
                let id = id.ok_or_else(|| SavedIdsError::Range(path(), *number))?;
                if !ids.is_ours(id) {
                    continue; // From before the base was raised: not ours any more.
                }
                if ids.given(service).holders.contains_key(&id) {
                    return Err(SavedIdsError::Twice(path(), *number));
                }
                ids.hold(service, instance, id);
                ids.forget(&path());
            }
        }
        Ok(ids)
    }

    /// What to save, so that ids up to `reserved` may be given out before the next time.
    #[must_use]
    pub fn saved(&self, reserved: u32) -> SavedIds {
        let services = self.services.iter().filter(|(_, given)| !given.of.is_empty());
        let instances = |given: &Given| given.of.iter().map(|(of, it)| (of.clone(), it.id.get())).collect();
        let services = services.map(|(service, given)| (service.clone(), instances(given))).collect();
        SavedIds { format: FORMAT, reserved: reserved.max(self.top), services }
    }

    /// Above every id that is in use or was given out.
    #[must_use]
    pub fn top(&self) -> u32 {
        self.top
    }

    /// Counts changes of who has which id.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether a server with this id was made by lb-sync.
    #[must_use]
    pub fn is_ours(&self, id: ServerId) -> bool {
        id >= self.base
    }

    /// Learns what HAProxy has, as far as that is news: an id in use is never given out again, and an instance keeps the one
    /// it has.
    pub fn read_state(&mut self, observed: &Observed, news: &Scope) {
        match news {
            Scope::All => {
                for (service, backend) in &observed.backends {
                    for (instance, server) in &backend.servers {
                        self.learn_one(service, instance, server.id);
                    }
                }
            }
            Scope::Only(ids) => {
                for id in ids {
                    if let Some(server) = observed.server(id) {
                        self.learn_one(&id.service, &id.instance, server.id);
                    }
                }
            }
        }
    }

    fn learn_one(&mut self, service: &ServiceName, instance: &InstanceName, id: ServerId) {
        if self.is_ours(id) {
            self.hold(service, instance, id);
        }
    }

    /// The id of `instance`, given out now if it has none. `None` when they are all used up.
    pub fn id_of(&mut self, instance: &InstanceId) -> Option<ServerId> {
        let InstanceId { service, instance } = instance;
        let given = self.given(service);
        let known = given.of.get(instance).map(|holding| holding.id);
        let id = match known {
            Some(id) => id,
            None => ServerId::try_from(given.next).ok()?,
        };
        self.hold(service, instance, id);
        Some(id)
    }

    /// `instance` is gone. Its id is not used again, unless by itself.
    pub fn forget(&mut self, instance: &InstanceId) {
        let Some(given) = self.services.get_mut(&instance.service) else { return };
        let Some(holding) = given.of.get_mut(&instance.instance).filter(|it| it.gone.is_none()) else {
            return;
        };
        self.departures += 1;
        holding.gone = Some(self.departures);
        self.gone.insert(self.departures, instance.clone());
        if self.gone.len() > GONE_MAX
            && let Some((_, longest)) = self.gone.pop_first()
        {
            self.drop_holding(&longest.service, &longest.instance);
        }
    }

    /// `instance` has `id`, and no other instance.
    fn hold(&mut self, service: &ServiceName, instance: &InstanceName, id: ServerId) {
        let given = self.given(service);
        let had = given.of.get(instance).copied();
        if let Some(gone) = had.and_then(|had| had.gone) {
            self.gone.remove(&gone);
        }
        if let Some(had) = had.filter(|had| had.id == id) {
            if had.gone.is_some() {
                self.given(service).of.insert(instance.clone(), Holding { id, gone: None });
            }
            return;
        }
        self.drop_holding(service, instance);
        if let Some(other) = self.given(service).holders.get(&id).cloned() {
            self.drop_holding(service, &other);
        }
        let given = self.given(service);
        given.next = given.next.max(id.get().saturating_add(1));
        given.of.insert(instance.clone(), Holding { id, gone: None });
        given.holders.insert(id, instance.clone());
        self.top = self.top.max(id.get().saturating_add(1));
        self.changes += 1;
    }

    fn drop_holding(&mut self, service: &ServiceName, instance: &InstanceName) {
        let given = self.given(service);
        if let Some(holding) = given.of.remove(instance) {
            given.holders.remove(&holding.id);
            self.changes += 1;
            if let Some(gone) = holding.gone {
                self.gone.remove(&gone);
            }
        }
    }

    fn given(&mut self, service: &ServiceName) -> &mut Given {
        let next = self.floor;
        let new = || Given { next, of: BTreeMap::new(), holders: BTreeMap::new() };
        self.services.entry(service.clone()).or_insert_with(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> ServerId {
        ServerId::try_from(10_000).unwrap()
    }

    fn id(text: &str) -> InstanceId {
        text.parse().unwrap()
    }

    #[test]
    fn an_id_stays_with_its_instance_and_is_never_given_to_another() {
        let mut ids = Ids::new(base());
        let first = ids.id_of(&id("web/a")).unwrap();
        assert_eq!(first.get(), 10_000);
        assert_eq!(ids.id_of(&id("web/a")), Some(first));
        assert_eq!(ids.id_of(&id("api/a")), Some(first), "another backend counts by itself");
        ids.forget(&id("web/a"));
        assert_eq!(ids.id_of(&id("web/b")).unwrap().get(), 10_001);
        assert_eq!(ids.id_of(&id("web/a")), Some(first), "it is back");
        assert!(ids.is_ours(first) && !ids.is_ours(ServerId::try_from(9_999).unwrap()));
    }

    #[test]
    fn what_was_saved_is_found_again_and_what_was_reserved_is_skipped() {
        let mut ids = Ids::new(base());
        let known = ids.id_of(&id("web/a"));
        let saved = ids.saved(11_000);
        ids.id_of(&id("web/lost")).unwrap();
        let mut ids = Ids::restore(base(), &saved).unwrap();
        assert_eq!(ids.id_of(&id("web/a")), known);
        assert_eq!(ids.id_of(&id("web/b")).unwrap().get(), 11_000);
        assert_eq!(ids.id_of(&id("new/a")).unwrap().get(), 11_000);
        assert_eq!((ids.top(), ids.saved(0).reserved), (11_001, 11_001));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let saved = |text: &str| serde_json::from_str::<SavedIds>(text).unwrap();
        let twice = saved(r#"{"format":1,"reserved":20000,"services":{"web":{"a":10000,"b":10000}}}"#);
        assert!(matches!(Ids::restore(base(), &twice), Err(SavedIdsError::Twice(..))));
        let beyond = saved(r#"{"format":1,"reserved":10000,"services":{"web":{"a":10000}}}"#);
        assert!(matches!(Ids::restore(base(), &beyond), Err(SavedIdsError::Range(..))));
        let newer = saved(r#"{"format":2,"reserved":10000,"services":{}}"#);
        assert_eq!(Ids::restore(base(), &newer).unwrap_err(), SavedIdsError::Format(2));
    }

    #[test]
    fn those_gone_longest_are_forgotten_first() {
        let mut ids = Ids::new(base());
        for n in 0..=GONE_MAX {
            let instance = id(&format!("web/i{n}"));
            ids.id_of(&instance).unwrap();
            ids.forget(&instance);
        }
        assert_eq!((ids.gone.len(), ids.services[&id("web/a").service].of.len()), (GONE_MAX, GONE_MAX));
        assert_eq!(ids.id_of(&id("web/i1")).unwrap().get(), 10_001);
        assert!(ids.id_of(&id("web/i0")).unwrap().get() > 30_000);
    }
}
