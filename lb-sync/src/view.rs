//! What lb-sync knows of the registry: every instance's last good record, every override, and whether that is current.
//!
//! Folded from the events of two followers. Nothing is forgotten but by etcd's word: a value that does not parse
//! leaves the last good one in force, and an etcd that comes back empty or older is doubted first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use registry::follow::{Change, Entry, Event};
use registry::key::{Key, Prefix};
use registry::name::InstanceId;
use registry::record::{self, InstanceRecord, OverrideRecord};
use registry::time::Tick;

/// How long instances that a wiped or restored etcd no longer knows are kept, so that their registrars can register
/// again: they find their lease gone at their next beat, within a third of their ttl.
pub const RETAINED_MAX: Duration = Duration::from_mins(1);
/// Rejected values whose revision is remembered, so that each is logged once.
const REJECTED_MAX: usize = 10_000;

/// Which instances an event may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Any of them.
    All,
    /// These.
    Only(BTreeSet<InstanceId>),
}

/// An instance as registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its last good record.
    pub record: InstanceRecord,
    /// Who registered it: its `owner` field, else its lease, else its key.
    pub owner: String,
    /// etcd's revision when its key came to be: of two at one address, the later is served.
    pub create_revision: i64,
    /// etcd's revision of the record.
    pub mod_revision: i64,
}

/// What is known of the registry.
#[derive(Debug)]
pub struct View {
    prefix: Prefix,
    instances: BTreeMap<InstanceId, Registered>,
    overrides: BTreeMap<InstanceId, OverrideRecord>,
    /// Who claims an address, so that a change of one finds the others.
    claims: BTreeMap<SocketAddr, BTreeSet<InstanceId>>,
    instances_synced: bool,
    overrides_synced: bool,
    /// The etcd that the instances were listed from.
    source: Option<Source>,
    /// Instances that the etcd of today does not know, and until when they are kept all the same.
    retained: BTreeSet<InstanceId>,
    retained_until: Option<Tick>,
    heard: Option<Tick>,
    rejected: BTreeMap<Vec<u8>, i64>,
    rejected_count: u64,
}

#[derive(Clone, Copy, Debug)]
struct Source {
    cluster: u64,
    revision: i64,
}

impl Scope {
    /// Nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::Only(BTreeSet::new())
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Only(ids) if ids.is_empty())
    }

    /// Takes `other` in as well.
    pub fn extend(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::All, _) => {}
            (_, Self::All) => *self = Self::All,
            (Self::Only(ids), Self::Only(more)) => ids.extend(more),
        }
    }
}

impl View {
    /// Knows nothing yet, and is not in sync.
    #[must_use]
    pub fn new(prefix: Prefix) -> Self {
        Self {
            prefix,
            instances: BTreeMap::new(),
            overrides: BTreeMap::new(),
            claims: BTreeMap::new(),
            instances_synced: false,
            overrides_synced: false,
            source: None,
            retained: BTreeSet::new(),
            retained_until: None,
            heard: None,
            rejected: BTreeMap::new(),
            rejected_count: 0,
        }
    }

    /// Whether this is what etcd has at this moment. While it is not, nothing may be drained or deleted.
    #[must_use]
    pub fn in_sync(&self) -> bool {
        self.instances_synced && self.overrides_synced
    }

    /// When etcd was last heard of.
    #[must_use]
    pub fn heard(&self) -> Option<Tick> {
        self.heard
    }

    /// Values that were not records, since the start.
    #[must_use]
    pub fn rejected_count(&self) -> u64 {
        self.rejected_count
    }

    /// All instances.
    #[must_use]
    pub fn instances(&self) -> &BTreeMap<InstanceId, Registered> {
        &self.instances
    }

    /// The operator's wish for `id`, if there is one.
    #[must_use]
    pub fn override_of(&self, id: &InstanceId) -> Option<&OverrideRecord> {
        self.overrides.get(id)
    }

    /// Whether etcd no longer knows `id` and it is kept for the time being.
    #[must_use]
    pub fn is_retained(&self, id: &InstanceId) -> bool {
        self.retained.contains(id)
    }

