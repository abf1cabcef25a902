//! The mass-expiry guard: when much of a service expires together, it is etcd that is more likely to be in trouble.
//!
//! Those that expire beyond the set share are not taken for gone but for suspect: they stay in rotation for as long as
//! HAProxy's own checks pass, until they return, or until a bound has passed. So do those that expire just after etcd
//! was away, however few. What left by itself, was deleted on
//! purpose, was down or overridden never comes here.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use registry::name::{InstanceId, ServiceName};
use registry::time::Tick;

use super::Registered;

/// Expiries that are remembered of one service, so that they can be taken back. Of a service larger than that, some
/// that expired first stay gone.
const RECENT_MAX: usize = 100_000;

/// When an expiry is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardPolicy {
    /// Believed up to this share of a service, in percent; 100 turns the guard off.
    pub share_percent: u32,
    /// Expiries within this time count together.
    pub window: Duration,
    /// Services with fewer instances are not guarded.
    pub instances_min: usize,
    /// Longest that a suspect stays.
    pub suspect_max: Duration,
}

impl Default for GuardPolicy {
    fn default() -> Self {
        let (window, suspect_max) = (Duration::from_secs(30), Duration::from_mins(10));
        Self { share_percent: 50, window, instances_min: 3, suspect_max }
    }
}

impl GuardPolicy {
    /// Whether `gone` are more than the share of a service of which `left` are in rotation.
    #[must_use]
    pub fn is_much(&self, gone: usize, left: usize) -> bool {
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let all = number(gone).saturating_add(number(left));
        number(gone).saturating_mul(100) > u64::from(self.share_percent).saturating_mul(all)
    }
}

/// Counts expiries, and keeps the suspects.
#[derive(Debug)]
pub(super) struct Guard {
    policy: GuardPolicy,
    recent: BTreeMap<ServiceName, VecDeque<Expired>>,
    /// Until when no expiry at all is believed: etcd has just been away, and leases ran out that could not be kept.
    doubt_until: Option<Tick>,
    suspects: BTreeMap<InstanceId, Tick>,
    /// How many have become suspects so far.
    suspected_count: u64,
}

/// One that has expired, believed or not.
#[derive(Debug)]
struct Expired {
    at: Tick,
    id: InstanceId,
    was: Registered,
}

impl Guard {
    pub(super) fn new(policy: GuardPolicy) -> Self {
        Self {
            policy,
            recent: BTreeMap::new(),
            doubt_until: None,
            suspects: BTreeMap::new(),
            suspected_count: 0,
        }
    }

    /// etcd answers again after it was away. For a window's time an expiry may just be a beat that could not be sent.
    pub(super) fn doubt(&mut self, now: Tick) {
        self.doubt_until = Some(now.plus(self.policy.window));
    }

    /// `expired` of `service` have expired together, `left` are still in rotation. Returns who is suspect: all of them,
    /// and those that expired shortly before and were believed to be gone; or none.
    pub(super) fn judge(
        &mut self,
        now: Tick,
        service: &ServiceName,
        expired: BTreeMap<InstanceId, Registered>,
        left: usize,
    ) -> BTreeMap<InstanceId, Registered> {
        let spares_last = self.spares_last();
        let recent = self.recent.entry(service.clone()).or_default();
        recent.retain(|one| now.since(one.at) < self.policy.window && !expired.contains_key(&one.id));
        recent.extend(expired.into_iter().map(|(id, was)| Expired { at: now, id, was }));
        let excess = recent.len().saturating_sub(RECENT_MAX);
        recent.drain(..excess);
        let (gone, all) = (recent.len(), recent.len() + left);
        let too_many = self.policy.is_much(gone, left);
        let in_doubt = self.doubt_until.is_some_and(|until| now < until);
        // No expiry takes a service's last instance: HAProxy's own check says whether it is gone.
        let is_last = left == 0 && spares_last;
        if !in_doubt && !is_last && (all < self.policy.instances_min || !too_many) {
            return BTreeMap::new();
        }
        let until = now.plus(self.policy.suspect_max);
        let mut suspects = BTreeMap::new();
        for Expired { id, was, .. } in &*recent {
            if !self.suspects.contains_key(id) {
                self.suspects.insert(id.clone(), until);
                self.suspected_count += 1;
                suspects.insert(id.clone(), was.clone());
            }
        }
        suspects
    }

    /// Whether an expiry never takes a service's last instances.
    pub(super) fn spares_last(&self) -> bool {
        self.policy.share_percent < 100
    }

    /// The suspect `id` has its time once more.
    pub(super) fn extend(&mut self, now: Tick, id: &InstanceId) {
        if let Some(until) = self.suspects.get_mut(id) {
            *until = now.plus(self.policy.suspect_max);
        }
    }

    /// The services of which instances have expired within the window and not returned: none, nearly always.
    pub(super) fn with_recent_expiries(&self, now: Tick) -> Vec<ServiceName> {
        let is_recent = |one: &Expired| now.since(one.at) < self.policy.window;
        let recent = self.recent.iter().filter(|(_, recent)| recent.iter().any(is_recent));
        recent.map(|(service, _)| service.clone()).collect()
    }

    /// When an expiry is not believed.
    pub(super) fn policy(&self) -> GuardPolicy {
        self.policy
    }

    /// Longest that a suspect stays.
    pub(super) fn suspect_max(&self) -> Duration {
        self.policy.suspect_max
    }

    /// `ids` are suspect from now on.
    pub(super) fn suspect(&mut self, now: Tick, ids: impl Iterator<Item = InstanceId>) {
        let until = now.plus(self.policy.suspect_max);
        for id in ids {
            self.suspects.entry(id).or_insert_with(|| {
                self.suspected_count += 1;
                until
            });
        }
    }

    /// Another lb-sync keeps `id` as a suspect until then.
    pub(super) fn adopt(&mut self, id: InstanceId, until: Tick) {
        self.suspects.insert(id, until);
    }

    pub(super) fn until(&self, id: &InstanceId) -> Option<Tick> {
        self.suspects.get(id).copied()
    }

    pub(super) fn suspected_count(&self) -> u64 {
        self.suspected_count
    }

    /// `id` has returned, or is known to be gone: it is no suspect, and does not become one by its last expiry.
    pub(super) fn clear(&mut self, id: &InstanceId) {
        self.suspects.remove(id);
        if let Some(recent) = self.recent.get_mut(&id.service) {
            recent.retain(|one| one.id != *id);
        }
    }

    pub(super) fn is_suspect(&self, id: &InstanceId) -> bool {
        self.suspects.contains_key(id)
    }

    pub(super) fn suspects(&self) -> impl Iterator<Item = &InstanceId> {
        self.suspects.keys()
    }

    /// When the first suspect's time is up.
    pub(super) fn wake_at(&self) -> Option<Tick> {
        self.suspects.values().min().copied()
    }

    /// The suspects whose time is up.
    pub(super) fn expired(&self, now: Tick) -> Vec<InstanceId> {
        self.suspects.iter().filter(|(_, until)| now >= **until).map(|(id, _)| id.clone()).collect()
    }
}
