//! What lb-sync knows of the registry: every instance's last good record, every override, and whether that is current.
//!
//! Folded from the events of two followers. Nothing is forgotten but by etcd's word: a value that does not parse
//! leaves the last good one in force, and an etcd that comes back empty or older is doubted first.

mod guard;
mod sharing;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use registry::follow::{Entry, Event, Update, updates};
use registry::key::{Key, Prefix};
use registry::lease::{LeaseId, TimeToLive};
use registry::name::{InstanceId, ServiceName};
use registry::record::{self, InstanceRecord, Intent, OverrideRecord, ROUTE_LABEL, RecordError};
use registry::time::Tick;

use crate::scope::Scope;
use crate::snapshot::{SavedInstance, Snapshot};
use guard::Guard;
pub use guard::GuardPolicy;
use sharing::Sharing;
pub(crate) use source::Source;

/// A view that was not heard of for so long is not current, whatever its followers last said: this process may have been
/// paused or suspended. They say so themselves after 9 s (`registry::follow::machine`).
const AGE_MAX: Duration = Duration::from_secs(10);
/// How long a record of an earlier owner, that a restored backup has brought back, waits for the later owner to write again:
/// a beat of the default ttl, and the rest of it.
const OLDER_AFTER: Duration = Duration::from_secs(12);
/// Silence of etcd after which leases may have run out for want of it: half the shortest ttl that it grants.
const AWAY_MIN: Duration = Duration::from_secs(1);
/// Rejected values whose revision is remembered, so that each is logged once.
const REJECTED_MAX: usize = 10_000;

/// Whether HAProxy sends an instance nothing, since its check has not passed.
pub type IsDown<'a> = &'a dyn Fn(&InstanceId) -> bool;

/// An instance as registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its last good record.
    pub record: InstanceRecord,
    /// Who registered it: its `owner` field, else its lease, else its key.
    pub owner: String,
    /// etcd's revision when its key came to be.
    pub create_revision: i64,
    /// etcd's revision of the record.
    pub mod_revision: i64,
    /// etcd's revision of the first record by which its owner has its address, as far as seen: of two at one address, the later
    /// is served. A name that stood may come to an address that another one has had in the meantime.
    pub since: i64,
    /// The lease it stands under; 0 for none.
    pub lease: LeaseId,
}

/// What is known of the registry.
#[derive(Debug)]
pub struct View {
    prefix: Prefix,
    instances: BTreeMap<InstanceId, Registered>,
    overrides: BTreeMap<InstanceId, OverrideRecord>,
    /// Who claims an address, so that a change of one finds the others.
    endpoint_owners: BTreeMap<SocketAddr, Vec<InstanceId>>,
    instances_synced: bool,
    overrides_synced: bool,
    /// The moment of the present step.
    now: Tick,
    /// When each follower was last heard.
    instances_heard: Option<Tick>,
    overrides_heard: Option<Tick>,
    /// The etcd that the overrides were listed from, and overrides that another history of it lacks: an operator's order
    /// does not end by a restored backup.
    overrides_source: Option<Source>,
    kept_overrides: BTreeMap<InstanceId, Tick>,
    /// The etcd that the instances were listed from.
    source: Option<Source>,
    guard: Guard,
    /// Suspects whose lease may live on, which would mean that their key was deleted on purpose.
    questions: Vec<(InstanceId, LeaseId)>,
    /// Instances whose address a later one has registered as well.
    sharing: Sharing,
    rejected: BTreeMap<Vec<u8>, i64>,
    rejected_count: u64,
    origin: Origin,
    /// Records of earlier owners that another history of etcd has in place of the one that is known, which is kept as a
    /// suspect. Each is taken at that moment if it still stands: by then the owner of the known one would have written again,
    /// and a restored lease that no process keeps alive would have ended.
    older: BTreeMap<InstanceId, (Tick, Registered)>,
    /// How many instances each service has.
    services: BTreeMap<ServiceName, usize>,
    /// Counts changes of instances with routes.
    route_changes: u64,
    /// Counts changes, so that who keeps a copy knows when it is out of date.
    changes: u64,
    /// etcd has another history than before, which was not taken note of yet.
    history_broke: bool,
}

