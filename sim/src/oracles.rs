//! Oracles: what must hold after each event, and at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use registry::name::InstanceId;
use registry::record::{AckRecord, AckState, BalancerRecord, InstanceRecord, InstanceState, parse};
use registry::time::Tick;

use crate::balancer::RESTART_GAP;
use crate::world::{App, Cookie, Process, RegistrarSlot, World, balancer_host, service_name};

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
/// A process that etcd can be reached by again is in sync within this: a call that is given up, a wait, a list.
pub(crate) const BACK_WITHIN: Duration = Duration::from_secs(9);
/// An address may be another app's for so long before the news is there.
const MISROUTED_MAX: Duration = Duration::from_millis(100);
/// A change of a balancer's presence reaches every registrar within this.
const NEWS_MAX: Duration = Duration::from_millis(50);
/// Presence is looked at every 500 ms.
const PRESENCE_LOOKED_AT: Duration = Duration::from_millis(500);
/// A service that a presence has named for longer is known to registrars.
const ANNOUNCED_WITHIN: Duration = Duration::from_millis(600);
/// Nothing that takes traffic away is sent on a view that is older.
const VIEW_AGE_MAX: Duration = Duration::from_secs(10);
/// A process that was paused has taken in what waited for it.
const WAKES_WITHIN: Duration = Duration::from_millis(5);
/// A call that is lost is given up after so long (`registry::session`).
const CALL_MAX: Duration = Duration::from_secs(3);
/// An operator's doing with an instance, and its answer to that, reach a lb-sync whose watches lag.
const ORDER_REACHES_WITHIN: Duration = Duration::from_secs(15);
/// A leave takes no longer than this, with nothing in its way: sticky clients, requests in flight, a vanished balancer.
const LEFT_WITHIN: Duration = Duration::from_secs(30);
/// Two registrars may believe for so long that they have a name.
const NAME_SHARED_MAX: Duration = Duration::from_secs(8);

impl World {
    /// An app is told to stop: no worker of any HAProxy may have a selectable server at its endpoint, or a stream to it,
    /// unless the leave ended by its deadline.
    pub(crate) fn honest_leave(&mut self, at: usize) {
        let slot = &self.registrars[at];
        let Some((addr, _)) = slot.app else { return };
        if slot.timed_out {
            return;
        }
        if slot.stood.is_none() {
            self.mark("stopped before its first record stood");
            return;
        }
        let (name, service) = (slot.name.clone(), service_name(slot.service));
        // Another registrar has its name: its requests in flight have had their time.
        if slot.process.as_ref().is_some_and(|process| process.member().stood_down) {
            return;
        }
        for balancer in 0..self.balancers.len() {
            if self.is_long_gone(balancer, Some(at)) || self.is_unknown_to(balancer, at) {
                self.mark("left while a balancer was long gone");
                continue;
            }
            if let Some(what) = self.still_sends_to(balancer, addr, &service) {
                self.violate("honest leave", format!("{name} at {addr} stops, and lb-{balancer} {what}"));
                return;
            }
        }
    }

    /// A leave ended by its deadline: something must have been in its way, and not long ago.
    pub(crate) fn left_at_deadline(&mut self, at: usize) {
        let long_ago = |at: Tick| self.now.since(at) > LEFT_WITHIN;
        let slot = &self.registrars[at];
        let is_quiet =
            [self.etcd_came, slot.changed, slot.network.troubled_until()].into_iter().all(long_ago)
                && self.etcd.is_up()
                && self.balancers.iter().all(|slot| {
                    let runs = slot.process.is_some() && slot.haproxy.current().is_some();
                    let troubled = [slot.changed, slot.network.troubled_until(), slot.hung_until];
                    runs && troubled.into_iter().all(long_ago)
                });
        if is_quiet {
            let what = format!("{} left at its deadline, and nothing was in the way", slot.name);
            self.violate("leaves", what);
        }
    }

