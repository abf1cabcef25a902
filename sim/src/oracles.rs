//! Oracles: what must hold after each event, and at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use registry::record::{AckState, InstanceRecord, InstanceState, parse};
use registry::time::Tick;

use crate::world::{App, World, service_name};

/// A broken oracle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub oracle: &'static str,
    /// What was seen.
    pub what: String,
    /// When, in milliseconds since the beginning.
    pub at_ms: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (at {} ms)", self.oracle, self.what, self.at_ms)
    }
}

/// A change of an instance may take so long to reach a HAProxy whose lb-sync is well.
const REACHED_WITHIN: Duration = Duration::from_secs(5);
/// An address may be another app's for so long before the news is there.
const MISROUTED_MAX: Duration = Duration::from_millis(100);
/// Nothing that takes traffic away is sent on a view that is older.
const VIEW_AGE_MAX: Duration = Duration::from_secs(10);

impl World {
    /// An app is told to stop: no worker of any HAProxy may have a selectable server at its endpoint, or a stream to it,
    /// unless the leave ended by its deadline.
    pub(crate) fn honest_leave(&mut self, at: usize) {
        let slot = &self.registrars[at];
        let Some((addr, _)) = slot.app else { return };
        if slot.timed_out {
            return;
        }
        let name = slot.name.clone();
        // Another registrar has its name: its requests in flight have had their time.
        if slot.process.as_ref().is_some_and(|process| process.member().stood_down) {
            return;
        }
        for balancer in 0..self.balancers.len() {
            if self.is_long_gone(balancer) || self.is_unknown_to(balancer, at) {
                self.mark("left while a balancer was long gone");
                continue;
            }
            if let Some(what) = self.still_sends_to(balancer, addr) {
                self.violate("honest leave", format!("{name} at {addr} stops, and lb-{balancer} {what}"));
                return;
            }
        }
    }

    /// A registrar that was started while it was absent does not know of it.
    fn is_unknown_to(&self, balancer: usize, registrar: usize) -> bool {
        let absent = self.balancers[balancer].absent_since;
        absent.is_some_and(|since| self.registrars[registrar].started >= since)
    }

    /// It has been absent for longer than leaves wait for it.
    fn is_long_gone(&self, balancer: usize) -> bool {
        let linger = Duration::from_secs(self.options.ttl_s) * 3 / 2;
        let slot = &self.balancers[balancer];
        // Presence is looked at every 500 ms.
        slot.absent_since.is_some_and(|since| self.now.since(since) + Duration::from_millis(600) >= linger)
    }

    /// A request through this worker may be cut by an orderly end: its balancer was gone for longer than leaves wait, or the
    /// worker was replaced longer ago than requests may take.
    pub(crate) fn is_excused(&self, balancer: usize, worker: u32, registrar: usize) -> bool {
        let inflight = Duration::from_secs(self.options.inflight_s.into());
        let worker = self.balancers[balancer].haproxy.workers.get(&worker);
        let is_past_limit =
            worker.is_some_and(|worker| worker.stopping && self.now.since(worker.stopped_at) >= inflight);
        is_past_limit || self.is_long_gone(balancer) || self.is_unknown_to(balancer, registrar)
    }

    /// Remembers since when each balancer has no presence.
    pub(crate) fn watch_presence(&mut self) {
        for at in 0..self.balancers.len() {
            let present = self.etcd.get(&format!("/leasehold/v1/balancers/lb-{at}")).is_some();
            let slot = &mut self.balancers[at];
            slot.absent_since = if present { None } else { slot.absent_since.or(Some(self.now)) };
        }
    }

    fn still_sends_to(&self, balancer: usize, addr: SocketAddr) -> Option<String> {
        let haproxy = &self.balancers[balancer].haproxy;
        for (id, worker) in &haproxy.workers {
            let which = if Some(*id) == haproxy.current() { "its worker" } else { "an old worker of it" };
            // An old worker without kept connections gets no new requests.
            let takes = !worker.stopping || worker.kept_connections > 0;
            let selectable =
                worker.servers.iter().find(|(_, server)| server.addr == addr && server.is_selectable());
            if let Some((path, _)) = selectable.filter(|_| takes) {
                return Some(format!("has it selectable as {}/{} ({which})", path.0, path.1));
            }
            let inflight = Duration::from_secs(self.options.inflight_s.into());
            let is_past_limit = worker.stopping && self.now.since(worker.stopped_at) >= inflight;
            if !is_past_limit && worker.streams.values().any(|stream| stream.addr == addr) {
                return Some(format!("has a request in flight there ({which})"));
            }
        }
        None
    }

