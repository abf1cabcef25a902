//! What HAProxy has, as last read.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::net::SocketAddr;
use std::sync::Arc;

use registry::name::{InstanceId, InstanceName, ServiceName};
use registry::time::Tick;

use crate::scope::Scope;
use haproxy::answer::backends::Backends;
use haproxy::answer::flags::{AdminState, CheckState, OpState};
use haproxy::answer::servers_state::{ServerRow, ServersState};
use haproxy::answer::stat::{StatRow, Status};
use haproxy::route::Route;
use haproxy::{BackendId, BackendName, MapId, ServerAddr, ServerId, ServerName, ServerWeight};

/// The backends that can be a service's, and their servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// By name. A backend that has no server is here too.
    pub backends: BTreeMap<ServiceName, Backend>,
    /// The restarting maps, by the service that each is named after.
    pub restarting: BTreeMap<ServiceName, RestartingMap>,
    /// The maps of routes.
    pub routes: Vec<RoutesMap>,
}

/// Which requests go to which backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutesMap {
    /// The map's number in this HAProxy process.
    pub id: MapId,
    /// What is a route. Other keys are not ours.
    pub entries: BTreeMap<Route, String>,
}

/// The names whose clients keep their cookie while others serve them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartingMap {
    /// The map's number in this HAProxy process.
    pub id: MapId,
    /// Who is listed.
    pub names: BTreeSet<InstanceName>,
}

/// One backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// Its number in this HAProxy process; unknown while it has no server.
    pub id: Option<BackendId>,
    /// Its servers that can be an instance's, ours or not.
    pub servers: Servers,
}

/// The servers of one backend, by name.
pub type Servers = BTreeMap<InstanceName, Server>;

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its number: by it lb-sync knows its own.
    pub id: ServerId,
    /// Where it listens; `None` for what lb-sync would not have set (a host name, a unix socket).
    pub addr: Option<ServerAddr>,
    /// What was ordered.
    pub admin: AdminState,
    /// What is.
    pub op: OpState,
    /// Its share.
    pub weight: ServerWeight,
    /// Whether it is checked.
    pub check: CheckState,
    /// How far its checks have brought it, from 0 to `rise + fall - 1` ([`ServerRow::check_health`]).
    pub health: u32,
    /// What HAProxy says of its check while that finds it down; read as [`Self::sessions`] is.
    pub check_said: Option<Box<str>>,
    /// What is in flight; read only where a decision waits for it, and forgotten with the next read of the state.
    pub sessions: Option<Sessions>,
}

impl Server {
    /// Where it sends requests; `None` while it gets none.
    #[must_use]
    pub fn sends_to(&self) -> Option<SocketAddr> {
        let is_out = self.admin.is_maint() || self.op == OpState::Stopped;
        self.addr.map(SocketAddr::from).filter(|_| !is_out)
    }
}

/// A server that was touched, and is to be read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// Whose it is.
    pub id: InstanceId,
    /// The number that it has or was to get.
    pub number: ServerId,
    /// It was to be made, without a check.
    pub unchecked: bool,
}

/// What is in flight on a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sessions {
    /// Streams.
    pub current: u64,
    /// Requests in the server's own queue.
    pub queued: u64,
    /// When that was so.
    pub read_at: Tick,
}

impl Sessions {
    /// Nothing is.
    #[must_use]
    pub fn is_idle(self) -> bool {
        self.current == 0 && self.queued == 0
    }
}

impl Observed {
    /// Everything, read anew.
    #[must_use]
    pub fn read(backends: Backends, state: ServersState) -> Self {
        let mut observed = Self::default();
        for name in backends.names {
            observed.backends.extend(service(&name).map(|service| (service, Backend::default())));
        }
        observed.handle(state);
        observed
    }

    /// One backend, read anew; `None`: it is not there any more. Returns its servers as they were known before.
    pub fn read_backend(&mut self, service: &ServiceName, state: Option<ServersState>) -> Servers {
        let Some(state) = state else {
            return self.backends.remove(service).map(|backend| backend.servers).unwrap_or_default();
        };
        let before = std::mem::take(&mut self.backends.entry(service.clone()).or_default().servers);
        self.handle(state);
        before
    }