/// Where what is known comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// From etcd.
    Etcd,
    /// From the disk: etcd has not been heard since the start.
    Disk,
    /// From etcd, after it began with the disk: etcd may have been away in the meantime.
    DiskThenEtcd,
}

impl View {
    /// Knows nothing yet, and is not in sync. Guarded by the default policy.
    #[must_use]
    pub fn new(prefix: Prefix) -> Self {
        Self::guarded(prefix, GuardPolicy::default())
    }

    /// Knows nothing yet, and is not in sync.
    #[must_use]
    pub fn guarded(prefix: Prefix, guard: GuardPolicy) -> Self {
        Self {
            prefix,
            instances: BTreeMap::new(),
            overrides: BTreeMap::new(),
            endpoint_owners: BTreeMap::new(),
            instances_synced: false,
            overrides_synced: false,
            now: Tick::default(),
            instances_heard: None,
            overrides_heard: None,
            overrides_source: None,
            kept_overrides: BTreeMap::new(),
            source: None,
            guard: Guard::new(guard),
            questions: Vec::new(),
            sharing: Sharing::default(),
            rejected: BTreeMap::new(),
            rejected_count: 0,
            origin: Origin::Etcd,
            older: BTreeMap::new(),
            services: BTreeMap::new(),
            route_changes: 0,
            changes: 0,
            history_broke: false,
        }
    }

    /// Whether this is what etcd has at this moment. While it is not, nothing may be drained or deleted.
    #[must_use]
    pub fn in_sync(&self) -> bool {
        let is_fresh = self.heard().is_some_and(|heard| self.now.since(heard) <= AGE_MAX);
        self.instances_synced && self.overrides_synced && is_fresh
    }

    /// It is `now`: a view that was heard too long ago is not current any more.
    pub fn set_now(&mut self, now: Tick) {
        self.now = now;
    }

