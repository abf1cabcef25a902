//! What HAProxy has, as last read.

use std::collections::BTreeMap;

use registry::name::{InstanceId, InstanceName, ServiceName};
use registry::time::Tick;

use crate::haproxy::answer::backends::Backends;
use crate::haproxy::answer::flags::{AdminState, CheckState, OpState};
use crate::haproxy::answer::servers_state::{ServerRow, ServersState};
use crate::haproxy::answer::stat::{StatRow, Status};
use crate::haproxy::{BackendId, BackendName, ServerAddr, ServerId, ServerWeight};

/// The backends that can be a service's, and their servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// By name. A backend that has no server is here too.
    pub backends: BTreeMap<ServiceName, Backend>,
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

    /// The server of `id`.
    #[must_use]
    pub fn server(&self, id: &InstanceId) -> Option<&Server> {
        self.backends.get(&id.service)?.servers.get(&id.instance)
    }

    /// Servers that somebody else has added, changed or deleted since `before` was read: by order, not by a check.
    #[must_use]
    pub fn edited_since(&self, before: &Self) -> Vec<InstanceId> {
        let ordered = |server: &Server| (server.id, server.addr, server.admin, server.weight);
        let all = |observed: &Self| -> BTreeMap<InstanceId, _> {
            let servers = observed.backends.iter().flat_map(|(service, backend)| {
                let id = |instance: &InstanceName| InstanceId {
                    service: service.clone(),
                    instance: instance.clone(),
                };
                backend.servers.iter().map(move |(instance, server)| (id(instance), ordered(server)))
            });
            servers.collect()
        };
        let (mut before, now) = (all(before), all(self));
        let mut edited: Vec<InstanceId> = Vec::new();
        for (id, facts) in now {
            if before.remove(&id) != Some(facts) {
                edited.push(id);
            }
        }
        edited.extend(before.into_keys());
        edited
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