    /// What `show stat` says of a server that was touched; `None`: it is not there. False if that is not all that must be
    /// known of it: its backend is to be read as a whole.
    pub fn read_server(&mut self, touched: &Touched, row: Option<&StatRow>, read_at: Tick) -> bool {
        let Touched { id, number, unchecked } = touched;
        let Some(backend) = self.backends.get_mut(&id.service) else { return false };
        let before = backend.servers.get(&id.instance);
        let Some(row) = row else {
            backend.servers.remove(&id.instance);
            return true;
        };
        if row.server.server.as_ref() != id.instance.as_str() {
            return false; // Another server has that number.
        }
        let known = before.filter(|before| before.id == row.id).map(|before| before.check);
        // Of a new one only we can know whether a check was never wanted, or is not under way.
        let made = (*unchecked && *number == row.id).then_some(CheckState::NONE);
        let known = known.or(made);
        let (admin, op, check) = match row.status {
            Status::Up => (AdminState::READY, OpState::Running, Some(CheckState::RUNNING)),
            Status::NoCheck => (AdminState::READY, OpState::Running, known),
            Status::Maint => (AdminState::MAINT, OpState::Stopped, known),
            // Weight 0 is shown as DRAIN, too.
            Status::Drain if row.weight.get() > 0 => (AdminState::DRAIN, OpState::Running, known),
            // A server that is down may be in DRAIN as well: it is not said here.
            _ => return false,
        };
        let (Some(check), Some(addr)) = (check, row.addr.and_then(|addr| addr.try_into().ok())) else {
            return false;
        };
        let sessions = Some(Sessions { current: row.scur, queued: row.qcur, read_at });
        let (weight, health) = (row.weight, row.check_health.unwrap_or(u32::MAX));
        let check_said = None;
        let server =
            Server { id: row.id, addr: Some(addr), admin, op, weight, check, health, check_said, sessions };
        backend.servers.insert(id.instance.clone(), server);
        true
    }

    /// What is in flight on one server, and whether its check finds it up, read anew. A row of another server is no news of this one.
    pub fn read_sessions(&mut self, id: &InstanceId, row: &StatRow, read_at: Tick) {
        if let Some(server) = self.server_mut(id)
            && server.id == row.id
            && row.server.server.as_ref() == id.instance.as_str()
        {
            server.sessions = Some(Sessions { current: row.scur, queued: row.qcur, read_at });
            match row.status {
                Status::Down => {
                    (server.op, server.check_said) = (OpState::Stopped, Some(row.check_said().into()));
                }
                Status::Up => {
                    (server.op, server.check_said) = (OpState::Running, None);
                    server.health = row.check_health.unwrap_or(server.health);
                }
                _ => {}
            }
        }
    }

    /// One restarting map, read anew. Returns those who were not known to be on it, or are no longer.
    pub fn read_restarting(
        &mut self,
        service: &ServiceName,
        id: MapId,
        names: Vec<ServerName>,
    ) -> Vec<InstanceId> {
        let names: BTreeSet<InstanceName> =
            names.into_iter().filter_map(|name| name.as_ref().parse().ok()).collect();
        let before = self.restarting.insert(service.clone(), RestartingMap { id, names: names.clone() });
        let before = before.map(|map| map.names).unwrap_or_default();
        let of =
            |instance: &InstanceName| InstanceId { service: service.clone(), instance: instance.clone() };
        names.symmetric_difference(&before).map(of).collect()
    }

    /// The server of `id`.
    #[must_use]
    pub fn server(&self, id: &InstanceId) -> Option<&Server> {
        self.backends.get(&id.service)?.servers.get(&id.instance)
    }

    /// Servers that were added, changed or deleted by hand since `before` was read: by order, not by a check.
    #[must_use]
    pub fn edited_since(&self, before: &Self) -> Vec<InstanceId> {
        self.differing(before, Server::is_ordered_as)
    }