    /// A registrar that was started while it was absent does not know of it; nor one that was started while etcd was away, and
    /// then came back without the balancer; nor of a service that its HAProxy has come to serve by another configuration.
    fn is_unknown_to(&self, balancer: usize, registrar: usize) -> bool {
        // It asks who is there once its first record stands, and may have to ask again.
        let slot = &self.registrars[registrar];
        let started = slot.started.max(slot.stood.unwrap_or_default());
        let asked =
            if slot.network.troubled_until() < slot.started { started } else { started.plus(CALL_MAX) };
        let absent = self.balancers[balancer].absent_since;
        let never_seen = asked.plus(NEWS_MAX) >= self.etcd_went
            && self.history_broke.is_some_and(|at| at >= self.etcd_went);
        // With another configuration HAProxy serves what its files have before lb-sync has said so: it may be paused.
        let slot = &self.balancers[balancer];
        let service = service_name(self.registrars[registrar].service);
        let is_announced =
            slot.announced.get(&service).is_some_and(|at| self.now.since(*at) > ANNOUNCED_WITHIN);
        let is_new_to_it = slot.is_reconfigured && !is_announced;
        // Its presence was lost on the way.
        if self.now < self.registrars[registrar].network.complete_at() {
            return true;
        }
        // Of two of one name, one came back under the name of the other, which is gone: leaves wait for a name.
        if self.options.twins == 1 && balancer < 2 && absent.is_some() {
            return true;
        }
        absent.is_some_and(|since| asked.plus(PRESENCE_LOOKED_AT) >= since) || never_seen || is_new_to_it
    }

    /// It has been absent for longer than leaves wait for it, as far as the one that leaves can know.
    fn is_long_gone(&self, balancer: usize, registrar: Option<usize>) -> bool {
        let linger = Duration::from_secs(self.options.ttl_s) * 3 / 2;
        let slot = &self.balancers[balancer];
        // Presence is looked at every 500 ms.
        let is_long = |since: Tick, until: Tick| until.since(since) + Duration::from_millis(600) >= linger;
        // Its return is news to a leave that has just ended.
        let late = registrar.map(|at| self.registrars[at].network.late_still(self.now));
        let news = NEWS_MAX + late.unwrap_or_default();
        // One that is cut off learns of it when it no longer is.
        let silent = registrar.map(|at| self.registrars[at].network.silent_until()).unwrap_or_default();
        let known_from = |at: Tick| at.max(silent);
        let has_just_returned = slot
            .returned
            .is_some_and(|(since, at)| is_long(since, at) && self.now < known_from(at).plus(news));
        slot.absent_since.is_some_and(|since| is_long(since, self.now)) || has_just_returned
    }

    /// A request through this worker may be cut by an orderly end: its balancer was gone for longer than leaves wait, or the
    /// worker was replaced longer ago than requests may take.
    pub(crate) fn is_excused(&self, balancer: usize, worker: u32, registrar: usize) -> bool {
        let inflight = Duration::from_secs(self.options.inflight_s.into());
        let worker = self.balancers[balancer].haproxy.workers.get(&worker);
        let is_past_limit =
            worker.is_some_and(|worker| worker.stopping && self.now.since(worker.stopped_at) >= inflight);
        is_past_limit
            || self.is_long_gone(balancer, Some(registrar))
            || self.is_unknown_to(balancer, registrar)
    }

    /// Remembers since when each balancer has no presence.
    pub(crate) fn watch_presence(&mut self) {
        for at in 0..self.balancers.len() {
            let record = self.presence_of(at).map(|(_, record)| record);
            let (now, present, slot) = (self.now, record.is_some(), &mut self.balancers[at]);
            // What was announced last counts on while there is no presence.
            if let Some(BalancerRecord { services, .. }) = record {
                let before = std::mem::take(&mut slot.announced);
                let since = |service: String| (before.get(&service).copied().unwrap_or(now), service);
                let announced = services.iter().map(|service| since(service.to_string()));
                slot.announced = announced.map(|(at, service)| (service, at)).collect();
            }
            if !present {
                // What was back only while etcd said nothing was not seen to be.
                let unseen = slot.returned.filter(|(_, at)| {
                    *at >= self.etcd_went && now.since(self.etcd_came) < Duration::from_secs(1)
                });
                slot.absent_since.get_or_insert(unseen.map_or(self.now, |(since, _)| since));
            } else if let Some(since) = slot.absent_since.take() {
                slot.returned = Some((since, self.now));
            }
        }
    }

    /// The name under which a balancer's presence stands: another's may have the one that it was given.
    pub(crate) fn balancer_name(&self, at: usize) -> Option<String> {
        self.presence_of(at).map(|(name, _)| name)
    }

