//! The mass-expiry guard: when much of a service expires together, it is etcd that is more likely to be in trouble.
//!
//! Those that expire beyond the set share are not taken for gone but for suspect: they stay in rotation for as long as
//! HAProxy's own checks pass, until they return, or until a bound has passed. What left by itself, was deleted on
//! purpose, was down or overridden never comes here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use registry::name::{InstanceId, ServiceName};
use registry::time::Tick;

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

/// Counts expiries, and keeps the suspects.
#[derive(Debug)]
pub(super) struct Guard {
    policy: GuardPolicy,
    recent: BTreeMap<ServiceName, VecDeque<(Tick, InstanceId)>>,
    suspects: BTreeMap<InstanceId, Tick>,
}

impl Guard {
    pub(super) fn new(policy: GuardPolicy) -> Self {
        Self { policy, recent: BTreeMap::new(), suspects: BTreeMap::new() }
    }

    /// `expired` of `service` have expired together, `left` are still registered. Returns those that are suspect.
    pub(super) fn judge(
        &mut self,
        now: Tick,
        service: &ServiceName,
        expired: &BTreeSet<InstanceId>,
        left: usize,
    ) -> BTreeSet<InstanceId> {
        let recent = self.recent.entry(service.clone()).or_default();
        recent.retain(|(at, id)| now.since(*at) < self.policy.window && !expired.contains(id));
        recent.extend(expired.iter().map(|id| (now, id.clone())));
        let (gone, all) = (recent.len(), recent.len() + left);
        let share_max = u64::from(self.policy.share_percent) * u64::try_from(all).unwrap_or(u64::MAX);
        let too_many = u64::try_from(gone).unwrap_or(u64::MAX).saturating_mul(100) > share_max;
        if all < self.policy.instances_min || !too_many {
            return BTreeSet::new();
        }
        self.suspect(now, expired.iter().cloned());
        expired.clone()
    }

    /// `ids` are suspect from now on.
    pub(super) fn suspect(&mut self, now: Tick, ids: impl Iterator<Item = InstanceId>) {
        let until = now.plus(self.policy.suspect_max);
        for id in ids {
            self.suspects.entry(id).or_insert(until);
        }
    }

    /// `id` has returned, or is gone for good: it is no suspect, and its expiry does not count any more.
    pub(super) fn clear(&mut self, id: &InstanceId, returned: bool) {
        self.suspects.remove(id);
        if returned && let Some(recent) = self.recent.get_mut(&id.service) {
            recent.retain(|(_, expired)| expired != id);
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