    /// `drained` is said only when no worker sends anything there.
    pub(crate) fn check_ack(&mut self, at: usize, id: &str, owner: &str, state: AckState) {
        if state != AckState::Drained {
            return;
        }
        let is = |slot: &&crate::world::RegistrarSlot| {
            slot.process.as_ref().is_some_and(|process| process.owner == owner)
        };
        let Some(addr) = self.registrars.iter().find(is).and_then(|slot| slot.app).map(|(addr, _)| addr)
        else {
            return;
        };
        if let Some(what) = self.still_sends_to(at, addr) {
            self.violate("honest ack", format!("lb-{at} says that {id} is drained, and {what}"));
        }
    }

    /// Nothing that takes traffic away is sent on a view that is not current.
    pub(crate) fn check_commands(&mut self, at: usize, lines: &[String]) {
        let takes = |line: &&String| {
            line.ends_with("state maint")
                || line.ends_with("state drain")
                || line.starts_with("del server")
                || line.starts_with("shutdown")
        };
        let Some(line) = lines.iter().find(takes) else { return };
        let Some(process) = &self.balancers[at].process else { return };
        let condition = process.machine().condition(self.now);
        let heard = condition.view.heard().map(|heard| self.now.since(heard));
        if !condition.view.in_sync() || heard.is_none_or(|age| age > VIEW_AGE_MAX + Duration::from_secs(1)) {
            let (line, age) = (line.clone(), heard);
            self.violate("fail static", format!("lb-{at} sends `{line}` on a view of {age:?} ago"));
        }
    }

    /// The services of a HAProxy whose servers pass its check, each with the addresses of its selectable servers.
    pub(crate) fn selectable(&self, at: usize) -> BTreeMap<String, BTreeSet<SocketAddr>> {
        let haproxy = &self.balancers[at].haproxy;
        let mut selectable: BTreeMap<String, BTreeSet<SocketAddr>> = BTreeMap::new();
        let worker = haproxy.current().and_then(|id| haproxy.workers.get(&id));
        for ((backend, _), server) in worker.into_iter().flat_map(|worker| &worker.servers) {
            if server.is_selectable() {
                selectable.entry(backend.clone()).or_default().insert(server.addr);
            }
        }
        selectable
    }

    /// A command must not take a service's last server while its app is well and wants traffic.
    pub(crate) fn check_guard(
        &mut self,
        at: usize,
        before: &BTreeMap<String, BTreeSet<SocketAddr>>,
        line: &str,
    ) {
        if !line.ends_with("state maint") && !line.ends_with("state drain") {
            return;
        }
        // A restored record may say `draining`, until its owner has written again.
        if self.history_broke.is_some_and(|at| self.now.since(at) < REACHED_WITHIN) {
            return;
        }
        let after = self.selectable(at);
        for (service, addrs) in before {
            if after.contains_key(service) {
                continue;
            }
            let well = |addr: &&SocketAddr| self.app_is_well(**addr, service);
            if let Some(addr) = addrs.iter().find(well) {
                let what =
                    format!("lb-{at}: `{line}` takes the last server of {service}, at {addr}, which is well");
                self.violate("guard", what);
                return;
            }
        }
    }

    /// It listens, its check passes, and neither it nor an operator wants it out; and its registrar lives or has just died.
    fn app_is_well(&self, addr: SocketAddr, service: &str) -> bool {
        let Some(app) = self.apps.get(&addr).filter(|app| service_name(app.service) == service) else {
            return false;
        };
        let slot = &self.registrars[app.registrar];
        let stable = self.now.since(slot.changed) > REACHED_WITHIN;
        slot.process.is_some()
            && !slot.stopping
            && !self.is_overridden(slot)
            && self.now >= slot.ill_until
            && stable
            && slot.process.as_ref().is_some_and(|process| !process.member().stood_down)
    }

    /// An operator wants an instance of its name out, or did lately.
    fn is_overridden(&self, slot: &crate::world::RegistrarSlot) -> bool {
        self.registrars.iter().any(|other| {
            let same = other.service == slot.service && other.name == slot.name;
            same && (other.overridden || self.now.since(other.changed) < REACHED_WITHIN)
        })
    }

    /// A request for one service has reached another service's app.
    pub(crate) fn misrouted(&mut self, balancer: usize, service: usize, addr: SocketAddr, app: &App) {
        self.counts.failed += 1;
        if self.now.since(app.since) <= MISROUTED_MAX {
            return;
        }
        // The news may still be on its way: etcd, lb-sync, or a lease that was not missed yet.
        let slot = &self.balancers[balancer];
        let blind =
            slot.process.is_none() || self.now.since(slot.changed) < REACHED_WITHIN || !self.etcd.is_up();
        if blind || self.now.since(app.since) < self.lease_time() {
            self.mark("misrouted while the news is on its way");
            return;
        }
        let (service, other) = (service_name(service), service_name(app.service));
        self.violate("requests", format!("lb-{balancer}: a request for {service} reached {other} at {addr}"));
    }

    fn lease_time(&self) -> Duration {
        Duration::from_secs(self.options.ttl_s) + REACHED_WITHIN
    }

