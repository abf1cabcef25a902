//! A model of HAProxy as far as servers go: takes the lines that the real one takes, and refuses what it refuses.

use std::collections::{BTreeMap, BTreeSet};

use registry::name::{InstanceId, InstanceName};
use registry::time::Tick;

use super::observed::{Backend, Observed, RestartingMap, Server, Sessions};
use haproxy::answer::flags::{AdminState, CheckState, OpState};
use haproxy::{
    BackendId, Command, InitialWeight, MapId, Reply, ServerAddr, ServerId, ServerOptions, ServerState,
    ServerWeight,
};

const MAINT: u32 = 0x01;
const DRAIN: u32 = 0x08;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelServer {
    pub(crate) id: ServerId,
    pub(crate) addr: ServerAddr,
    pub(crate) admin: u32,
    pub(crate) weight: ServerWeight,
    pub(crate) check: u32,
    pub(crate) sessions: u64,
    /// An idle pooled connection: holds the server until its address changes (2.6).
    pub(crate) pooled: bool,
    /// HAProxy's own check fails.
    pub(crate) down: bool,
    pub(crate) tree: Tree,
}

/// Whether a server has been in the balancing tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tree {
    Never,
    /// It has been ready and up with a weight: since then it is safe to drain it, and to give it weight 0.
    Entered,
    /// Its state or weight was changed by hand: what crashes then is not lb-sync's doing.
    ByHand,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) servers: BTreeMap<InstanceId, ModelServer>,
    pub(crate) services: Vec<String>,
    pub(crate) lines: Vec<String>,
    /// Restarting maps, by service: its number is its place.
    pub(crate) maps: BTreeMap<String, BTreeSet<InstanceName>>,
}

impl Model {
    pub(crate) fn with_services(services: &[&str]) -> Self {
        let services = services.iter().map(|service| (*service).to_owned()).collect();
        Self { services, ..Self::default() }
    }

    pub(crate) fn is_ready(&self, id: &InstanceId) -> bool {
        self.servers.get(id).is_some_and(|server| server.admin & (MAINT | DRAIN) == 0)
    }

    /// What `show backend` and `show servers state` would be read as.
    pub(crate) fn observe(&self) -> Observed {
        let mut observed = Observed::default();
        for (service, number) in self.services.iter().zip(1..) {
            let id = BackendId::try_from(number).ok();
            observed.backends.insert(service.parse().unwrap(), Backend { id, ..Backend::default() });
        }
        for (id, server) in &self.servers {
            let backend = observed.backends.get_mut(&id.service).unwrap();
            backend.servers.insert(id.instance.clone(), server.observed());
        }
        for ((service, names), number) in self.maps.iter().zip(0..) {
            let map = RestartingMap { id: MapId(number), names: names.clone() };
            observed.restarting.insert(service.parse().unwrap(), map);
        }
        observed
    }

    pub(crate) fn read_sessions(&self, observed: &mut Observed, id: &InstanceId, now: Tick) {
        let Some(is) = self.servers.get(id) else { return };
        let backend = observed.backends.get_mut(&id.service).unwrap();
        let server = backend.servers.get_mut(&id.instance).unwrap();
        server.sessions = Some(Sessions { current: is.sessions, queued: 0, read_at: now });
    }