    /// The same of one server, whose backend had these `before`.
    #[must_use]
    pub fn is_edited(&self, id: &InstanceId, before: &Servers) -> bool {
        let both = self.server(id).zip(before.get(&id.instance));
        both.is_none_or(|(now, was)| !now.is_ordered_as(was))
    }

    /// The state of all servers, read anew beside all else that is known. Returns those whose server is not what it was, and of
    /// them those that were changed by order, not by a check.
    pub fn read_states(&mut self, state: ServersState) -> (BTreeSet<InstanceId>, BTreeSet<InstanceId>) {
        let names = self.backends.keys().map(|service| (service.clone(), Backend::default()));
        let mut read = Self { backends: names.collect(), ..Self::default() };
        read.handle(state);
        read.keep_sessions(self);
        let changed = read.differing(self, Server::is_as);
        let edited = read.differing(self, Server::is_ordered_as);
        for (service, backend) in read.backends {
            // One without a server tells no number.
            let id = backend.id.or_else(|| self.backends.get(&service)?.id);
            self.backends.insert(service, Backend { id, ..backend });
        }
        (changed.into_iter().collect(), edited.into_iter().collect())
    }

    /// What was read of single servers stays known as long as they are what they were `before`.
    pub fn keep_sessions(&mut self, before: &Self) {
        for (service, backend) in &before.backends {
            let Some(now) = self.backends.get_mut(service) else { continue };
            let read = backend.servers.iter().filter(|(_, server)| server.sessions.is_some());
            for (instance, was) in read {
                if let Some(server) = now.servers.get_mut(instance).filter(|server| server.is_as(was)) {
                    (server.sessions, server.check_said) = (was.sessions, was.check_said.clone());
                }
            }
        }
    }

    /// Those in one backend whose server is not what it was `before`. What is in flight is not compared.
    #[must_use]
    pub fn news_in(&self, service: &ServiceName, before: &Servers) -> Vec<InstanceId> {
        self.differing_in(service, before, Server::is_as)
    }

    /// Which instances have to be looked at, now that everything has been read anew: those whose server is not what it was
    /// `before`; all, if it is not a matter of servers alone. What is in flight is not compared: who waits for it reads it.
    #[must_use]
    pub fn news_since(&self, before: &Self) -> Scope {
        let alike = |(service, backend): (&ServiceName, &Backend)| {
            before.backends.get(service).is_some_and(|was| was.id == backend.id)
        };
        // A backend that has got its first server tells its number only then.
        let same_backends = self.backends.len() == before.backends.len()
            && self.backends.iter().filter(|(_, backend)| !backend.servers.is_empty()).all(alike)
            && self.backends.keys().all(|service| before.backends.contains_key(service));
        if !same_backends || self.restarting != before.restarting {
            return Scope::All;
        }
        Scope::Only(self.differing(before, Server::is_as).into_iter().collect())
    }

    /// Those whose server is not in both, or is not `alike` in both.
    fn differing(&self, before: &Self, alike: impl Fn(&Server, &Server) -> bool) -> Vec<InstanceId> {
        let none = Servers::new();
        let services: BTreeSet<&ServiceName> = self.backends.keys().chain(before.backends.keys()).collect();
        let of = |service: &ServiceName| {
            let was = before.backends.get(service).map_or(&none, |backend| &backend.servers);
            self.differing_in(service, was, &alike)
        };
        services.into_iter().flat_map(of).collect()
    }

    fn differing_in(
        &self,
        service: &ServiceName,
        before: &Servers,
        alike: impl Fn(&Server, &Server) -> bool,
    ) -> Vec<InstanceId> {
        let none = Servers::new();
        let now = self.backends.get(service).map_or(&none, |backend| &backend.servers);
        let of = |instance| InstanceId { service: service.clone(), instance };
        differing_keys(now, before, alike).into_iter().map(of).collect()
    }