    /// Whether etcd has said all that there is, since the start; it may have changed by now.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.source.is_some() && !self.is_from_disk()
    }

    /// When etcd was last heard of, by the follower that has heard less lately.
    #[must_use]
    pub fn heard(&self) -> Option<Tick> {
        self.instances_heard.min(self.overrides_heard)
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

    /// The instances of `service` that are registered.
    pub fn instances_of(&self, service: &ServiceName) -> impl Iterator<Item = &InstanceId> {
        // The first of all legal names: it is the shortest that begins with the lowest of the legal characters.
        let first = "0".parse().ok().map(|instance| InstanceId { service: service.clone(), instance });
        let from = first.into_iter().flat_map(|first| self.instances.range(first..));
        let service = service.clone();
        from.map(|(id, _)| id).take_while(move |id| id.service == service)
    }

    /// What record and override want for `id`; `None` without a record.
    #[must_use]
    pub fn intent_of(&self, id: &InstanceId) -> Option<Intent> {
        let state = self.instances.get(id)?.record.state;
        Some(Intent::of(state, self.overrides.get(id).and_then(|order| order.mode)))
    }

    /// Whether all this is from the disk, and may be older than what HAProxy has: what is missing there may be added,
    /// and no server that is there is changed.
    #[must_use]
    pub fn is_from_disk(&self) -> bool {
        self.origin == Origin::Disk
    }

    /// Whether `id` has expired and that is not believed: it stays while HAProxy's own check passes.
    #[must_use]
    pub fn is_suspect(&self, id: &InstanceId) -> bool {
        self.guard.is_suspect(id)
    }

    /// Until when `id` stays at most, if it is suspect.
    #[must_use]
    pub fn suspect_until(&self, id: &InstanceId) -> Option<Tick> {
        self.guard.until(id)
    }

    /// Instances that became suspects, since the start.
    #[must_use]
    pub fn suspected_count(&self) -> u64 {
        self.guard.suspected_count()
    }

    /// Another lb-sync keeps `id` as a suspect, for `left` more. Who is registered is none.
    pub fn adopt_suspect(&mut self, now: Tick, left: Duration, id: InstanceId, registered: Registered) {
        if !self.instances.contains_key(&id) {
            self.guard.adopt(id.clone(), now.plus(left));
            self.insert(id, registered, &mut BTreeSet::new());
        }
    }

    /// etcd's revision up to which this is complete; 0 before anything is known.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.source.map_or(0, |source| source.revision)
    }

    /// All suspects.
    pub fn suspects(&self) -> impl Iterator<Item = &InstanceId> {
        self.guard.suspects()
    }

    /// Instances about whose lease etcd is to be asked now: suspects, each once, and those that share their address.
    pub fn take_lease_queries(&mut self, now: Tick) -> Vec<(InstanceId, LeaseId)> {
        let mut queries = std::mem::take(&mut self.questions);
        queries.extend(self.sharing.due(now));
        queries
    }

    /// Whether etcd was wiped or restored since this was last asked: what we wrote may not stand any more.
    pub fn take_history_broke(&mut self) -> bool {
        std::mem::take(&mut self.history_broke)
    }

    /// HAProxy's own check of a suspect has failed: it is gone.
    pub fn check_failed(&mut self, id: &InstanceId) -> Scope {
        let mut changed = BTreeSet::new();
        if self.is_suspect(id) {
            self.remove(id, &mut changed);
        }
        Scope::Only(changed)
    }

    /// A lease lives, for so much longer. A suspect's key was deleted on purpose then, and it is gone. Of one that shares its
    /// address it says whether it still beats.
    pub fn lease_lives(&mut self, now: Tick, id: &InstanceId, lease: LeaseId, ttl: TimeToLive) -> Scope {
        let mut changed = BTreeSet::new();
        let same = self.instances.get(id).is_some_and(|registered| registered.lease == lease);
        if same && self.is_suspect(id) {
            tracing::info!(instance = %id, "its key was deleted on purpose: no suspect");
            self.remove(id, &mut changed);
        } else if self.sharing.answered(now, id, lease, ttl) {
            if self.sharing.has_missed_a_beat(id) {
                tracing::warn!(instance = %id, "has missed a beat, and another one has registered its address");
            }
            self.changes += 1;
            changed.extend(self.sharers(id).cloned());
            changed.insert(id.clone());
        }
        Scope::Only(changed)
    }

    /// The instance that has `id`'s address in its stead: registered later, by another owner. In one service the later one
    /// that is up is served. Across services, and where the later one is not up, only one whose own lease has ended or has
    /// missed a beat gives way: no service takes another one's instance out. A suspect displaces no living instance, whatever
    /// its revision says (it may be of another history).
    #[must_use]
    pub fn shadowed_by(&self, id: &InstanceId) -> Option<&InstanceId> {
        let ours = self.instances.get(id)?;
        let gives_way = self.is_suspect(id) || self.sharing.has_missed_a_beat(id);
        let rivals = self.sharers(id).filter_map(|rival| Some((rival, self.instances.get(rival)?)));
        let displaces = |(rival, theirs): &(&InstanceId, &Registered)| {
            let is_up = || rival.service == id.service && self.intent_of(rival) == Some(Intent::Serve);
            theirs.owner != ours.owner
                && self.rank(rival, theirs) > self.rank(id, ours)
                && (gives_way || is_up())
        };
        let latest = rivals.filter(displaces).max_by_key(|(rival, theirs)| self.rank(rival, theirs));
        latest.map(|(rival, _)| rival)
    }

    /// Of those at one address the highest is served.
    fn rank<'a>(&self, id: &'a InstanceId, registered: &Registered) -> (bool, i64, &'a InstanceId) {
        (!self.is_suspect(id), registered.since, id)
    }

    /// Whether a server of `other`, at the same address, may be what is left of `id`'s own traffic: a leave waits for its end.
    /// It does not wait for another service's instance that came later, or whose own lease beats: that one has registered an
    /// address that is not its own, or shares it on purpose.
    #[must_use]
    pub fn may_send_for(&self, other: &InstanceId, id: &InstanceId) -> bool {
        let (Some(theirs), Some(ours)) = (self.instances.get(other), self.instances.get(id)) else {
            return false;
        };
        let is_earlier = theirs.since < ours.since;
        let may_be_stale = is_earlier && !self.sharing.beats(other);
        theirs.owner == ours.owner || other.service == id.service || may_be_stale
    }

    /// The other instances at `id`'s address.
    pub fn sharers(&self, id: &InstanceId) -> impl Iterator<Item = &InstanceId> {
        let endpoint = self.instances.get(id).map(|registered| registered.record.endpoint());
        let owners = endpoint.and_then(|endpoint| self.endpoint_owners.get(&endpoint));
        owners.into_iter().flatten().filter(move |other| *other != id)
    }

    /// The services that are registered, and how many instances each has.
    #[must_use]
    pub fn services(&self) -> &BTreeMap<ServiceName, usize> {
        &self.services
    }

    /// How often an instance with routes has come, changed or gone: no other has any say in them.
    #[must_use]
    pub fn route_changes(&self) -> u64 {
        self.route_changes
    }

    /// How often anything has changed.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// All that is known, for the disk; `None` before etcd was first heard.
    #[must_use]
    pub fn snapshot(&self) -> Option<Snapshot> {
        let Source { cluster, revision } = self.source?;
        let mut snapshot = Snapshot::new(&self.prefix, cluster, revision);
        snapshot.instances.extend(self.instances.iter().map(|(id, registered)| {
            let Registered { record, owner, create_revision, mod_revision, since, lease } =
                registered.clone();
            (id.to_string(), SavedInstance { record, owner, create_revision, mod_revision, since, lease })
        }));
        snapshot
            .overrides
            .extend(self.overrides.iter().map(|(id, overriding)| (id.to_string(), overriding.clone())));
        Some(snapshot)
    }

    /// Starts from what was known before. It is not in sync, and whatever etcd says replaces it.
    pub fn restore(&mut self, snapshot: Snapshot) -> Scope {
        let mut changed = BTreeSet::new();
        self.origin = Origin::Disk;
        self.source = Some(Source { cluster: snapshot.cluster, revision: snapshot.revision });
        for (id, saved) in snapshot.instances {
            let Ok(id) = id.parse::<InstanceId>() else { continue };
            let SavedInstance { record, owner, create_revision, mod_revision, since, lease } = saved;
            let since = if since == 0 { create_revision } else { since };
            let known = Registered { record, owner, create_revision, mod_revision, since, lease };
            self.insert(id, known, &mut changed);
        }
        let overrides = snapshot.overrides.into_iter();
        self.overrides.extend(overrides.filter_map(|(id, overriding)| Some((id.parse().ok()?, overriding))));
        Scope::All
    }

    /// When [`Self::expire`] has something to do.
    #[must_use]
    pub fn wake_at(&self) -> Option<Tick> {
        let older = self.older.values().map(|(at, _)| *at);
        let wake_at =
            self.guard.wake_at().into_iter().chain(self.kept_overrides.values().copied()).chain(older).min();
        wake_at.into_iter().chain(self.sharing.wake_at()).min().filter(|_| self.in_sync())
    }

    /// Lets go of suspects that have not returned within their bound, and of overrides that another history of etcd lacks.
    /// Not on a view that is not current: time that passed unheard is no evidence. `is_down`: as in
    /// [`Self::fold_instances_beside`]; `None` where HAProxy checks nothing. Where it does, suspects beside which their service has
    /// none in rotation have their time once more: their checks judge them.
    pub fn expire(&mut self, now: Tick, is_down: Option<IsDown<'_>>) -> Scope {
        let mut changed = BTreeSet::new();
        if !self.in_sync() {
            return Scope::Only(changed);
        }
        for id in self.guard.expired(now) {
            let serves = self.intent_of(&id) == Some(Intent::Serve);
            let is_last = is_down.is_some_and(|is_down| self.left(&id.service, is_down) == 0);
            if is_last && serves && self.guard.spares_last() {
                tracing::error!(
                    instance = %id,
                    "has not returned, and nothing else of its service is in rotation: served as long as HAProxy's check passes
                drain it by an override if it is gone for good"
                );
                self.guard.extend(now, &id);
                continue;
            }
            tracing::warn!(instance = %id, "has not returned: no longer kept as a suspect");
            self.remove(&id, &mut changed);
        }
        let due = self.older.iter().filter(|(_, (at, _))| now >= *at).map(|(id, _)| id.clone());
        for id in due.collect::<Vec<_>>() {
            // Taking the known one out puts the other in its place.
            self.remove(&id, &mut changed);
        }
        let ended: Vec<InstanceId> = self
            .kept_overrides
            .iter()
            .filter(|(_, until)| now >= **until)
            .map(|(id, _)| id.clone())
            .collect();
        for id in ended {
            tracing::warn!(instance = %id, "its override is gone with etcd's history: no longer kept");
            self.kept_overrides.remove(&id);
            self.overrides.remove(&id);
            changed.extend(self.sharers(&id).cloned());
            changed.insert(id);
        }
        Scope::Only(changed)
    }

    /// As [`Self::fold_instances_beside`], where nothing is known of HAProxy's checks.
    pub fn fold_instances(&mut self, now: Tick, event: Event) -> Scope {
        self.fold_instances_beside(now, event, &|_| false)
    }

    /// Takes in an event of the follower of `instances/`. `is_down`: HAProxy sends an instance nothing, since its check has not
    /// passed; beside it another one's expiry is not believed.
    pub fn fold_instances_beside(&mut self, now: Tick, event: Event, is_down: IsDown<'_>) -> Scope {
        self.now = self.now.max(now);
        let (was, heard) = (self.instances_synced, self.instances_heard);
        (self.instances_synced, self.instances_heard) = self.follower_in_sync(now, &event, was, heard);
        if matches!(event, Event::InSync | Event::OutOfSync) {
            return Scope::none();
        }
        let is_list = matches!(event, Event::Listed { .. });
        let is_doubtful = Source::take(&mut self.source, &event);
        let pick = |key| if let Key::Instance(id) = key { Some(id) } else { None };
        let updates = updates(&self.prefix, pick, event, || self.instances.keys().cloned().collect());
        let (mut concerned, mut gone) = (BTreeSet::new(), BTreeSet::new());
        for update in updates {
            match update {
                Update::Put(id, entry) if is_doubtful && self.is_older_owner_s(&id, &entry) => {
                    if let Ok(registered) = registered(&id, &entry) {
                        self.older.insert(id.clone(), (now.plus(OLDER_AFTER), registered));
                    }
                    gone.insert(id);
                }
                Update::Put(id, entry) => {
                    gone.remove(&id);
                    self.put_instance(id, &entry, &mut concerned);
                }
                Update::Gone(id) => {
                    self.older.remove(&id);
                    gone.insert(id);
                }
                Update::Illegal(entry, error) => self.reject(&entry, &error),
            }
        }
        if !is_list {
            self.depart(now, gone, is_down, &mut concerned);
            self.spare_last(now, is_down, &mut concerned);
            return Scope::Only(concerned);
        }
        self.changes += 1;
        if self.origin == Origin::Disk {
            self.origin = Origin::DiskThenEtcd;
        }
        self.history_broke |= is_doubtful;
        self.instances_synced &= !is_doubtful;
        if is_doubtful && !gone.is_empty() {
            let missing_count = gone.len();
            tracing::error!(
                missing_count,
                "etcd was wiped or restored: the instances that it no longer knows are kept as suspects"
            );
            self.guard.suspect(now, gone.into_iter());
        } else {
            self.depart(now, gone, is_down, &mut concerned);
        }
        Scope::All
    }

    /// Takes in an event of the follower of `overrides/`.
    pub fn fold_overrides(&mut self, now: Tick, event: Event) -> Scope {
        self.now = self.now.max(now);
        let (was, heard) = (self.overrides_synced, self.overrides_heard);
        (self.overrides_synced, self.overrides_heard) = self.follower_in_sync(now, &event, was, heard);
        let is_list = matches!(event, Event::Listed { .. });
        self.changes += u64::from(is_list || matches!(event, Event::Changed(_)));
        let pick = |key| if let Key::Override(id) = key { Some(id) } else { None };
        let is_doubtful = Source::take(&mut self.overrides_source, &event);
        self.overrides_synced &= !is_doubtful;
        let kept_until = now.plus(self.guard.suspect_max());
        let updates = updates(&self.prefix, pick, event, || self.overrides.keys().cloned().collect());
        let mut concerned = BTreeSet::new();
        for update in updates {
            match update {
                Update::Put(id, entry) => {
                    self.kept_overrides.remove(&id);
                    self.put_override(id, &entry, &mut concerned);
                }
                Update::Gone(id) if is_doubtful || (is_list && self.kept_overrides.contains_key(&id)) => {
                    self.kept_overrides.entry(id).or_insert(kept_until);
                }
                Update::Gone(id) => {
                    self.kept_overrides.remove(&id);
                    self.overrides.remove(&id);
                    concerned.extend(self.sharers(&id).cloned());
                    concerned.insert(id);
                }
                Update::Illegal(entry, error) => self.reject(&entry, &error),
            }
        }
        if is_list { Scope::All } else { Scope::Only(concerned) }
    }

    /// Whether the follower that told `event` is in sync after it, and when it was last heard.
    fn follower_in_sync(
        &mut self,
        now: Tick,
        event: &Event,
        was: bool,
        heard: Option<Tick>,
    ) -> (bool, Option<Tick>) {
        match event {
            Event::OutOfSync => return (false, heard),
            // A list alone is not in sync: what changed since is still on its way. One that was taken in between leaves it so.
            Event::Listed { .. } => return (was, heard),
            Event::InSync | Event::Changed(_) => {
                let away = heard.map_or(self.origin != Origin::Etcd, |heard| now.since(heard) >= AWAY_MIN);
                if !was && away {
                    self.guard.doubt(now);
                }
            }
        }
        (was || *event == Event::InSync, Some(now))
    }

    /// These keys are gone. What was to go is removed; what stood under a lease and wanted traffic may have expired, and is
    /// judged together.
    fn depart(
        &mut self,
        now: Tick,
        gone: BTreeSet<InstanceId>,
        is_down: IsDown<'_>,
        changed: &mut BTreeSet<InstanceId>,
    ) {
        let mut expired = BTreeSet::new();
        for id in gone {
            if self.guard.is_suspect(&id) {
                continue;
            }
            let is_leased = self.instances.get(&id).is_some_and(|registered| registered.lease != 0);
            let may_have_expired = is_leased && self.intent_of(&id) == Some(Intent::Serve);
            if may_have_expired {
                expired.insert(id);
            } else {
                self.remove(&id, changed);
            }
        }
        self.judge(now, expired, is_down, changed);
    }

    /// Decides which of those that may have expired are believed gone.
    fn judge(
        &mut self,
        now: Tick,
        expired: BTreeSet<InstanceId>,
        is_down: IsDown<'_>,
        changed: &mut BTreeSet<InstanceId>,
    ) {
        if expired.is_empty() {
            return;
        }
        let mut by_service: BTreeMap<ServiceName, BTreeMap<InstanceId, Registered>> = BTreeMap::new();
        for id in expired {
            if let Some(was) = self.instances.get(&id).cloned() {
                // All are taken out first, and suspects are put back.
                self.unregister(&id, changed);
                by_service.entry(id.service.clone()).or_default().insert(id, was);
            }
        }
        for (service, expired) in by_service {
            self.judge_service(now, (&service, expired), is_down, changed);
        }
    }

    fn judge_service(
        &mut self,
        now: Tick,
        (service, expired): (&ServiceName, BTreeMap<InstanceId, Registered>),
        is_down: IsDown<'_>,
        changed: &mut BTreeSet<InstanceId>,
    ) {
        let left = self.left(service, is_down);
        let suspects = self.guard.judge(now, service, expired, left);
        if !suspects.is_empty() {
            let count = suspects.len();
            tracing::error!(
                %service,
                count,
                left,
                "much of the service expired together, none would be left, or etcd was just away: suspects stay while HAProxy's checks pass"
            );
        }
        for (id, was) in suspects {
            self.questions.push((id.clone(), was.lease));
            self.insert(id, was, changed);
        }
    }

    /// Where the last of a service in rotation has just left, those that expired shortly before it, and were believed to be gone
    /// beside it, are judged again: without them the service would have none.
    fn spare_last(&mut self, now: Tick, is_down: IsDown<'_>, changed: &mut BTreeSet<InstanceId>) {
        for service in self.guard.with_recent_expiries(now) {
            let is_concerned = changed.iter().any(|id| id.service == service);
            if is_concerned && self.left(&service, is_down) == 0 {
                self.judge_service(now, (&service, BTreeMap::new()), is_down, changed);
            }
        }
    }

    /// How many instances of `service` are in rotation beside suspects: one that drains serves no new client, nor does one that
    /// HAProxy has down.
    fn left(&self, service: &ServiceName, is_down: IsDown<'_>) -> usize {
        let serves = |id: &&InstanceId| {
            self.intent_of(id) == Some(Intent::Serve) && !self.guard.is_suspect(id) && !is_down(id)
        };
        self.instances_of(service).filter(serves).count()
    }

    /// HAProxy has these servers of ours, which pass its check, and neither etcd nor the disk explains them: etcd was wiped while
    /// no lb-sync lived that knew of them, or they are an earlier life's. They are judged as those that expire: a few are
    /// gone, and of much of a service each stays as a suspect.
    pub fn judge_unexplained(&mut self, now: Tick, found: BTreeMap<InstanceId, InstanceRecord>) -> Scope {
        let mut by_service: BTreeMap<ServiceName, BTreeMap<InstanceId, Registered>> = BTreeMap::new();
        for (id, record) in found {
            let owner = record.owner_under(&id, 0);
            let was = Registered { record, owner, create_revision: 0, mod_revision: 0, since: 0, lease: 0 };
            by_service.entry(id.service.clone()).or_default().insert(id, was);
        }
        let mut changed = BTreeSet::new();
        for (service, found) in by_service {
            let left = self.left(&service, &|_| false);
            let count = found.len();
            // A few are no sign of a wipe, even shortly after etcd was away: each of them may have left while lb-sync did not run.
            let suspects = if self.guard.policy().is_much(count, left) {
                self.guard.judge(now, &service, found, left)
            } else {
                BTreeMap::new()
            };
            if suspects.is_empty() {
                tracing::warn!(%service, count, "HAProxy has servers that nothing explains: they are removed");
            } else {
                tracing::error!(
                    %service,
                    count,
                    left,
                    "HAProxy has servers that nothing explains, much of the service: suspects stay while its checks pass"
                );
            }
            for (id, was) in suspects {
                self.insert(id, was, &mut changed);
            }
        }
        Scope::Only(changed)
    }

    /// Takes a record in; one that does not parse leaves what was known.
    fn put_instance(&mut self, id: InstanceId, entry: &Entry, changed: &mut BTreeSet<InstanceId>) {
        match registered(&id, entry) {
            Ok(registered) => {
                self.guard.clear(&id);
                self.older.remove(&id);
                self.insert(id, registered, changed);
            }
            Err(error) => self.reject(entry, &error),
        }
    }

    fn insert(&mut self, mut id: InstanceId, mut registered: Registered, changed: &mut BTreeSet<InstanceId>) {
        let is_there = |before: &&Registered| {
            before.owner == registered.owner && before.record.endpoint() == registered.record.endpoint()
        };
        if let Some(before) = self.instances.get(&id).filter(is_there) {
            // In another history of etcd revisions begin anew.
            registered.since = before.since.min(registered.since);
        }
        // Thousands of one service share its name.
        if let Some((service, _)) = self.services.get_key_value(&id.service) {
            id.service = service.clone();
        }
        self.unclaim(&id, changed);
        // Nearly always one: there are as many of these as instances.
        let alone = || Vec::with_capacity(1);
        let owners = self.endpoint_owners.entry(registered.record.endpoint()).or_insert_with(alone);
        owners.push(id.clone());
        changed.extend(owners.iter().cloned());
        let is_shared = owners.len() > 1;
        self.route_changes += u64::from(registered.record.labels.contains_key(ROUTE_LABEL));
        if !self.instances.contains_key(&id) {
            *self.services.entry(id.service.clone()).or_default() += 1;
        }
        let endpoint = registered.record.endpoint();
        if let Some(before) = self.instances.insert(id, registered) {
            self.route_changes += u64::from(before.record.labels.contains_key(ROUTE_LABEL));
        }
        if is_shared {
            self.review_sharing(endpoint);
        }
        self.changes += 1;
    }

    /// Asks about the leases of those at `endpoint` that a later one of another owner shares it with, and of no others.
    fn review_sharing(&mut self, endpoint: SocketAddr) {
        for id in self.endpoint_owners.get(&endpoint).into_iter().flatten() {
            let Some(ours) = self.instances.get(id) else { continue };
            let is_later = |other: &InstanceId| {
                self.instances.get(other).is_some_and(|theirs| {
                    theirs.owner != ours.owner && self.rank(other, theirs) > self.rank(id, ours)
                })
            };
            let is_shared = self.sharers(id).any(is_later);
            if is_shared && ours.lease != 0 && !self.guard.is_suspect(id) {
                self.sharing.begin(self.now, id, ours.lease);
            } else {
                self.sharing.end(id);
            }
        }
    }

    /// `id` is gone, and known to be.
    fn remove(&mut self, id: &InstanceId, changed: &mut BTreeSet<InstanceId>) {
        self.unregister(id, changed);
        self.guard.clear(id);
        if let Some((_, older)) = self.older.remove(id) {
            self.insert(id.clone(), older, changed);
        }
    }

    /// Another history of etcd has a record of an earlier owner than the one that is known.
    fn is_older_owner_s(&self, id: &InstanceId, entry: &Entry) -> bool {
        let Some(known) = self.instances.get(id) else { return false };
        self.intent_of(id) == Some(Intent::Serve)
            && known.mod_revision > entry.mod_revision
            && registered(id, entry).is_ok_and(|registered| registered.owner != known.owner)
    }

    fn unregister(&mut self, id: &InstanceId, changed: &mut BTreeSet<InstanceId>) {
        self.unclaim(id, changed);
        if let Some(before) = self.instances.remove(id) {
            self.route_changes += u64::from(before.record.labels.contains_key(ROUTE_LABEL));
            if let Some(count) = self.services.get_mut(&id.service) {
                *count -= 1;
                if *count == 0 {
                    self.services.remove(&id.service);
                }
            }
        }
        self.changes += 1;
        changed.insert(id.clone());
    }

    /// Gives up the address of `id`'s present record; another instance that claims it may be served now.
    fn unclaim(&mut self, id: &InstanceId, changed: &mut BTreeSet<InstanceId>) {
        let Some(present) = self.instances.get(id) else {
            return;
        };
        let endpoint = present.record.endpoint();
        self.sharing.end(id);
        if let Some(owners) = self.endpoint_owners.get_mut(&endpoint) {
            owners.retain(|owner_id| owner_id != id);
            changed.extend(owners.iter().cloned());
            if owners.is_empty() {
                self.endpoint_owners.remove(&endpoint);
            } else {
                self.review_sharing(endpoint);
            }
        }
    }

    /// Takes an override in; one that does not parse leaves what was known.
    fn put_override(&mut self, id: InstanceId, entry: &Entry, changed: &mut BTreeSet<InstanceId>) {
        match record::parse::<OverrideRecord>(&entry.value) {
            Ok(order) => {
                let takes_out = order.mode.is_some();
                self.overrides.insert(id.clone(), order);
                if takes_out && self.is_suspect(&id) {
                    self.remove(&id, changed);
                }
                changed.extend(self.sharers(&id).cloned());
                changed.insert(id);
            }
            Err(error) => self.reject(entry, &error),
        }
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

/// The record of `id` that stands in `entry`.
fn registered(id: &InstanceId, entry: &Entry) -> Result<Registered, RecordError> {
    let record = record::parse::<InstanceRecord>(&entry.value)?;
    let owner = record.owner_under(id, entry.lease);
    let Entry { create_revision, mod_revision, lease, .. } = *entry;
    Ok(Registered { record, owner, create_revision, mod_revision, since: mod_revision, lease })
}

#[cfg(test)]
mod tests;
