//! A model of HAProxy: text in, text out, without clock, randomness or I/O.
//!
//! [`Haproxy`] is the HAProxy of one balancer, with its current worker and the old ones that a reload has left. Lines of the
//! runtime API go in through [`Haproxy::ask`]; what comes out is what the parsers of the crate `haproxy` read. Checks run when
//! [`Haproxy::run_checks`] is called at [`Haproxy::next_check`]. Requests go through [`Haproxy::open_stream`].
//!
//! The rules are those of HAProxy's own source (`src/server.c`, `src/check.c`, `src/lb_fwlc.c`, `src/backend.c`) and of its
//! `doc/management.txt`; each part names the function that it follows. `tests/haproxy_model.rs` compares the model with real
//! ones, command by command.
//!
//! Every backend balances by `leastconn` and retries as the default template of lb-sync has it. Not modelled: queues and
//! `maxconn`, agents, `track`, backups, TLS, the time that a check or a connection takes.

mod backend;
mod change;
mod check;
mod line;
mod maps;
mod server;
mod setup;
mod show;
mod traffic;
mod tree;
mod worker;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod worker_tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use registry::time::Tick;

pub use setup::{BackendSetup, Files, Pid, Version};
pub use traffic::{Cut, NoStream, Request, Stream, StreamId};
pub use tree::Tree;
pub use worker::{ServerView, StreamView};

use setup::Setup;
use worker::Worker;

/// Most lines that wait for a hung worker. Further ones are lost: real sockets are full then.
const BACKLOG_MAX: usize = 4_096;

/// One worker process. Never used twice, unlike process ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u32);

/// A process that has ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crashed {
    /// Which worker.
    pub worker: WorkerId,
    /// The server (`backend/name`) and the rule that was broken.
    pub why: String,
}

/// Why a command has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// The command made HAProxy crash. If the worker was the current one, the master has ended all others.
    Crashed(Crashed),
    /// The worker hangs. It takes the line when it resumes: see [`Haproxy::resume`].
    Hung,
    /// There is no such worker any more.
    Gone,
}

/// The HAProxy of one balancer.
#[derive(Clone, Debug)]
pub struct Haproxy {
    setup: Setup,
    workers: BTreeMap<WorkerId, Worker>,
    current: Option<WorkerId>,
    next_worker: u32,
    next_stream: u64,
    pid: u32,
    /// Lines for hung workers, in order; at most [`BACKLOG_MAX`].
    backlog: Vec<(WorkerId, String)>,
    /// What [`Haproxy::take_cut`] has not returned yet.
    cut: Vec<Cut>,
}

impl Haproxy {
    /// Starts one at `now` with these backends, on no files of lb-sync.
    #[must_use]
    pub fn new(version: Version, backends: Vec<BackendSetup>, now: Tick) -> Self {
        Self::with_setup(Setup { version, backends, routes_map: false }, now)
    }

    /// The same, with a map of routes (`routes.map`) in the configuration.
    #[must_use]
    pub fn with_routes_map(version: Version, backends: Vec<BackendSetup>, now: Tick) -> Self {
        Self::with_setup(Setup { version, backends, routes_map: true }, now)
    }

    fn with_setup(setup: Setup, now: Tick) -> Self {
        let mut haproxy = Self {
            setup,
            workers: BTreeMap::new(),
            current: None,
            next_worker: 1,
            next_stream: 1,
            pid: 100,
            backlog: Vec::new(),
            cut: Vec::new(),
        };
        haproxy.launch(now, &Files::default(), Pid::Fresh);
        haproxy
    }

    /// Its version, for the next start on.
    #[must_use]
    pub fn version(&self) -> Version {
        self.setup.version
    }

    /// Replaces the program on disk: the next start or reload runs this version.
    pub fn upgrade(&mut self, version: Version) {
        self.setup.version = version;
    }

    /// The worker that takes new connections; `None` while HAProxy is down.
    #[must_use]
    pub fn worker(&self) -> Option<WorkerId> {
        self.current
    }

    /// All workers that run, the oldest first.
    pub fn workers(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.workers.keys().copied()
    }

    /// Whether the worker runs.
    #[must_use]
    pub fn is_alive(&self, worker: WorkerId) -> bool {
        self.workers.contains_key(&worker)
    }

    /// When the worker was started.
    #[must_use]
    pub fn started(&self, worker: WorkerId) -> Option<Tick> {
        self.workers.get(&worker).map(Worker::started)
    }

    /// Opens a session on the runtime socket. It stays with its worker, and holds it up after a reload (`session_new`
    /// counts it as a job), until [`Self::disconnect`].
    pub fn connect(&mut self) -> Option<WorkerId> {
        let worker = self.current?;
        self.workers.get_mut(&worker)?.sessions += 1;
        Some(worker)
    }

    /// Closes a session with this worker. An old worker without anything else to do ends.
    pub fn disconnect(&mut self, worker: WorkerId) {
        if let Some(it) = self.workers.get_mut(&worker) {
            it.sessions = it.sessions.saturating_sub(1);
        }
        self.end_idle();
    }

