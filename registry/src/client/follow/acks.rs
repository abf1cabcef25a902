//! What the balancers say of one instance.

use std::collections::BTreeMap;

use super::{Event, Store};
use crate::key::{AckKey, AckLayout, Key, Prefix};
use crate::name::{BalancerName, InstanceId};
use crate::record::{AckRecord, parse};

/// Most keys that are followed. The ack of one more balancer is never known: what waits for it ends at its deadline.
const FOLLOWED_MAX: usize = 1_000;

/// The acks of one instance, each followed by its own key.
///
/// All acks of a fleet are as many as its instances times its balancers, and each of them changes in a deploy: a
/// follower of `acks/` would be sent them all. The watch of one key costs etcd one look into a table, and a leave needs one
/// for each balancer that serves the instance.
#[derive(Clone, Debug)]
pub struct InstanceAcks {
    prefix: Prefix,
    id: InstanceId,
    followed: BTreeMap<String, (AckKey, Store<AckKey, AckRecord>)>,
}

impl InstanceAcks {
    /// Follows nothing yet.
    #[must_use]
    pub fn new(prefix: Prefix, id: InstanceId) -> Self {
        Self { prefix, id, followed: BTreeMap::new() }
    }

    /// The keys to be followed from now on, so that the acks of these balancers become known. Each key is named once.
    pub fn follow<'a>(
        &mut self,
        balancers: impl IntoIterator<Item = (&'a BalancerName, AckLayout)>,
    ) -> Vec<String> {
        let mut keys = Vec::new();
        for (balancer, layout) in balancers {
            let ack_key = AckKey::new(layout, balancer, &self.id);
            let key = self.prefix.text(&Key::Ack(ack_key.clone()));
            if self.followed.len() < FOLLOWED_MAX && !self.followed.contains_key(&key) {
                let pick = |key| if let Key::Ack(key) = key { Some(key) } else { None };
                let store = Store::new(self.prefix.clone(), 1, pick, |entry| parse(&entry.value).ok());
                self.followed.insert(key.clone(), (ack_key, store));
                keys.push(key);
            }
        }
        keys
    }

    /// Takes in what was seen of `key`.
    pub fn fold(&mut self, key: &str, event: Event) {
        if let Some((_, store)) = self.followed.get_mut(key) {
            store.fold(event);
        }
    }

    /// Whether it is known what stands at this balancer's key, or that nothing does.
    #[must_use]
    pub fn is_current(&self, balancer: &BalancerName, layout: AckLayout) -> bool {
        self.followed(balancer, layout).is_some_and(|(_, store)| store.is_current())
    }

    /// What this balancer says of the instance.
    #[must_use]
    pub fn of(&self, balancer: &BalancerName, layout: AckLayout) -> Option<&AckRecord> {
        let (key, store) = self.followed(balancer, layout)?;
        store.values().get(key)
    }

    fn followed(
        &self,
        balancer: &BalancerName,
        layout: AckLayout,
    ) -> Option<&(AckKey, Store<AckKey, AckRecord>)> {
        let key = AckKey::new(layout, balancer, &self.id);
        self.followed.get(&self.prefix.text(&Key::Ack(key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::follow::Entry;
    use crate::record::{AckState, to_value};

    fn listed(key: &str, revision: Option<i64>) -> Event {
        let ack = AckRecord { owner: "me".into(), revision, state: AckState::Drained, at: String::new() };
        let (key, value) = (key.as_bytes().to_vec(), to_value(&ack));
        let entry = Entry { key, value, lease: 1, create_revision: 1, mod_revision: 1 };
        Event::Listed { cluster: 1, revision: 1, entries: vec![entry] }
    }

    #[test]
    fn each_balancer_is_followed_once_at_the_key_that_it_writes() {
        let mut acks = InstanceAcks::new(Prefix::default(), "web/web-1".parse().unwrap());
        let (new, old): (BalancerName, BalancerName) = ("web".parse().unwrap(), "lb-2".parse().unwrap());
        let both = [(&new, AckLayout::ByBalancer), (&old, AckLayout::ByInstance)];
        let keys = ["/leasehold/v1/acks/web/web/web-1", "/leasehold/v1/acks/web/web-1/lb-2"];
        assert_eq!(acks.follow(both), keys);
        assert_eq!(acks.follow(both), [""; 0]);

        acks.fold(keys[0], listed(keys[0], Some(7)));
        assert!(!acks.is_current(&new, AckLayout::ByBalancer), "not in sync");
        acks.fold(keys[0], Event::InSync);
        assert!(
            acks.is_current(&new, AckLayout::ByBalancer) && !acks.is_current(&old, AckLayout::ByInstance)
        );
        assert_eq!(acks.of(&new, AckLayout::ByBalancer).unwrap().revision, Some(7));
        assert_eq!(acks.of(&new, AckLayout::ByInstance), None);

        acks.fold(keys[1], listed(keys[1], None));
        assert_eq!(acks.of(&old, AckLayout::ByInstance).unwrap().revision, None);
        // It was upgraded.
        assert_eq!(acks.follow([(&old, AckLayout::ByBalancer)]), ["/leasehold/v1/acks/lb-2/web/web-1"]);
    }

    #[test]
    fn as_many_are_followed_as_fit() {
        let mut acks = InstanceAcks::new(Prefix::default(), "web/web-1".parse().unwrap());
        let names: Vec<BalancerName> =
            (0..=FOLLOWED_MAX).map(|n| format!("lb-{n}").parse().unwrap()).collect();
        let keys = acks.follow(names.iter().map(|name| (name, AckLayout::ByBalancer)));
        assert_eq!(keys.len(), FOLLOWED_MAX);
        assert!(!acks.is_current(names.last().unwrap(), AckLayout::ByBalancer));
    }
}
