//! The leases: who stands under which, when they run out, and when that is noticed.
//!
//! Facts from `lease/lessor.go` (3.4.23): `Grant`, `Renew`, `Promote`, `runLoop`, `findExpiredLeases`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use registry::lease::LeaseId;
use registry::time::Tick;

use super::{Error, Key, grid};

/// Shortest ttl that is granted: 1.5 election timeouts, rounded up to seconds (`etcdserver/server.go`, `minTTL`).
pub const TTL_MIN: Duration = Duration::from_secs(2);
/// How often expired leases are looked for (`lease/lessor.go`, `runLoop`).
pub const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Most leases that one look ends: half of `leaseRevokeRate`.
const ENDED_PER_LOOK_MAX: usize = 500;
/// A new leader gives each lease this much on top of its ttl: an election timeout (`etcdserver/server.go`, the call of
/// `Promote`). The staggering of more than 1,000 leases there is left out.
const PROMOTE_EXTENDS: Duration = Duration::from_secs(1);

/// A lease.
#[derive(Clone, Debug)]
struct Lease {
    ttl: Duration,
    expires: Tick,
    keys: BTreeSet<Key>,
}

/// What is left of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeToLive {
    /// Whole seconds that are left, as etcd answers them: cut off, and 0 when it has run out and still stands.
    pub ttl_s: u64,
    /// The ttl that was granted, in seconds.
    pub granted_s: u64,
    /// The keys that stand under it.
    pub keys: Vec<Key>,
}

/// The answer to a keepalive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// The lease has its whole ttl again: `keeper::Input::KeptAlive`.
    Renewed {
        /// The ttl.
        ttl: Duration,
    },
    /// There is no such lease, which etcd says with a ttl of 0: `keeper::Input::Gone`.
    Gone,
    /// The lease has run out and still stands: etcd answers once it has been revoked, or once there is another leader
    /// (`Renew` waits for `revokec` or `demotec`). The call is to be made again at this moment.
    Waits {
        /// When expired leases are looked for next.
        until: Tick,
    },
}

#[derive(Clone, Debug, Default)]
pub(super) struct Leases {
    by_id: BTreeMap<LeaseId, Lease>,
    by_expiry: BTreeSet<(Tick, LeaseId)>,
    /// Looks are at this distance from whole multiples of [`LOOK_EVERY`].
    pub(super) phase: Duration,
    looked: Option<Tick>,
}

impl Leases {
    pub(super) fn with_phase(self, phase: Duration) -> Self {
        Self { phase, ..self }
    }

    pub(super) fn grant(&mut self, now: Tick, id: LeaseId, ttl: Duration) -> Result<Duration, Error> {
        if self.by_id.contains_key(&id) {
            return Err(Error::LeaseExists);
        }
        let ttl = ttl.max(TTL_MIN);
        let expires = now.plus(ttl);
        self.by_id.insert(id, Lease { ttl, expires, keys: BTreeSet::new() });
        self.by_expiry.insert((expires, id));
        Ok(ttl)
    }

    pub(super) fn renew(&mut self, now: Tick, id: LeaseId) -> KeepAlive {
        let until = self.look_at().unwrap_or(now);
        let Some(lease) = self.by_id.get_mut(&id) else {
            return KeepAlive::Gone;
        };
        if lease.expires <= now {
            return KeepAlive::Waits { until };
        }
        self.by_expiry.remove(&(lease.expires, id));
        lease.expires = now.plus(lease.ttl);
        self.by_expiry.insert((lease.expires, id));
        KeepAlive::Renewed { ttl: lease.ttl }
    }

    /// Ends a lease; returns its keys, by key, as they are deleted (`Revoke` sorts them).
    pub(super) fn end(&mut self, id: LeaseId) -> Option<BTreeSet<Key>> {
        let lease = self.by_id.remove(&id)?;
        self.by_expiry.remove(&(lease.expires, id));
        Some(lease.keys)
    }

    pub(super) fn time_to_live(&self, now: Tick, id: LeaseId) -> Option<TimeToLive> {
        let lease = self.by_id.get(&id)?;
        let left = lease.expires.since(now);
        let keys = lease.keys.iter().cloned().collect();
        Some(TimeToLive { ttl_s: left.as_secs(), granted_s: lease.ttl.as_secs(), keys })
    }

    pub(super) fn contains(&self, id: LeaseId) -> bool {
        self.by_id.contains_key(&id)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = LeaseId> + '_ {
        self.by_id.keys().copied()
    }

    /// Moves `key` from lease `from` to lease `to`; 0 is none.
    pub(super) fn move_key(&mut self, key: &[u8], from: LeaseId, to: LeaseId) {
        if let Some(lease) = self.by_id.get_mut(&from) {
            lease.keys.remove(key);
        }
        if let Some(lease) = self.by_id.get_mut(&to) {
            lease.keys.insert(key.to_vec());
        }
    }

    /// When expired leases are looked for next with effect.
    pub(super) fn look_at(&self) -> Option<Tick> {
        let (earliest, _) = self.by_expiry.first()?;
        let after = self.looked.map_or(*earliest, |looked| looked.plus(Duration::from_micros(1)));
        Some(grid(after.max(*earliest), LOOK_EVERY, self.phase))
    }

    /// The leases that a look at `now` ends, in the order of their expiries.
    pub(super) fn look(&mut self, now: Tick) -> Vec<LeaseId> {
        self.looked = Some(now);
        let expired = self.by_expiry.iter().take_while(|(expires, _)| *expires <= now);
        expired.take(ENDED_PER_LOOK_MAX).map(|(_, id)| *id).collect()
    }

    /// There is a new leader: each lease has its whole ttl, and a bit.
    pub(super) fn promote(&mut self, now: Tick) {
        for lease in self.by_id.values_mut() {
            lease.expires = now.plus(lease.ttl + PROMOTE_EXTENDS);
        }
        self.by_expiry = self.by_id.iter().map(|(id, lease)| (lease.expires, *id)).collect();
    }
}