    /// The answer of `worker` to one line, without the prompt. Lines with the same `now` are one write: see
    /// [`Version::moves_later`].
    pub fn ask(&mut self, now: Tick, worker: WorkerId, line: &str) -> Result<String, NoAnswer> {
        let it = self.workers.get_mut(&worker).ok_or(NoAnswer::Gone)?;
        if it.hung {
            if self.backlog.len() < BACKLOG_MAX {
                self.backlog.push((worker, line.to_owned()));
            }
            return Err(NoAnswer::Hung);
        }
        let answer = it.ask(now, line, &mut self.cut);
        answer.map_err(|why| NoAnswer::Crashed(self.crash(worker, why)))
    }

    /// Stops a worker (a busy loop, SIGSTOP): it answers nothing, checks nothing, takes no requests.
    pub fn hang(&mut self, worker: WorkerId) {
        if let Some(it) = self.workers.get_mut(&worker) {
            it.hung = true;
        }
    }

    /// Lets a hung worker go on. It takes the lines that were sent to it in the meantime: their answers, in order.
    pub fn resume(&mut self, now: Tick, worker: WorkerId) -> Vec<Result<String, NoAnswer>> {
        if let Some(it) = self.workers.get_mut(&worker) {
            it.hung = false;
        }
        let (mine, others) = std::mem::take(&mut self.backlog).into_iter().partition(|(to, _)| *to == worker);
        self.backlog = others;
        let mine: Vec<(WorkerId, String)> = mine;
        mine.into_iter().map(|(_, line)| self.ask(now, worker, &line)).collect()
    }

    /// Reloads: a new worker starts on `files`. The present one keeps its servers, streams and sessions, checks no more,
    /// says `Stopping: 1`, serves one last request on each connection that is kept open, and ends once it is idle.
    /// If HAProxy is down, this starts it.
    pub fn reload(&mut self, now: Tick, files: &Files, pid: Pid) {
        if let Some(it) = self.current.and_then(|old| self.workers.get_mut(&old)) {
            it.stopping = true;
        }
        self.launch(now, files, pid);
        self.end_idle();
    }

    /// `kill -9` of master and workers: every stream is cut.
    pub fn kill(&mut self) {
        for worker in std::mem::take(&mut self.workers).into_values() {
            self.cut.extend(worker.streams().map(Cut::ended));
        }
        self.backlog.clear();
        self.current = None;
    }

    /// Starts HAProxy on `files`. If it runs, this is a restart: it is killed before.
    pub fn start(&mut self, now: Tick, files: &Files, pid: Pid) {
        self.kill();
        self.launch(now, files, pid);
    }

    fn launch(&mut self, now: Tick, files: &Files, pid: Pid) {
        if pid == Pid::Fresh {
            self.pid += 1;
        }
        let id = WorkerId(self.next_worker);
        self.next_worker += 1;
        self.workers.insert(id, Worker::start(&self.setup, files, self.pid, now));
        self.current = Some(id);
    }

    /// A crashed worker is gone with its streams. The master ends with its current worker and takes the others along
    /// (`mworker_catch_sigchld`: `exit_on_failure`); an old one's end it only logs.
    fn crash(&mut self, worker: WorkerId, why: String) -> Crashed {
        if self.current == Some(worker) {
            self.kill();
        } else if let Some(it) = self.workers.remove(&worker) {
            self.cut.extend(it.streams().map(Cut::ended));
        }
        Crashed { worker, why }
    }

    fn end_idle(&mut self) {
        self.workers.retain(|_, worker| !worker.is_over());
    }

    /// When the next check of the current worker is due. Old workers check no more.
    #[must_use]
    pub fn next_check(&self) -> Option<Tick> {
        self.workers.get(&self.current?).filter(|worker| !worker.hung)?.next_check()
    }

    /// Runs the checks that are due at `now`; `passes` says what an address answers. A server that comes up may crash
    /// HAProxy.
    pub fn run_checks(&mut self, now: Tick, passes: impl Fn(SocketAddr) -> bool) -> Result<(), Crashed> {
        let Some(id) = self.current else { return Ok(()) };
        let Some(it) = self.workers.get_mut(&id).filter(|worker| !worker.hung) else { return Ok(()) };
        it.run_checks(now, passes).map_err(|why| self.crash(id, why))
    }

    /// Streams that HAProxy or its end has cut since this was last called.
    pub fn take_cut(&mut self) -> Vec<Cut> {
        std::mem::take(&mut self.cut)
    }

    /// The servers of a worker, as they are: for oracles.
    pub fn servers(&self, worker: WorkerId) -> impl Iterator<Item = ServerView<'_>> {
        self.workers.get(&worker).into_iter().flat_map(Worker::servers)
    }

    /// The streams of a worker.
    pub fn streams(&self, worker: WorkerId) -> impl Iterator<Item = StreamView<'_>> {
        self.workers.get(&worker).into_iter().flat_map(Worker::streams)
    }
}