    fn server_mut(&mut self, id: &InstanceId) -> Option<&mut Server> {
        self.backends.get_mut(&id.service)?.servers.get_mut(&id.instance)
    }

    fn handle(&mut self, state: ServersState) {
        let mut rows = state.servers.into_iter().peekable();
        while let Some(first) = rows.next() {
            // The rows of one backend stand together: its name is looked at once, not 10,000 times.
            let (name, id) = (first.server.backend.clone(), first.backend_id);
            let others = iter::from_fn(|| rows.next_if(|row| row.server.backend == name));
            let read = |row: ServerRow| {
                let server = server(&row);
                Some((InstanceName::try_from(Arc::<str>::from(row.server.server)).ok()?, server))
            };
            // Built at once, which takes less time and memory than one by one.
            let servers = iter::once(first).chain(others).filter_map(read).collect();
            if let Some(backend) = service(&name).and_then(|service| self.backends.get_mut(&service)) {
                (backend.id, backend.servers) = (Some(id), servers);
            }
        }
    }
}

impl Server {
    /// Whether it is the same but for what is in flight.
    fn is_as(&self, other: &Self) -> bool {
        let of = |it: &Self| (it.id, it.addr, it.admin, it.op, it.weight, it.check, it.health);
        of(self) == of(other)
    }

    /// Whether it is as it was ordered to be, whatever its check says.
    fn is_ordered_as(&self, other: &Self) -> bool {
        // MAINT goes before DRAIN: what a server has of both is not told by every read.
        let order = |admin: AdminState| (admin.is_maint(), !admin.is_maint() && admin.is_drain());
        let of = |it: &Self| (it.id, it.addr, order(it.admin), it.weight);
        of(self) == of(other)
    }
}

/// The keys that are not in both, or whose values are not `alike`.
fn differing_keys<K: Ord + Clone, V>(
    one: &BTreeMap<K, V>,
    other: &BTreeMap<K, V>,
    alike: impl Fn(&V, &V) -> bool,
) -> Vec<K> {
    let (mut ones, mut others) = (one.iter().peekable(), other.iter().peekable());
    let mut differing = Vec::new();
    loop {
        let order = match (ones.peek(), others.peek()) {
            (Some((one, _)), Some((other, _))) => one.cmp(other),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return differing,
        };
        let one = if order.is_le() { ones.next() } else { None };
        let other = if order.is_ge() { others.next() } else { None };
        match (one, other) {
            (Some((_, one)), Some((_, other))) if alike(one, other) => {}
            (Some((key, _)), _) | (None, Some((key, _))) => differing.push(key.clone()),
            (None, None) => {}
        }
    }
}

fn service(name: &BackendName) -> Option<ServiceName> {
    name.as_ref().parse().ok()
}