    /// The instance that is served in `id`'s stead: created later, at the same address, by another owner.
    #[must_use]
    pub fn eclipsed_by(&self, id: &InstanceId) -> Option<&InstanceId> {
        let ours = self.instances.get(id)?;
        let rivals = self.claims.get(&ours.record.endpoint())?;
        let rank = |id: &InstanceId, one: &Registered| (one.create_revision, id.clone());
        rivals
            .iter()
            .filter_map(|rival| Some((rival, self.instances.get(rival)?)))
            .filter(|(rival, theirs)| theirs.owner != ours.owner && rank(rival, theirs) > rank(id, ours))
            .max_by_key(|(rival, theirs)| rank(rival, theirs))
            .map(|(rival, _)| rival)
    }

    /// When [`Self::expire`] has something to do.
    #[must_use]
    pub fn wake_at(&self) -> Option<Tick> {
        self.retained_until
    }

    /// Lets go of what a wiped or restored etcd has not got back by now.
    pub fn expire(&mut self, now: Tick) -> Scope {
        if self.retained_until.is_none_or(|until| now < until) {
            return Scope::none();
        }
        self.retained_until = None;
        let mut changed = BTreeSet::new();
        for id in std::mem::take(&mut self.retained) {
            tracing::warn!(instance = %id, "has not registered again since etcd was wiped or restored");
            self.remove(&id, &mut changed);
        }
        Scope::Only(changed)
    }

    /// Takes in an event of the follower of `instances/`.
    pub fn fold_instances(&mut self, now: Tick, event: Event) -> Scope {
        self.instances_synced = self.note(now, &event, self.instances_synced);
        match event {
            Event::Listed { cluster, revision, entries } => {
                self.list_instances(now, Source { cluster, revision }, entries);
                Scope::All
            }
            Event::Changed(changes) => {
                let mut concerned = BTreeSet::new();
                for change in changes {
                    self.change_instance(change, &mut concerned);
                }
                Scope::Only(concerned)
            }
            Event::InSync | Event::OutOfSync => Scope::none(),
        }
    }

    /// Takes in an event of the follower of `overrides/`.
    pub fn fold_overrides(&mut self, now: Tick, event: Event) -> Scope {
        self.overrides_synced = self.note(now, &event, self.overrides_synced);
        match event {
            Event::Listed { entries, .. } => {
                let before = std::mem::take(&mut self.overrides);
                for entry in entries {
                    self.put_override(&entry, &before);
                }
                Scope::All
            }
            Event::Changed(changes) => {
                Scope::Only(changes.into_iter().filter_map(|change| self.change_override(change)).collect())
            }
            Event::InSync | Event::OutOfSync => Scope::none(),
        }
    }

    /// Whether the follower that told `event` is in sync after it.
    fn note(&mut self, now: Tick, event: &Event, was: bool) -> bool {
        match event {
            // A list alone is not: what changed since is still on its way.
            Event::OutOfSync | Event::Listed { .. } => return false,
            Event::InSync | Event::Changed(_) => self.heard = Some(now),
        }
        was || *event == Event::InSync
    }

    fn list_instances(&mut self, now: Tick, source: Source, entries: Vec<Entry>) {
        let doubtful = self
            .source
            .is_some_and(|before| before.cluster != source.cluster || before.revision > source.revision);
        self.source = Some(source);
        let mut before = std::mem::take(&mut self.instances);
        self.claims.clear();
        let retained = std::mem::take(&mut self.retained);
        let mut ignored = BTreeSet::new();
        for entry in entries {
            self.put_instance(&entry, &before, &mut ignored);
        }
        before.retain(|id, _| !self.instances.contains_key(id) && (doubtful || retained.contains(id)));
        if doubtful && !before.is_empty() {
            tracing::error!(
                missing = before.len(),
                "etcd was wiped or restored: instances it no longer knows are kept for {} s",
                RETAINED_MAX.as_secs()
            );
            self.retained_until = Some(now.plus(RETAINED_MAX));
        }
        for (id, registered) in before {
            self.retained.insert(id.clone());
            self.insert(id, registered, &mut ignored);
        }
    }

    fn change_instance(&mut self, change: Change, changed: &mut BTreeSet<InstanceId>) {
        if let Some(source) = &mut self.source {
            source.revision = source.revision.max(change.mod_revision());
        }
        match change {
            Change::Put(entry) => self.put_instance(&entry, &BTreeMap::new(), changed),
            Change::Delete { key, .. } => {
                self.rejected.remove(&key);
                if let Ok(Key::Instance(id)) = self.prefix.parse(&key) {
                    self.remove(&id, changed);
                }
            }
        }
    }

