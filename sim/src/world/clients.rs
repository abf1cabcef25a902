//! Clients: an open loop of requests, with cookies, retries as HAProxy makes them, and some that take long.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Cookie, Event, RegistrarSlot, World, service_name};
use crate::haproxy::{StreamId, WorkerId};

/// Clients with a cookie of their own, per service and balancer.
const CLIENTS: u64 = 4;
/// Tries of one request on other servers (`retries 3`, `option redispatch 1`).
const TRIES: usize = 4;
/// Between two requests, at rest and for a time after an operation.
const REST: Duration = Duration::from_millis(250);
const BURST: Duration = Duration::from_millis(20);

/// A request under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    service: usize,
    addr: SocketAddr,
}

impl World {
    pub(super) fn client(&mut self, balancer: usize, service: usize) {
        let wait = if self.now < self.burst_until { BURST } else { REST };
        self.after(wait, Event::Client { balancer, service });
        let Some(worker) = self.balancers[balancer].haproxy.current() else { return };
        let client = self.draws.below(8_000, "client", CLIENTS);
        self.request(balancer, worker, service, client);
    }

    pub(super) fn kept_request(&mut self, balancer: usize, worker: WorkerId) {
        let Some(old) = self.balancers[balancer].haproxy.workers.get_mut(&worker) else { return };
        old.kept_connections = old.kept_connections.saturating_sub(1);
        let services = self.options.services;
        let service = usize::try_from(self.draws.below(8_001, "kept service", services)).unwrap_or(0);
        self.mark("a last request on an old worker");
        self.request(balancer, worker, service, 0);
        self.workers_may_have_ended(balancer);
    }

    fn request(&mut self, balancer: usize, worker: WorkerId, service: usize, client: u64) {
        self.counts.requests += 1;
        let backend = service_name(service);
        let mut tried = BTreeSet::new();
        let cookie =
            self.balancers[balancer].cookies.get(&(service, client)).map(|cookie| cookie.server.clone());
        for _ in 0..TRIES {
            let choice = self.draws.next(8_002, "server");
            let haproxy = &self.balancers[balancer].haproxy;
            let Some((name, addr)) = haproxy.pick(worker, &backend, cookie.as_deref(), &tried, choice) else {
                break;
            };
            let app = self.apps.get(&addr).filter(|app| self.now >= app.since).cloned();
            let Some(app) = app else {
                tried.insert(name);
                continue;
            };
            let Some(registrar) = self.registrar_at(addr, service) else {
                self.misrouted(balancer, service, addr, &app);
                return;
            };
            self.check_overridden(balancer, addr, registrar);
            let new = Cookie { server: name.clone(), addr, served: self.now };
            self.set_cookie(balancer, worker, (service, client), new);
            let takes = self.duration();
            let opened = self.balancers[balancer].haproxy.open(worker, (backend, name), addr);
            let Some(stream) = opened else { return };
            self.requests.insert((balancer, worker, stream), Request { service, addr });
            self.after(takes, Event::RequestEnds { balancer, worker, stream });
            return;
        }
        self.unserved(balancer, worker, service, tried.len());
    }

    /// The answer sets the client's cookie, unless it is served in place of one that is restarting: then it keeps its own.
    fn set_cookie(&mut self, balancer: usize, worker: WorkerId, client: (usize, u64), new: Cookie) {
        let backend = service_name(client.0);
        let slot = &mut self.balancers[balancer];
        let before = slot.cookies.get(&client).filter(|before| before.server != new.server).cloned();
        if let Some(before) = &before
            && slot.haproxy.is_restarting(worker, &backend, &before.server)
        {
            self.mark("a client keeps the cookie of an instance that is away");
            return;
        }
        slot.cookies.insert(client, new);
        if let Some(before) = before {
            self.check_affinity(balancer, worker, client.0, &before);
        }
    }

    /// Most take some milliseconds, one in a hundred some seconds.
    fn duration(&mut self) -> Duration {
        let draw = self.draws.next(8_003, "takes");
        Duration::from_millis(match draw % 100 {
            0 => 500 + (draw >> 8) % 2_500,
            1..=9 => 30 + (draw >> 8) % 470,
            _ => 1 + (draw >> 8) % 30,
        })
    }

    pub(super) fn request_ends(&mut self, balancer: usize, worker: WorkerId, stream: StreamId) {
        if self.requests.remove(&(balancer, worker, stream)).is_some() {
            self.balancers[balancer].haproxy.close(worker, stream);
            self.workers_may_have_ended(balancer);
        }
    }

    /// HAProxy has cut it, by `shutdown sessions`: its limit has passed.
    pub(super) fn request_cut(&mut self, balancer: usize, worker: WorkerId, stream: StreamId) {
        if self.requests.remove(&(balancer, worker, stream)).is_some() {
            self.counts.failed += 1;
            self.mark("cut at its limit");
        }
    }

    /// The app at `addr` has ended under them.
    pub(super) fn cut_requests(&mut self, addr: SocketAddr, registrar: usize, fault: bool) {
        let RegistrarSlot { service, shares, .. } = self.registrars[registrar];
        // The app lives on where it is in another service as well.
        let is_cut =
            |request: &Request| request.addr == addr && (shares.is_none() || request.service == service);
        let cut: Vec<_> =
            self.requests.iter().filter(|(_, request)| is_cut(request)).map(|(key, _)| *key).collect();
        // Before its first record stands, it cannot wait for the servers of an earlier life at its address.
        let has_stood = self.registrars[registrar].stood.is_some();
        let stood_down =
            self.registrars[registrar].process.as_ref().is_some_and(|process| process.member().stood_down);
        let is_own = |key: &&(usize, WorkerId, StreamId)| self.requests[*key].service == service;
        let unexcused = cut
            .iter()
            .filter(is_own)
            .filter(|key| !stood_down && !self.is_excused(key.0, key.1, registrar))
            .count();
        for key in &cut {
            self.requests.remove(key);
            self.balancers[key.0].haproxy.close(key.1, key.2);
            self.counts.failed += 1;
            self.workers_may_have_ended(key.0);
        }
        if unexcused > 0 && has_stood && !fault && !self.registrars[registrar].timed_out {
            let name = self.registrars[registrar].name.clone();
            self.violate("requests", format!("{unexcused} requests to {name} were cut by its orderly end"));
        }
    }
}