    /// No server took a request: right only if none could have.
    pub(crate) fn unserved(&mut self, balancer: usize, worker: u32, service: usize, tried: usize) {
        self.counts.failed += 1;
        let slot = &self.balancers[balancer];
        let was_stopped = Some(worker) != slot.haproxy.current();
        let fresh = self.now.since(slot.haproxy.started) < REACHED_WITHIN;
        let died = self.died.get(&service).is_some_and(|at| self.now.since(*at) < self.lease_time());
        if was_stopped || fresh || died || tried > 0 {
            return;
        }
        let wanted = self.registrars.iter().find(|slot| {
            slot.service == service
                && slot.app.is_some_and(|(addr, _)| self.app_is_well(addr, &service_name(service)))
                && self.now.since(slot.changed) > self.lease_time()
        });
        let Some(wanted) = wanted else { return };
        let well = slot.process.is_some() && self.now.since(slot.changed) > self.lease_time();
        let etcd = self.etcd.is_up()
            && self.history_broke.is_none_or(|at| {
                // Overrides that were in force when etcd was wiped outlive it by the bound of suspects.
                self.now.since(at) > self.lease_time() + Duration::from_secs(self.options.suspect_max_s)
            });
        if well && etcd {
            let name = wanted.name.clone();
            self.violate("requests", format!("lb-{balancer} has no server for {name}, which is well"));
        }
    }

    /// Everything has come to rest: what HAProxy has is what should be. Names the first thing that is not.
    #[must_use]
    pub fn pending(&self) -> Option<String> {
        for (at, slot) in self.registrars.iter().enumerate() {
            let Some(process) = &slot.process else {
                if slot.restart_after.is_some() {
                    return Some(format!("{} was not started again", slot.name));
                }
                continue;
            };
            let member = process.member();
            if !member.registered {
                let key = format!("/leasehold/v1/instances/{}/{}", service_name(slot.service), slot.name);
                let entry =
                    self.etcd.get(&key).map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
                return Some(format!(
                    "{} (slot {at}) is not registered: {member:?}; etcd has {entry:?}",
                    slot.name
                ));
            }
            let key = format!("/leasehold/v1/instances/{}/{}", service_name(slot.service), slot.name);
            let Some(entry) = self.etcd.get(&key) else {
                return Some(format!("{} believes that it is registered, and etcd has no key", slot.name));
            };
            let record = parse::<InstanceRecord>(&entry.value).ok();
            let stands = record.as_ref().is_some_and(|record| {
                record.owner.as_deref() == Some(&process.owner) && record.state == InstanceState::Up
            });
            if !stands {
                return Some(format!("{}: etcd has {:?}", slot.name, record));
            }
        }
        let mut wanted: BTreeSet<(String, String, SocketAddr)> = BTreeSet::new();
        for slot in self.registrars.iter().filter(|slot| slot.process.is_some()) {
            if let Some((addr, _)) = slot.app {
                wanted.insert((service_name(slot.service), slot.name.clone(), addr));
            }
        }
        for (at, slot) in self.balancers.iter().enumerate() {
            let Some(process) = &slot.process else { return Some(format!("lb-{at} was not started again")) };
            let condition = process.machine().condition(self.now);
            if !condition.view.in_sync() {
                return Some(format!("lb-{at} is out of sync"));
            }
            let Some(worker) = slot.haproxy.current().and_then(|id| slot.haproxy.workers.get(&id)) else {
                return Some(format!("lb-{at}: HAProxy was not started again"));
            };
            let has: BTreeSet<(String, String, SocketAddr)> = worker
                .servers
                .iter()
                .filter(|(_, server)| server.is_selectable())
                .map(|((backend, name), server)| (backend.clone(), name.clone(), server.addr))
                .collect();
            if has != wanted {
                let missing: Vec<_> = wanted.difference(&has).collect();
                let extra: Vec<_> = has.difference(&wanted).collect();
                return Some(format!("lb-{at}: missing {missing:?}, too many {extra:?}"));
            }
            let presence = format!("/leasehold/v1/balancers/lb-{at}");
            if self.etcd.get(&presence).is_none() {
                return Some(format!("lb-{at} has no presence"));
            }
            for (service, name, _) in &wanted {
                let key = format!("/leasehold/v1/acks/lb-{at}/{service}/{name}");
                let ack = self.etcd.get(&key).map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
                // A value that a second restored backup brought back stays until the next transition: it answers an earlier
                // record, and no leave counts it.
                let stale = self.history_broke.is_some() && ack.is_some();
                if !stale && !ack.as_ref().is_some_and(|ack| ack.contains("serving")) {
                    return Some(format!("lb-{at}: the ack of {name} is {ack:?}"));
                }
            }
        }
        None
    }

    /// The time at which everything must have come to rest.
    #[must_use]
    pub fn rest_at(quiet_ms: u64) -> Tick {
        Tick::from_ms(1_000 + quiet_ms).plus(crate::world::SETTLE)
    }
}