fn server(row: &ServerRow) -> Server {
    Server {
        id: row.id,
        addr: row.addr(),
        admin: row.admin,
        op: row.op,
        weight: row.weight,
        check: row.check,
        health: row.check_health,
        check_said: None,
        sessions: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use haproxy::fixtures;

    fn observed(rows: &[(&str, u32)]) -> Observed {
        let mut observed = Observed::default();
        let backend = observed.backends.entry("web".parse().unwrap()).or_default();
        for (name, admin) in rows {
            let server = Server {
                id: ServerId::try_from(10_000).unwrap(),
                addr: None,
                admin: AdminState::from_bits(*admin),
                op: OpState::Running,
                weight: ServerWeight::try_from(1).unwrap(),
                check: CheckState::from_bits(6),
                health: 2,
                check_said: None,
                sessions: None,
            };
            backend.servers.insert(name.parse().unwrap(), server);
        }
        observed
    }

    fn touched(instance: &str, number: ServerId) -> Touched {
        Touched { id: format!("web/{instance}").parse().unwrap(), number, unchecked: false }
    }

    #[test]
    fn one_row_says_the_same_as_the_whole_state_or_that_it_does_not() {
        let fixture = |name| fixtures::every(name).into_iter();
        let whole = fixture("show-servers-state").zip(fixture("show-backend"));
        for (at, ((version, state), (_, backends))) in whole.enumerate() {
            let backends = Backends::parse(&backends).unwrap();
            let whole = Observed::read(backends, ServersState::parse(&state).unwrap());
            let told = [("up", "web-3", true), ("drain", "web-2", true), ("maint", "web-6", true)];
            for (name, instance, all) in
                told.into_iter().chain([("no-check", "web-1", true), ("down", "web-4", false)])
            {
                let (_, text) = fixtures::every(&format!("show-stat-{name}")).swap_remove(at);
                let row = StatRow::parse(&text).unwrap();
                let id = format!("web/{instance}").parse().unwrap();
                let mut read = whole.clone();
                let touched = touched(instance, whole.server(&id).unwrap().id);
                assert_eq!(
                    read.read_server(&touched, row.as_ref(), Tick::from_ms(7)),
                    all,
                    "{version} {name}"
                );
                assert!(read.edited_since(&whole).is_empty(), "{version} {name}");
                let known = |observed: &Observed| {
                    let server = observed.server(&id).unwrap();
                    (server.op == OpState::Stopped, server.check.is_enabled())
                };
                assert_eq!(known(&read), known(&whole), "{version} {name}");
                assert_eq!(read.server(&id).unwrap().sessions.is_some(), all);
            }
            let mut without = whole.clone();
            let gone = touched("web-1", ServerId::try_from(10_000).unwrap());
            assert!(without.read_server(&gone, None, Tick::from_ms(7)));
            assert_eq!(without.edited_since(&whole), ["web/web-1".parse().unwrap()]);
        }
    }

    #[test]
    fn a_new_server_whose_checks_are_not_told_is_read_with_its_backend() {
        let mut observed = observed(&[]);
        let mut read = |name: &str, instance: &str, unchecked: bool| {
            let mut read = vec![];
            for (version, text) in fixtures::every(name) {
                observed.backends.values_mut().for_each(|backend| backend.servers.clear());
                let row = StatRow::parse(&text).unwrap().unwrap();
                let touched = Touched { unchecked, ..touched(instance, row.id) };
                let all = observed.read_server(&touched, Some(&row), Tick::from_ms(7));
                let check = observed.server(&touched.id).map(|server| server.check);
                assert_eq!(check.is_some(), all, "{version}");
                read.push(check);
            }
            read.dedup();
            read
        };
        assert_eq!(read("show-stat-up", "web-3", false), [Some(CheckState::RUNNING)]);
        assert_eq!(read("show-stat-up", "web-9", false), [None], "that number is another's");
        assert_eq!(read("show-stat-no-check", "web-1", false), [None]);
        assert_eq!(read("show-stat-no-check", "web-1", true), [Some(CheckState::NONE)]);
    }

    #[test]
    fn an_edit_is_an_order_not_a_check() {
        let before = observed(&[("same", 0), ("drained", 0), ("deleted", 0)]);
        let mut now = observed(&[("same", 0), ("drained", 8), ("added", 1)]);
        assert_eq!(before.news_since(&before), Scope::none());
        let edited: Vec<String> = now.edited_since(&before).iter().map(ToString::to_string).collect();
        assert_eq!(edited, ["web/added", "web/deleted", "web/drained"]);
        let backend = now.backends.get_mut("web".parse::<ServiceName>().as_ref().unwrap()).unwrap();
        backend.servers.get_mut(&"same".parse().unwrap()).unwrap().op = OpState::Stopped;
        assert_eq!(now.edited_since(&before).len(), 3, "what a check has found is no edit");
        let all = ["added", "deleted", "drained", "same"].map(|name| format!("web/{name}").parse().unwrap());
        assert_eq!(now.news_since(&before), Scope::Only(all.into()), "but it is news");
        now.backends.insert("api".parse().unwrap(), Backend::default());
        assert_eq!(now.news_since(&before), Scope::All, "a backend has come");
    }
}