    /// Takes a command as HAProxy would. Panics where the planner must never have sent it.
    pub(crate) fn take(&mut self, command: &Command) -> Reply {
        let line = command.to_string();
        assert!(line.bytes().all(|b| b.is_ascii_graphic() || b == b' ') && !line.contains(';'), "{line:?}");
        self.lines.push(line);
        let path = command.changes().expect("a plan only changes");
        let id: InstanceId = path.to_string().parse().unwrap();
        if let Command::AddToMap { map, .. } | Command::DelFromMap { map, .. } = command {
            let at = self.maps.keys().position(|service| service == id.service.as_str()).unwrap();
            assert_eq!(usize::try_from(map.0).unwrap(), at, "the map of that service");
            let names = self.maps.get_mut(id.service.as_str()).unwrap();
            let news = match command {
                Command::AddToMap { .. } => names.insert(id.instance),
                _ => names.remove(&id.instance),
            };
            assert!(news, "nothing is listed twice, or struck off that is not there");
            return Reply::Ok;
        }
        if let Command::AddServer { id: number, addr, weight, options, .. } = command {
            return self.add(id, *number, *addr, *weight, *options);
        }
        let Some(server) = self.servers.get_mut(&id) else {
            return Reply::NoSuchServer;
        };
        match command {
            Command::EnableHealth { .. } => server.check |= 4,
            Command::HealthDown { .. } => server.down = true,
            Command::SetState { state: ServerState::Ready, .. } => server.admin = 0,
            Command::SetState { state: ServerState::Drain, .. } => server.admin = DRAIN,
            Command::SetState { state: ServerState::Maint, .. } => server.admin = MAINT,
            Command::SetAddr { addr, .. } => {
                server.pooled &= server.addr == *addr;
                server.addr = *addr;
            }
            Command::SetWeight { weight, .. } => server.weight = *weight,
            Command::ShutdownSessions { .. } => server.sessions = 0,
            Command::DelServer { .. } => {
                assert_eq!(server.admin & MAINT, MAINT, "deleted only from MAINT");
                assert_eq!(server.sessions, 0, "deleted only with nothing in flight");
                if server.pooled {
                    return Reply::StillHasConnections;
                }
                self.servers.remove(&id);
            }
            _ => unreachable!("reads are not in a plan"),
        }
        if let Some(server) = self.servers.get_mut(&id) {
            server.enter_tree();
            assert!(
                !server.crashes_haproxy(),
                "{id}: takes persistent requests, never in the tree: {command}"
            );
        }
        Reply::Ok
    }

    fn add(
        &mut self,
        id: InstanceId,
        number: ServerId,
        addr: ServerAddr,
        weight: InitialWeight,
        options: ServerOptions,
    ) -> Reply {
        if !self.services.iter().any(|service| service == id.service.as_str()) {
            return Reply::NoSuchBackend;
        }
        if self.servers.contains_key(&id) {
            return Reply::AlreadyExists;
        }
        let mut neighbours = self.servers.iter().filter(|(other, _)| other.service == id.service);
        assert!(neighbours.all(|(_, server)| server.id != number), "ids are unique within a backend");
        let server = ModelServer {
            id: number,
            addr,
            admin: MAINT,
            weight: weight.into(),
            check: if options.check.is_some() { 2 } else { 0 },
            sessions: 0,
            pooled: false,
            down: options.init_down,
            tree: Tree::Never,
        };
        self.servers.insert(id, server);
        Reply::Ok
    }
}

impl ModelServer {
    /// Neither in MAINT nor down by its check.
    pub(crate) fn is_up(&self) -> bool {
        self.admin & MAINT == 0 && !self.down
    }

    /// The check passes or fails.
    pub(crate) fn set_down(&mut self, down: bool) {
        self.down = down;
        self.enter_tree();
    }

    /// The balancing tree takes a server in while it is ready and up and has a weight.
    pub(crate) fn enter_tree(&mut self) {
        let takes_share = self.admin & (MAINT | DRAIN) == 0 && !self.down && self.weight.get() > 0;
        if self.tree == Tree::Never && takes_share {
            self.tree = Tree::Entered;
        }
    }

    /// Takes persistent requests, now or once its check passes, and has never been in the balancing tree: HAProxy
    /// crashes when such a server is changed or deleted (`leastconn` and `first`, 2.6 to 3.4).
    fn crashes_haproxy(&self) -> bool {
        let persistent_only = self.admin & DRAIN != 0 || self.weight.get() == 0;
        self.admin & MAINT == 0 && persistent_only && self.tree == Tree::Never
    }

    fn observed(&self) -> Server {
        Server {
            id: self.id,
            addr: Some(self.addr),
            admin: AdminState::from_bits(self.admin),
            op: if self.is_up() { OpState::Running } else { OpState::Stopped },
            weight: self.weight,
            check: CheckState::from_bits(self.check),
            health: if self.is_up() { u32::MAX } else { 0 },
            check_said: None,
            sessions: None,
        }
    }
}
