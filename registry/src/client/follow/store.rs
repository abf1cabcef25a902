//! The set that a follower's events describe: the only place where they are folded.

use std::collections::{BTreeMap, BTreeSet};

use super::{Change, Entry, Event};
use crate::key::{Key, KeyError, Prefix};

/// What an event means for one key. A list is compared with what was known before: whatever it lacks is gone, and comes
/// first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update<K> {
    /// There is a value; it may be no legal one, and it may be the one that was known.
    Put(K, Entry),
    /// The key is gone.
    Gone(K),
    /// A key that is not one of the registry's: it is no member of any set.
    Illegal(Entry, KeyError),
}

/// What `event` means for each key. `pick` names the keys of the set and passes over others; `known` are the keys that
/// were known before, asked for only where a list replaces them.
pub fn updates<K: Ord>(
    prefix: &Prefix,
    pick: impl Fn(Key) -> Option<K>,
    event: Event,
    known: impl FnOnce() -> BTreeSet<K>,
) -> Vec<Update<K>> {
    let put = |entry: Entry| match prefix.parse(&entry.key) {
        Ok(key) => pick(key).map(|key| Update::Put(key, entry)),
        Err(error) => Some(Update::Illegal(entry, error)),
    };
    match event {
        Event::Listed { entries, .. } => {
            let mut gone = known();
            let there: Vec<Update<K>> = entries.into_iter().filter_map(put).collect();
            for update in &there {
                if let Update::Put(key, _) = update {
                    gone.remove(key);
                }
            }
            gone.into_iter().map(Update::Gone).chain(there).collect()
        }
        Event::Changed(changes) => {
            let update = |change| match change {
                Change::Put(entry) => put(entry),
                Change::Delete { key, .. } => prefix.parse(&key).ok().and_then(&pick).map(Update::Gone),
            };
            changes.into_iter().filter_map(update).collect()
        }
        Event::InSync | Event::OutOfSync => Vec::new(),
    }
}

/// A followed set: the last good value of each key that etcd has.
///
/// A value that cannot be read leaves the last good one in force; a key that never had a good one is not in the set.
#[derive(Clone, Debug)]
pub struct Store<K, V> {
    prefix: Prefix,
    pick: fn(Key) -> Option<K>,
    read: fn(&Entry) -> Option<V>,
    values: BTreeMap<K, V>,
    values_max: usize,
    listed: bool,
    in_sync: bool,
}

impl<K: Ord + Clone, V> Store<K, V> {
    /// An empty set of at most `values_max` values; more are passed over. `pick` names the keys of the set, `read` reads
    /// a value.
    #[must_use]
    pub fn new(
        prefix: Prefix,
        values_max: usize,
        pick: fn(Key) -> Option<K>,
        read: fn(&Entry) -> Option<V>,
    ) -> Self {
        let values = BTreeMap::new();
        Self { prefix, pick, read, values, values_max, listed: false, in_sync: false }
    }

    /// Takes an event in. Returns the keys that it concerned, each with the value that it had before.
    pub fn fold(&mut self, event: Event) -> Vec<(K, Option<V>)> {
        match &event {
            Event::Listed { .. } => self.listed = true,
            Event::InSync => self.in_sync = true,
            Event::OutOfSync => self.in_sync = false,
            Event::Changed(_) => {}
        }
        let known = || self.values.keys().cloned().collect();
        let updates = updates(&self.prefix, self.pick, event, known);
        let mut concerned = Vec::with_capacity(updates.len());
        for update in updates {
            match update {
                Update::Put(key, entry) => {
                    let has_room = self.values.len() < self.values_max || self.values.contains_key(&key);
                    if let Some(value) = (self.read)(&entry).filter(|_| has_room) {
                        let before = self.values.insert(key.clone(), value);
                        concerned.push((key, before));
                    }
                }
                Update::Gone(key) => concerned.extend(self.values.remove(&key).map(|last| (key, Some(last)))),
                Update::Illegal(..) => {}
            }
        }
        concerned
    }

    /// The values, by key.
    #[must_use]
    pub fn values(&self) -> &BTreeMap<K, V> {
        &self.values
    }