    /// Takes a record in; one that does not parse leaves what was known, here or in `before`.
    fn put_instance(
        &mut self,
        entry: &Entry,
        before: &BTreeMap<InstanceId, Registered>,
        changed: &mut BTreeSet<InstanceId>,
    ) {
        let id = match self.prefix.parse(&entry.key) {
            Ok(Key::Instance(id)) => id,
            Ok(_) => return,
            Err(error) => return self.reject(entry, &error),
        };
        match record::parse::<InstanceRecord>(&entry.value) {
            Ok(record) => {
                let owner = owner_of(&id, &record, entry.lease);
                let Entry { create_revision, mod_revision, .. } = *entry;
                self.retained.remove(&id);
                self.insert(id, Registered { record, owner, create_revision, mod_revision }, changed);
            }
            Err(error) => {
                self.reject(entry, &error);
                if let Some(good) = before.get(&id) {
                    self.insert(id, good.clone(), changed);
                }
            }
        }
    }

    fn insert(&mut self, id: InstanceId, registered: Registered, changed: &mut BTreeSet<InstanceId>) {
        self.unclaim(&id, changed);
        let claimants = self.claims.entry(registered.record.endpoint()).or_default();
        claimants.insert(id.clone());
        changed.extend(claimants.iter().cloned());
        self.instances.insert(id, registered);
    }

    fn remove(&mut self, id: &InstanceId, changed: &mut BTreeSet<InstanceId>) {
        self.unclaim(id, changed);
        self.instances.remove(id);
        self.retained.remove(id);
        changed.insert(id.clone());
    }

    /// Gives up the address of `id`'s present record; whoever else claims it may be served now.
    fn unclaim(&mut self, id: &InstanceId, changed: &mut BTreeSet<InstanceId>) {
        let Some(present) = self.instances.get(id) else {
            return;
        };
        let endpoint = present.record.endpoint();
        if let Some(claimants) = self.claims.get_mut(&endpoint) {
            claimants.remove(id);
            changed.extend(claimants.iter().cloned());
            if claimants.is_empty() {
                self.claims.remove(&endpoint);
            }
        }
    }

    fn change_override(&mut self, change: Change) -> Option<InstanceId> {
        match change {
            Change::Put(entry) => self.put_override(&entry, &BTreeMap::new()),
            Change::Delete { key, .. } => {
                self.rejected.remove(&key);
                let Ok(Key::Override(id)) = self.prefix.parse(&key) else {
                    return None;
                };
                self.overrides.remove(&id);
                Some(id)
            }
        }
    }

    fn put_override(
        &mut self,
        entry: &Entry,
        before: &BTreeMap<InstanceId, OverrideRecord>,
    ) -> Option<InstanceId> {
        let id = match self.prefix.parse(&entry.key) {
            Ok(Key::Override(id)) => id,
            Ok(_) => return None,
            Err(error) => {
                self.reject(entry, &error);
                return None;
            }
        };
        match record::parse::<OverrideRecord>(&entry.value) {
            Ok(wish) => {
                self.overrides.insert(id.clone(), wish);
            }
            Err(error) => {
                self.reject(entry, &error);
                if let Some(good) = before.get(&id) {
                    self.overrides.insert(id.clone(), good.clone());
                }
            }
        }
        Some(id)
    }

    /// Counts a value that cannot be used, and logs it once for each revision.
    fn reject(&mut self, entry: &Entry, error: &dyn std::fmt::Display) {
        self.rejected_count += 1;
        if self.rejected.len() >= REJECTED_MAX {
            self.rejected.clear();
        }
        if self.rejected.insert(entry.key.clone(), entry.mod_revision) != Some(entry.mod_revision) {
            let key: String = String::from_utf8_lossy(&entry.key).chars().take(200).collect();
            let revision = entry.mod_revision;
            tracing::warn!(key, revision, "ignored, the last good record stays in force: {error}");
        }
    }
}

/// Who registered an instance. Without an `owner` field, its lease tells; without a lease, its key.
fn owner_of(id: &InstanceId, record: &InstanceRecord, lease: i64) -> String {
    match &record.owner {
        Some(owner) => owner.clone(),
        None if lease != 0 => format!("lease-{lease:x}"),
        None => format!("key-{id}"),
    }
}

#[cfg(test)]
mod tests;