    fn presence_of(&self, at: usize) -> Option<(String, BalancerRecord)> {
        let (prefix, host) = ("/leasehold/v1/balancers/", balancer_host(at));
        let mut present = self.etcd.below(prefix).filter_map(|(key, entry)| {
            let record = parse::<BalancerRecord>(&entry.value).ok()?;
            Some((key.strip_prefix(prefix)?.to_owned(), record))
        });
        present.find(|(_, record)| record.host == host)
    }

    /// What a balancer still sends to `addr`, which `service` is about to leave: another service may have it, too.
    fn still_sends_to(&self, balancer: usize, addr: SocketAddr, service: &str) -> Option<String> {
        let haproxy = &self.balancers[balancer].haproxy;
        // Who registers another's app beside it leaves the app, and its server in the other service, as they are.
        let is_beside = self.registrars.iter().any(|slot| {
            service_name(slot.service) == service && slot.shares.is_some_and(|(at, _)| at == addr)
        });
        // Its app may have ended, and be about to be started again.
        let is_registered_in = |other: usize| {
            let mut slots =
                self.registrars.iter().filter(|slot| slot.service == other && slot.process.is_some());
            slots.any(|slot| slot.shares.is_some_and(|(at, _)| at == addr))
        };
        let others: BTreeSet<String> = (0..usize::try_from(self.options.services).unwrap_or(1))
            .filter(|other| {
                is_beside || self.registrar_at(addr, *other).is_some() || is_registered_in(*other)
            })
            .map(service_name)
            .filter(|other| other != service)
            .collect();
        for (id, worker) in &haproxy.workers {
            let which = if Some(*id) == haproxy.current() { "its worker" } else { "an old worker of it" };
            // An old worker without kept connections gets no new requests.
            let takes = !worker.stopping || worker.kept_connections > 0;
            let selectable = worker
                .servers
                .iter()
                .filter(|(path, _)| !others.contains(&path.0))
                .find(|(_, server)| server.addr == addr && server.is_selectable());
            if let Some((path, _)) = selectable.filter(|_| takes) {
                return Some(format!("has it selectable as {}/{} ({which})", path.0, path.1));
            }
            let inflight = Duration::from_secs(self.options.inflight_s.into());
            let is_past_limit = worker.stopping && self.now.since(worker.stopped_at) >= inflight;
            // Of a server that was moved those in flight have had their time: they are told from those to its new address by none.
            let was_moved = |server: &crate::haproxy::Server| {
                server.addr != addr && self.now.since(server.moved_at) >= inflight
            };
            let mut streams = worker.streams.values().filter(|stream| {
                !others.contains(&stream.server.0)
                    && !worker.servers.get(&stream.server).is_some_and(was_moved)
            });
            if !is_past_limit && streams.any(|stream| stream.addr == addr) {
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
        let is = |slot: &&RegistrarSlot| slot.process.as_ref().is_some_and(|process| process.owner == owner);
        let of = |slot: &RegistrarSlot| Some((slot.app?.0, service_name(slot.service)));
        let Some((addr, service)) = self.registrars.iter().find(is).and_then(of) else { return };
        if let Some(what) = self.still_sends_to(at, addr, &service) {
            self.violate("honest ack", format!("lb-{at} says that {id} is drained, and {what}"));
        }
    }

    /// No ack says for long that an instance serves which HAProxy's check finds down.
    pub(crate) fn check_serving(&mut self) {
        let settled = |at: Tick| self.now.since(at) > BACK_WITHIN;
        if !self.etcd.is_up()
            || self.etcd.is_full()
            || !settled(self.etcd_came)
            || self.history_broke.is_some()
        {
            return;
        }
        let mut wrong = None;
        for (at, slot) in self.balancers.iter().enumerate() {
            let troubled =
                [slot.changed, slot.network.troubled_until(), slot.hung_until, slot.haproxy.started];
            let is_well =
                slot.process.is_some() && slot.paused_until.is_none() && troubled.into_iter().all(settled);
            let worker =
                slot.haproxy.current().and_then(|id| slot.haproxy.workers.get(&id)).filter(|_| is_well);
            let (Some(worker), Some(name)) = (worker, self.balancer_name(at)) else { continue };
            let down = worker.servers.iter().filter(|(_, server)| {
                server.down && !server.maint && self.now.since(server.down_since) > REACHED_WITHIN
            });
            for ((service, instance), _) in down {
                let key = format!("/leasehold/v1/acks/{name}/{service}/{instance}");
                let ack = self.etcd.get(&key).and_then(|entry| parse::<AckRecord>(&entry.value).ok());
                if ack.is_some_and(|ack| ack.state == AckState::Serving) {
                    wrong = Some(format!("lb-{at} says that {instance} serves, and HAProxy has it down"));
                }
            }
        }
        if let Some(what) = wrong {
            self.violate("honest ack", what);
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
        let changes = |line: &&String| !line.starts_with("show ");
        if self.at_rest
            && let Some(line) = lines.iter().find(changes)
        {
            self.violate("rest", format!("lb-{at} sends `{line}`, and nothing has happened"));
            return;
        }
        let Some(line) = lines.iter().find(takes) else { return };
        let Some(process) = &self.balancers[at].process else { return };
        let condition = process.machine().condition(self.now);
        let heard = condition.view.heard().map(|heard| self.now.since(heard));
        if !condition.view.in_sync() || heard.is_none_or(|age| age > VIEW_AGE_MAX + Duration::from_secs(1)) {
            let (line, age) = (line.clone(), heard);
            self.violate("fail static", format!("lb-{at} sends `{line}` on a view of {age:?} ago"));
        }
    }

    /// No process believes in a lease that etcd has ended. One that is paused cannot know; one whose app is gone revokes it.
    pub(crate) fn check_leases(&mut self) {
        let now = self.now;
        let runs = |process: Process, paused: Option<Tick>, suspended_for: Duration| {
            let resumed = self.resumed.get(&process).copied().unwrap_or_default();
            suspended_for.is_zero() && paused.is_none() && now > resumed.plus(WAKES_WITHIN)
        };
        let registrars = self.registrars.iter().enumerate().filter(|(at, slot)| {
            runs(Process::Registrar(*at), slot.paused_until, slot.suspended_for) && slot.app.is_some()
        });
        let registrars =
            registrars.filter_map(|(_, slot)| Some((slot.name.clone(), &slot.process.as_ref()?.link)));
        let balancers = self
            .balancers
            .iter()
            .enumerate()
            .filter(|(at, slot)| runs(Process::Balancer(*at), slot.paused_until, slot.suspended_for));
        let balancers =
            balancers.filter_map(|(at, slot)| Some((format!("lb-{at}"), &slot.process.as_ref()?.link)));
        let wrong = registrars.chain(balancers).find_map(|(who, link)| {
            let lease = link.lease.status().lease?;
            self.etcd
                .has_expired(lease)
                .then(|| format!("{who} believes in lease {lease}, which has expired"))
        });
        if let Some(what) = wrong {
            self.violate("leases", what);
        }
    }

    /// At most one registrar of a name believes for long that it is registered.
    pub(crate) fn check_names(&mut self) {
        let mut holders: BTreeMap<(usize, &str), usize> = BTreeMap::new();
        for slot in &self.registrars {
            let is_current = slot.paused_until.is_none()
                && slot.network.troubled_until().max(slot.network.complete_at()) < self.now;
            let registered = slot.process.as_ref().is_some_and(|process| process.member().registered);
            if is_current && registered {
                *holders.entry((slot.service, &slot.name)).or_default() += 1;
            }
        }
        let shared = holders.into_iter().find(|(_, count)| *count > 1).map(|((_, name), _)| name.to_owned());
        let since = shared.as_ref().map(|_| self.name_shared_since.unwrap_or(self.now));
        self.name_shared_since = since.filter(|_| self.etcd.is_up());
        let is_long = self.name_shared_since.is_some_and(|since| self.now.since(since) > NAME_SHARED_MAX);
        if let Some(name) = shared.filter(|_| is_long) {
            self.violate(
                "names",
                format!("two registrars believe for {NAME_SHARED_MAX:?} that they are {name}"),
            );
        }
    }

    /// HAProxy refuses nothing, but to delete a server that has a connection still.
    pub(crate) fn check_refusal(&mut self, at: usize, refused: Option<String>) {
        // What an operator deleted by hand, or a backend that a new configuration lacks, is met once.
        let edited_until = self.balancers[at].edited_until;
        let is_edited = edited_until.is_some_and(|until| self.now.since(until) < REACHED_WITHIN);
        if let Some(said) = refused.filter(|said| said != "StillHasConnections" && !is_edited) {
            self.violate("refused", format!("lb-{at}: HAProxy says {said}"));
        }
    }

    /// An id is never given to another instance than the one that had it.
    pub(crate) fn check_id(&mut self, at: usize, line: &str) {
        let mut words = line.split_whitespace();
        if (words.next(), words.next()) != (Some("add"), Some("server")) {
            return;
        }
        let Some((backend, name)) = words.next().and_then(|path| path.split_once('/')) else { return };
        let Some(id) = words.skip_while(|word| *word != "id").nth(1) else { return };
        let key = (backend.to_owned(), id.to_owned());
        let had = self.balancers[at].ids.insert(key, name.to_owned());
        if let Some(had) = had.filter(|had| had != name) {
            self.violate("ids", format!("lb-{at}: id {id} of {backend}/{had} is given to {name}"));
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
        // An instance whose return was lost on the way is a suspect to the end. What was changed by hand is found by an audit.
        let lb = &self.balancers[at];
        if self.now < lb.network.complete_at() || lb.edited_until.is_some_and(|until| self.now < until) {
            return;
        }
        // Sent long ago.
        if self.now.since(lb.hung_until) < REACHED_WITHIN {
            return;
        }
        // A restored record may say `draining`, until its owner has written again.
        if self.history_broke.is_some_and(|at| self.now.since(at) < REACHED_WITHIN) {
            return;
        }
        let after = self.selectable(at);
        for (service, addrs) in before {
            // What HAProxy has just found down was one of those that are left when this was decided.
            if after.contains_key(service) || self.has_just_found_down(at, service) {
                continue;
            }
            let well = |addr: &&SocketAddr| self.app_wants_traffic(**addr, service);
            if let Some(addr) = addrs.iter().find(well) {
                let what =
                    format!("lb-{at}: `{line}` takes the last server of {service}, at {addr}, which is well");
                self.violate("guard", what);
                return;
            }
        }
    }

    fn has_just_found_down(&self, at: usize, service: &str) -> bool {
        let haproxy = &self.balancers[at].haproxy;
        let worker = haproxy.current().and_then(|id| haproxy.workers.get(&id));
        worker.into_iter().flat_map(|worker| &worker.servers).any(|((backend, _), server)| {
            backend == service && server.down && self.now.since(server.down_since) < REACHED_WITHIN
        })
    }

    /// It listens, its check passes, and neither it nor an operator wants it out, whatever has become of its registrar; and
    /// no other registrar has its name.
    fn app_wants_traffic(&self, addr: SocketAddr, service: &str) -> bool {
        let Some(app) = self.apps.get(&addr).filter(|app| service_name(app.service) == service) else {
            return false;
        };
        let slot = &self.registrars[app.registrar];
        let same_name = |other: &&RegistrarSlot| other.service == slot.service && other.name == slot.name;
        self.now.since(app.since) > REACHED_WITHIN
            && self.now.since(slot.ill_until) > REACHED_WITHIN
            && !slot.stopping
            && !self.is_overridden(slot)
            && !self.has_kept_order(slot)
            && self.now.since(slot.ordered) > ORDER_REACHES_WITHIN
            && !self.is_or_was_shared(addr)
            && !self.is_down_by_its_record(slot)
            && self.registrars.iter().filter(same_name).count() == 1
    }

    /// What its registrar wrote last says that the app is not well: it may not have been able to write since.
    fn is_down_by_its_record(&self, slot: &RegistrarSlot) -> bool {
        let key = format!("/leasehold/v1/instances/{}/{}", service_name(slot.service), slot.name);
        let record = self.etcd.get(&key).and_then(|entry| parse::<InstanceRecord>(&entry.value).ok());
        record.is_some_and(|record| record.state == InstanceState::Down)
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
            && self.now.since(slot.ill_until) > REACHED_WITHIN
            && stable
            && slot.process.as_ref().is_some_and(|process| !process.member().stood_down)
    }

    /// An operator wants an instance of its name out, or did lately.
    fn is_overridden(&self, slot: &RegistrarSlot) -> bool {
        self.registrars.iter().any(|other| {
            let same = other.service == slot.service && other.name == slot.name;
            same && (other.overridden || self.now.since(other.changed) < REACHED_WITHIN)
        })
    }

    /// Its address was or is registered in another service as well: one of the two gives way once its lease has missed a beat.
    fn is_or_was_shared(&self, addr: SocketAddr) -> bool {
        self.registrars.iter().any(|slot| slot.shares.is_some_and(|(at, _)| at == addr))
    }

    /// An operator's order may be in force that another history of etcd lacks, and that was lifted there unseen.
    fn has_kept_order(&self, slot: &RegistrarSlot) -> bool {
        self.history_broke.is_some() && slot.ordered != Tick::default()
    }

    /// A registrar stands down only for another one of its name. After two new histories (a wipe, and then a backup of before it)
    /// revisions say nothing: it does so until the lease of the restored record ends.
    pub(crate) fn stood_down(&mut self, at: usize) {
        let slot = &self.registrars[at];
        let is_rival = |other: &&RegistrarSlot| other.service == slot.service && other.name == slot.name;
        if self.etcd.epoch() < 2 && self.registrars.iter().filter(is_rival).count() == 1 {
            let what = format!("{} stands down, and there is no other registrar of its name", slot.name);
            self.violate("names", what);
        }
    }

    /// A request reaches an instance that an operator has taken out.
    pub(crate) fn check_overridden(&mut self, balancer: usize, addr: SocketAddr, registrar: usize) {
        let (slot, lb) = (&self.registrars[registrar], &self.balancers[balancer]);
        if !slot.overridden {
            return;
        }
        let settled = |since: Tick| self.now.since(since) > REACHED_WITHIN;
        let is_back = |since: Tick| self.now.since(since) > BACK_WITHIN;
        let has_etcd = self.etcd.is_up() && is_back(self.etcd_came) && is_back(lb.network.troubled_until());
        // Carried out before etcd went away, and nothing has happened to the balancer since.
        let is_out = self.etcd_went.since(slot.changed) > REACHED_WITHIN
            && lb.changed.max(lb.network.troubled_until()) <= slot.changed;
        let knows = lb.process.is_some() && settled(lb.changed) && (has_etcd || is_out);
        // One that another history of etcd lacks ends where its revision has passed the one that was known: that cannot be told
        // from an operator who lifts it.
        let id = format!("{}/{}", service_name(slot.service), slot.name).parse::<InstanceId>().ok();
        let view = lb.process.as_ref().map(|process| process.machine().condition(self.now).view);
        let is_known = view.zip(id).is_some_and(|(view, id)| view.override_of(&id).is_some());
        let kept = self.history_broke.is_none() || is_known;
        if settled(slot.changed) && knows && kept {
            let what = format!(
                "lb-{balancer} sends a request to {} at {addr}, which an operator took out",
                slot.name
            );
            self.violate("overrides", what);
        }
    }

    /// A request for one service has reached another service's app.
    pub(crate) fn misrouted(&mut self, balancer: usize, service: usize, addr: SocketAddr, app: &App) {
        self.counts.failed += 1;
        let since = self.unshared.get(&addr).copied().unwrap_or_default().max(app.since);
        if self.now.since(since) <= MISROUTED_MAX {
            return;
        }
        // The news may still be on its way: etcd, lb-sync, or a lease that was not missed yet.
        let slot = &self.balancers[balancer];
        let blind = slot.process.is_none()
            || self.now.since(slot.changed) < REACHED_WITHIN
            || !self.etcd.is_up()
            || self.now.since(self.etcd_came) < BACK_WITHIN;
        // A restored backup has what was registered there then, under a lease that has its whole time again.
        let is_restored = self.history_broke.is_some_and(|at| self.now.since(at) < self.lease_time());
        if blind || is_restored || self.now.since(since) < self.lease_time() {
            self.mark("misrouted while the news is on its way");
            return;
        }
        let (service, other) = (service_name(service), service_name(app.service));
        self.violate("requests", format!("lb-{balancer}: a request for {service} reached {other} at {addr}"));
    }

    fn lease_time(&self) -> Duration {
        Duration::from_secs(self.options.ttl_s) + REACHED_WITHIN
    }

    /// A client got another cookie. One whose instance is away, and may be about to return, keeps its own for `--restart-gap`.
    pub(crate) fn check_affinity(&mut self, balancer: usize, worker: u32, service: usize, before: &Cookie) {
        let Cookie { server, addr, served } = before;
        let slot = &self.balancers[balancer];
        let long_ago = |at: Tick| self.now.since(at) > REACHED_WITHIN;
        let path = (service_name(service), server.clone());
        let state = slot.haproxy.workers.get(&worker).map(|worker| worker.servers.get(&path));
        let is_away = state.is_some_and(|server| server.is_none_or(|server| server.maint));
        let lb_is_well = slot.process.is_some()
            && slot.paused_until.is_none()
            && self.options.files == 1
            && Some(worker) == slot.haproxy.current()
            && [slot.changed, slot.network.troubled_until(), slot.haproxy.started].into_iter().all(long_ago)
            && self.etcd.is_up()
            && long_ago(self.etcd_came)
            && self.history_broke.is_none();
        // Whether it left in order, by itself or by an operator, or its address is another's.
        let mut of_name =
            self.registrars.iter().filter(|slot| slot.service == service && slot.name == *server);
        let Some(instance) = of_name.next().filter(|_| of_name.next().is_none()) else { return };
        let is_ended = instance.stopping
            || instance.overridden
            || self.now.since(instance.ordered) < RESTART_GAP
            || self.given_to.get(addr).is_none_or(|to| self.registrars[*to].name != *server);
        let gap = RESTART_GAP.saturating_sub(REACHED_WITHIN);
        if is_away && lb_is_well && !is_ended && self.now.since(*served) < gap {
            let what = format!("lb-{balancer}: a client of {server}, which is away, has lost its cookie");
            self.violate("affinity", what);
        }
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
                && self.now.since(slot.changed.max(slot.network.troubled_until())) > self.lease_time()
        });
        let Some(wanted) = wanted else { return };
        let long_ago = |at: Tick| self.now.since(at) > self.lease_time();
        let runs = slot.process.is_some() && slot.paused_until.is_none();
        let well = runs && long_ago(slot.changed) && long_ago(slot.network.troubled_until());
        let etcd = self.etcd.is_up()
            && !self.etcd.is_full()
            && self.now.since(self.etcd_came) > self.lease_time()
            && self.history_broke.is_none_or(|at| {
                // Overrides that were in force when etcd was wiped outlive it by the bound of suspects.
                self.now.since(at.max(slot.changed))
                    > self.lease_time() + Duration::from_secs(self.options.suspect_max_s)
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
            if let Some((backend, names)) = worker.restarting.iter().find(|(_, names)| !names.is_empty()) {
                return Some(format!("lb-{at} waits for {names:?} of {backend} to return"));
            }
            let is_wanted = |(backend, name): &&(String, String)| {
                wanted.iter().any(|(service, instance, _)| service == backend && instance == name)
            };
            if let Some((backend, name)) = worker.servers.keys().find(|path| !is_wanted(path)) {
                return Some(format!("lb-{at} still has a server {backend}/{name}"));
            }
            let Some(balancer) = self.balancer_name(at) else {
                return Some(format!("lb-{at} has no presence"));
            };
            if let Some(suspect) = condition.view.suspects().next() {
                return Some(format!("lb-{at}: {suspect} is still a suspect"));
            }
            for (service, name, _) in &wanted {
                let key = format!("/leasehold/v1/acks/{balancer}/{service}/{name}");
                let ack = self.etcd.get(&key).map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
                // A value that a restored backup brought back, whose revision has passed the one that was known, stays until the next transition: it answers an earlier
                // record, and no leave counts it.
                let stale = self.history_broke.is_some() && ack.is_some();
                if !stale && !ack.as_ref().is_some_and(|ack| ack.contains("serving")) {
                    return Some(format!("lb-{at}: the ack of {name} is {ack:?}"));
                }
            }
        }
        None
    }

    /// Nothing has happened for a while to any process or its surroundings, and lb-sync has read all of HAProxy since.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let long_ago = |at: Tick| self.now.since(at) > REACHED_WITHIN;
        self.registrars.iter().all(|slot| long_ago(slot.changed) && long_ago(slot.network.troubled_until()))
            && self
                .balancers
                .iter()
                .all(|slot| long_ago(slot.changed) && long_ago(slot.network.troubled_until()))
            && long_ago(self.etcd_came)
            // Overrides that the new history lacks have ended.
            && self.balancers.iter().all(|slot| {
                let kept = Duration::from_secs(self.options.suspect_max_s) + BACK_WITHIN;
                self.history_broke.is_none_or(|at| self.now.since(at.max(slot.changed)) > kept)
            })
    }

    /// The beginning of a run.
    #[must_use]
    pub const fn begun() -> Tick {
        Tick::from_ms(1_000)
    }

    /// The time at which everything must have come to rest, after the last operation is over.
    #[must_use]
    pub fn rest_at(over_at_ms: u64) -> Tick {
        Self::begun().plus(Duration::from_millis(over_at_ms)).plus(crate::world::SETTLE)
    }
}