    /// Whether the set is complete and current: only then may a missing key be taken for absent.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.listed && self.in_sync
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::name::InstanceId;

    fn store(values_max: usize) -> Store<InstanceId, u32> {
        let pick = |key| match key {
            Key::Instance(id) => Some(id),
            _ => None,
        };
        let read = |entry: &Entry| std::str::from_utf8(&entry.value).ok()?.parse().ok();
        Store::new(Prefix::default(), values_max, pick, read)
    }

    fn entry(key: &str, value: &str) -> Entry {
        let (key, value) = (format!("/leasehold/v1/{key}").into_bytes(), value.as_bytes().to_vec());
        Entry { key, value, lease: 1, create_revision: 1, mod_revision: 1 }
    }

    fn listed(entries: &[(&str, &str)]) -> Event {
        let entries = entries.iter().map(|(key, value)| entry(key, value)).collect();
        Event::Listed { cluster: 1, revision: 1, entries }
    }

    fn put(key: &str, value: &str) -> Event {
        Event::Changed(vec![Change::Put(entry(key, value))])
    }

    fn delete(key: &str) -> Event {
        let key = format!("/leasehold/v1/{key}").into_bytes();
        Event::Changed(vec![Change::Delete { key, mod_revision: 2 }])
    }

    fn values(store: &Store<InstanceId, u32>) -> Vec<(String, u32)> {
        store.values().iter().map(|(id, value)| (id.to_string(), *value)).collect()
    }

    #[test]
    fn a_list_replaces_what_was_known() {
        let mut store = store(10);
        store.fold(listed(&[("instances/web/a", "1"), ("instances/web/b", "2")]));
        let concerned = store.fold(listed(&[("instances/web/b", "3"), ("overrides/web/b", "4")]));
        assert_eq!(values(&store), [("web/b".into(), 3)]);
        let (a, b) = ("web/a".parse().unwrap(), "web/b".parse().unwrap());
        assert_eq!(concerned, [(a, Some(1)), (b, Some(2))]);
    }

    #[test]
    fn a_bad_value_leaves_the_last_good_one_in_a_change_and_in_a_list() {
        let mut store = store(10);
        store.fold(put("instances/web/a", "1"));
        assert_eq!(store.fold(put("instances/web/a", "x")), []);
        store.fold(listed(&[("instances/web/a", "y"), ("instances/web/b", "z"), ("instances/web/;", "1")]));
        assert_eq!(values(&store), [("web/a".into(), 1)]);
        store.fold(delete("instances/web/a"));
        assert_eq!(values(&store), []);
    }

    #[test]
    fn it_is_current_between_a_list_and_a_break() {
        let mut store = store(10);
        store.fold(Event::InSync);
        assert!(!store.is_current(), "nothing is listed yet");
        store.fold(listed(&[]));
        assert!(store.is_current());
        store.fold(Event::OutOfSync);
        assert!(!store.is_current());
    }

    #[test]
    fn it_is_bounded() {
        let mut store = store(1);
        store.fold(listed(&[("instances/web/a", "1"), ("instances/web/b", "2")]));
        store.fold(put("instances/web/a", "3"));
        assert_eq!(values(&store), [("web/a".into(), 3)], "what is known may change");
    }

    proptest! {
        /// Whatever was missed, a list brings the set to what etcd has.
        #[test]
        fn a_list_is_worth_all_changes(
            before in proptest::collection::btree_map("[a-e]", 0..9_u32, 0..5),
            after in proptest::collection::btree_map("[a-e]", 0..9_u32, 0..5),
        ) {
            let entries = |set: &BTreeMap<String, u32>| Event::Listed {
                cluster: 1,
                revision: 1,
                entries: set.iter().map(|(name, n)| entry(&format!("instances/web/{name}"), &n.to_string())).collect(),
            };
            let mut store = store(10);
            store.fold(entries(&before));
            store.fold(entries(&after));
            let expected: Vec<(String, u32)> = after.iter().map(|(name, n)| (format!("web/{name}"), *n)).collect();
            prop_assert_eq!(values(&store), expected);
        }
    }
}
