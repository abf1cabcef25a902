//! One worker process: its servers, streams and maps.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use ::haproxy::answer::flags::{AdminState, OpState};
use registry::time::Tick;

use super::Version;
use super::backend::Backend;
use super::maps::Maps;
use super::server::{Op, Server};
use super::setup::{Files, Setup};
use super::traffic::{Flow, StreamId};
use super::tree::Tree;

/// Numbers are counted over all sections; before the backends there is one frontend.
const FIRST_BACKEND: u32 = 2;
/// Checks whose interval is shorter start independently of the others (`SRV_CHK_INTER_THRES`).
const SPREAD_MIN: Duration = Duration::from_secs(1);

/// A server as an oracle sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerView<'h> {
    /// The backend's name.
    pub backend: &'h str,
    /// The server's name.
    pub name: &'h str,
    /// Its number.
    pub id: u32,
    /// Where requests to it go.
    pub addr: SocketAddr,
    /// What was ordered.
    pub admin: AdminState,
    /// What it does.
    pub op: OpState,
    /// The weight that was set.
    pub weight: u32,
    /// Its checks are under way: enabled, and not paused by MAINT.
    pub checked: bool,
    /// What its checks have come to: `None` while they are on the way from one to the other.
    pub passes: Option<bool>,
    /// Requests are balanced to it.
    pub selectable: bool,
    /// Requests that stick to it go to it.
    pub takes_persistent: bool,
    /// Where it stands with the balancing tree.
    pub tree: Tree,
    /// Streams on it.
    pub streams: u32,
}

impl ServerView<'_> {
    /// One request that sticks to it, and HAProxy crashes at a later change: an error of the plan that led here.
    #[must_use]
    pub fn endangers_haproxy(&self) -> bool {
        self.tree == Tree::Phantom || (self.tree == Tree::Never && self.takes_persistent)
    }
}

/// A stream as an oracle sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamView<'h> {
    /// Which stream.
    pub id: StreamId,
    /// The backend's name.
    pub backend: &'h str,
    /// The server's name.
    pub server: &'h str,
    /// Where it was connected to.
    pub addr: SocketAddr,
}

/// A worker process.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub(super) version: Version,
    pub(super) pid: u32,
    started: Tick,
    /// Replaced by a reload.
    pub(super) stopping: bool,
    pub(super) hung: bool,
    /// On the runtime socket.
    pub(super) sessions: u32,
    /// Connections of clients that are kept open between requests.
    pub(super) kept: u32,
    pub(super) backends: Vec<Backend>,
    pub(super) maps: Maps,
    pub(super) flows: BTreeMap<StreamId, Flow>,
}

impl Worker {
    pub(super) fn start(setup: &Setup, files: &Files, pid: u32, now: Tick) -> Self {
        let sections = setup.sections(files);
        let numbered = (FIRST_BACKEND..).zip(&sections);
        let mut backends: Vec<Backend> =
            numbered.map(|(number, section)| Backend::start(section, number, setup.version, now)).collect();
        start_checks(&mut backends, now);
        Self {
            version: setup.version,
            pid,
            started: now,
            stopping: false,
            hung: false,
            sessions: 0,
            kept: 0,
            backends,
            maps: Maps::start(setup, files),
            flows: BTreeMap::new(),
        }
    }

    pub(super) const fn started(&self) -> Tick {
        self.started
    }

    /// An old worker with nothing left to do.
    pub(super) fn is_over(&self) -> bool {
        self.stopping && !self.hung && self.sessions == 0 && self.kept == 0 && self.streams().next().is_none()
    }

    /// What has come about by itself up to `now`. The error is why HAProxy crashes.
    pub(super) fn settle(&mut self, now: Tick) -> Result<(), String> {
        for backend in &mut self.backends {
            for server in &mut backend.servers {
                server.settle(now).map_err(|corrupt| {
                    format!("{}/{}: it moves and {}", backend.name, server.name, corrupt.0)
                })?;
            }
        }
        self.end_cut_flows(now);
        Ok(())
    }

    pub(super) fn next_check(&self) -> Option<Tick> {
        let servers = self.backends.iter().flat_map(|backend| &backend.servers);
        servers.filter(|server| server.check.runs()).map(|server| server.check.next).min()
    }

    /// The error is why HAProxy crashes.
    pub(super) fn run_checks(
        &mut self,
        now: Tick,
        answers: impl Fn(SocketAddr) -> bool,
    ) -> Result<(), String> {
        self.settle(now)?;
        for backend in &mut self.backends {
            for server in &mut backend.servers {
                if server.check.runs() && server.check.next <= now {
                    let passed = answers(server.addr);
                    server.checked(now, passed).map_err(|corrupt| {
                        format!("{}/{}: it comes up and {}", backend.name, server.name, corrupt.0)
                    })?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn servers(&self) -> impl Iterator<Item = ServerView<'_>> {
        self.backends.iter().flat_map(|backend| backend.servers.iter().map(|server| view(backend, server)))
    }

    pub(super) fn streams(&self) -> impl Iterator<Item = StreamView<'_>> {
        let living = self.flows.iter().filter(|(_, flow)| flow.cut_at.is_none());
        living.map(|(id, flow)| StreamView {
            id: *id,
            backend: &flow.backend,
            server: &flow.server,
            addr: flow.addr,
        })
    }
}

fn view<'h>(backend: &'h Backend, server: &'h Server) -> ServerView<'h> {
    ServerView {
        backend: &backend.name,
        name: &server.name,
        id: server.id,
        addr: server.addr,
        admin: AdminState::from_bits(server.now.admin),
        op: match server.now.op {
            Op::Stopped => OpState::Stopped,
            Op::Starting => OpState::Starting,
            Op::Running => OpState::Running,
        },
        weight: server.weight,
        checked: server.check.runs(),
        passes: server.check.verdict(),
        selectable: server.tree.is_in(),
        takes_persistent: server.takes_persistent(),
        tree: server.tree,
        streams: server.streams,
    }
}

/// Spreads the first checks of configured servers over the shortest interval (`start_checks`, `start_check_task`).
fn start_checks(backends: &mut [Backend], now: Tick) {
    let mut checked: Vec<&mut Server> = backends
        .iter_mut()
        .flat_map(|backend| &mut backend.servers)
        .filter(|server| server.check.configured)
        .collect();
    let interval = |server: &Server| server.check.interval(server.now.op == Op::Stopped);
    let spread = checked.iter().map(|server| interval(server)).filter(|it| *it >= SPREAD_MIN).min();
    let count = u32::try_from(checked.len()).unwrap_or(u32::MAX).max(1);
    for (place, server) in (0_u32..).zip(&mut checked) {
        let within = spread.unwrap_or_default().max(interval(server));
        server.check.start_timer(now.plus(within * place / count));
    }
}
