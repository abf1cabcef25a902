//! What HAProxy has, as last read.

use std::collections::{BTreeMap, BTreeSet};

use registry::name::{InstanceId, InstanceName, ServiceName};
use registry::time::Tick;

use crate::haproxy::answer::backends::Backends;
use crate::haproxy::answer::flags::{AdminState, CheckState, OpState};
use crate::haproxy::answer::servers_state::{ServerRow, ServersState};
use crate::haproxy::answer::stat::{StatRow, Status};
use crate::haproxy::{BackendId, BackendName, MapId, ServerAddr, ServerId, ServerName, ServerWeight};

/// The backends that can be a service's, and their servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// By name. A backend that has no server is here too.
    pub backends: BTreeMap<ServiceName, Backend>,
    /// The restarting maps, by the service that each is named after.
    pub restarting: BTreeMap<ServiceName, RestartingMap>,
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
    pub servers: BTreeMap<InstanceName, Server>,
}

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
    /// What is in flight; read only where a decision waits for it, and forgotten with the next read of the state.
    pub sessions: Option<Sessions>,
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
        observed.take_in(state);
        observed
    }

    /// One backend, read anew; `None`: it is not there any more.
    pub fn read_backend(&mut self, service: &ServiceName, state: Option<ServersState>) {
        match state {
            None => {
                self.backends.remove(service);
            }
            Some(state) => {
                let backend = self.backends.entry(service.clone()).or_default();
                backend.servers.clear();
                self.take_in(state);
            }
        }
    }

    /// What is in flight on one server, and whether its check finds it up, read anew. A row of another server is no news of this one.
    pub fn read_sessions(&mut self, id: &InstanceId, row: &StatRow, read_at: Tick) {
        if let Some(server) = self.server_mut(id)
            && server.id == row.id
            && row.server.server.as_ref() == id.instance.as_str()
        {
            server.sessions = Some(Sessions { current: row.scur, queued: row.qcur, read_at });
            match row.status {
                Status::Down => server.op = OpState::Stopped,
                Status::Up => server.op = OpState::Running,
                _ => {}
            }
        }
    }

    /// One restarting map, read anew.
    pub fn read_restarting(&mut self, service: ServiceName, id: MapId, names: Vec<ServerName>) {
        let names = names.into_iter().filter_map(|name| name.as_ref().parse().ok()).collect();
        self.restarting.insert(service, RestartingMap { id, names });
    }

    /// The server of `id`.
    #[must_use]
    pub fn server(&self, id: &InstanceId) -> Option<&Server> {
        self.backends.get(&id.service)?.servers.get(&id.instance)
    }

    /// Servers that somebody else has added, changed or deleted since `before` was read: by order, not by a check.
    #[must_use]
    pub fn edited_since(&self, before: &Self) -> Vec<InstanceId> {
        let ordered = |server: &Server| (server.id, server.addr, server.admin, server.weight);
        let mut edited = self.those(|service, instance, server| {
            let was = before.backends.get(service).and_then(|backend| backend.servers.get(instance));
            was.map(ordered) != Some(ordered(server))
        });
        edited.extend(before.those(|service, instance, _| {
            self.backends.get(service).is_none_or(|backend| !backend.servers.contains_key(instance))
        }));
        edited
    }

    fn those(&self, wanted: impl Fn(&ServiceName, &InstanceName, &Server) -> bool) -> Vec<InstanceId> {
        let mut those = Vec::new();
        for (service, backend) in &self.backends {
            for (instance, _) in backend.servers.iter().filter(|(name, server)| wanted(service, name, server))
            {
                those.push(InstanceId { service: service.clone(), instance: instance.clone() });
            }
        }
        those
    }

    fn server_mut(&mut self, id: &InstanceId) -> Option<&mut Server> {
        self.backends.get_mut(&id.service)?.servers.get_mut(&id.instance)
    }

    fn take_in(&mut self, state: ServersState) {
        // The rows of one backend stand together: its name is looked at once, not 10,000 times.
        let mut current: Option<(BackendName, Option<ServiceName>)> = None;
        for row in state.servers {
            if current.as_ref().is_none_or(|(name, _)| *name != row.server.backend) {
                current = Some((row.server.backend.clone(), service(&row.server.backend)));
            }
            let named = current.as_ref().and_then(|(_, service)| service.as_ref());
            let Some(backend) = named.and_then(|service| self.backends.get_mut(service)) else {
                continue;
            };
            backend.id = Some(row.backend_id);
            if let Ok(instance) = row.server.server.as_ref().parse() {
                backend.servers.insert(instance, server(&row));
            }
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
        sessions: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
                sessions: None,
            };
            backend.servers.insert(name.parse().unwrap(), server);
        }
        observed
    }

    #[test]
    fn an_edit_is_an_order_not_a_check() {
        let before = observed(&[("same", 0), ("drained", 0), ("deleted", 0)]);
        let mut now = observed(&[("same", 0), ("drained", 8), ("added", 1)]);
        let edited: Vec<String> = now.edited_since(&before).iter().map(ToString::to_string).collect();
        assert_eq!(edited, ["web/added", "web/drained", "web/deleted"]);
        let backend = now.backends.get_mut("web".parse::<ServiceName>().as_ref().unwrap()).unwrap();
        backend.servers.get_mut(&"same".parse().unwrap()).unwrap().op = OpState::Stopped;
        assert_eq!(now.edited_since(&before).len(), 3, "what a check has found is no edit");
    }
}
