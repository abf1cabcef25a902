//! A model of HAProxy: text in, text out, with workers, checks, streams and reloads.
//!
//! A reload leaves the old worker with its server table and its streams: it checks no more, says `Stopping: 1`, and ends
//! once it is idle. A session on the runtime socket stays with the worker that accepted it. A server that takes
//! persistent requests and never was in the balancing tree makes the process crash when it is changed or deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use registry::time::Tick;

const STATE_HEADER: &str = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr srv_agent_port\n";
const STAT_HEADER: &str =
    "# pxname,svname,qcur,scur,status,weight,iid,sid,rate,addr,check_status,uweight,check_health,\n";

/// The versions that a HAProxy of the simulation may have.
pub const VERSIONS: [&str; 3] = ["2.6.12", "3.0.11", "3.2.26"];
/// The first of them that takes `init-state`.
const HAS_INIT_STATE: usize = 2;

const UNKNOWN_MAP: &str = "Unknown map identifier. Please use #<id> or <file>.\n";

/// A worker process.
pub type WorkerId = u32;
/// A stream through one worker.
pub type StreamId = u64;

/// How a server is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    inter: Duration,
    fall: u32,
}

/// A server of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "HAProxy's own independent flags")]
pub struct Server {
    /// Its number.
    pub id: u32,
    /// Where it is.
    pub addr: SocketAddr,
    /// In MAINT.
    pub maint: bool,
    /// In DRAIN.
    pub drain: bool,
    /// Its share.
    pub weight: u32,
    /// HAProxy's own check fails.
    pub down: bool,
    check: Option<Check>,
    check_enabled: bool,
    /// `init-state fully-down`: down when it leaves MAINT, until its check passes.
    begins_down: bool,
    /// Its check has passed since it was made ready.
    has_passed: bool,
    /// Since when its check fails.
    pub down_since: Tick,
    /// When its address was last changed.
    pub moved_at: Tick,
    fails: u32,
    next_check: Tick,
    /// It has been ready and up with a weight.
    was_in_tree: bool,
}

impl Server {
    /// It gets new clients.
    #[must_use]
    pub fn is_selectable(&self) -> bool {
        !self.maint && !self.drain && !self.down && self.weight > 0
    }

    /// It gets its sticky clients.
    #[must_use]
    pub fn takes_persistent(&self) -> bool {
        !self.maint && !self.down
    }

    fn enter_tree(&mut self) {
        self.was_in_tree |= self.is_selectable();
    }

    fn crashes(&self) -> bool {
        !self.maint && (self.drain || self.weight == 0) && !self.was_in_tree
    }
}

/// A request under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The server's backend and name.
    pub server: (String, String),
    /// Where it goes.
    pub addr: SocketAddr,
}

/// One process.
#[derive(Clone, Debug)]
pub struct Worker {
    pid: u32,
    /// An index of [`VERSIONS`].
    version: usize,
    started_s: u64,
    /// Replaced by a reload.
    pub stopping: bool,
    /// When it was.
    pub stopped_at: Tick,
    /// By backend and name.
    pub servers: BTreeMap<(String, String), Server>,
    /// What is under way.
    pub streams: BTreeMap<StreamId, Stream>,
    /// Client connections that are kept open, and send one more request each.
    pub kept_connections: u32,
    /// The names on each backend's restarting map. They are in memory only: the file is empty.
    pub restarting: BTreeMap<String, BTreeSet<String>>,
}

/// Why a process ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crashed(pub String);

/// The HAProxy of one balancer.
#[derive(Clone, Debug)]
pub struct Haproxy {
    backends: Vec<String>,
    /// Its backends are lb-sync's own, with restarting maps.
    has_maps: bool,
    /// All that run, the old ones too.
    pub workers: BTreeMap<WorkerId, Worker>,
    current: Option<WorkerId>,
    next_worker: WorkerId,
    next_stream: StreamId,
    next_pid: u32,
    /// Of the next worker, as an index of [`VERSIONS`].
    version: usize,
    /// What a start reads: the servers, with whether each is disabled.
    pub files: BTreeMap<(String, String), Server>,
    /// When the present worker was started.
    pub started: Tick,
}

impl Haproxy {
    /// Runs with these backends and no servers. `has_maps`: each backend has a restarting map. `version`: an index of
    /// [`VERSIONS`].
    #[must_use]
    pub fn new(now: Tick, backends: Vec<String>, has_maps: bool, version: u64) -> Self {
        let mut haproxy = Self {
            backends,
            has_maps,
            workers: BTreeMap::new(),
            current: None,
            next_worker: 1,
            next_stream: 1,
            next_pid: 100,
            version: version_of(version),
            files: BTreeMap::new(),
            started: now,
        };
        haproxy.start(now, false);
        haproxy
    }

    /// The worker that takes new connections.
    #[must_use]
    pub fn current(&self) -> Option<WorkerId> {
        self.current
    }

    /// Its backends.
    #[must_use]
    pub fn backends(&self) -> &[String] {
        &self.backends
    }

    /// The next start is with these backends.
    pub fn configure(&mut self, backends: Vec<String>) {
        self.backends = backends;
    }

    /// The next start is of this version, an index of [`VERSIONS`].
    pub fn install(&mut self, version: u64) {
        self.version = version_of(version);
    }

    /// Starts a worker on the files. `same_pid`: it has the pid of the one before, as in a container.
    pub fn start(&mut self, now: Tick, same_pid: bool) {
        if !same_pid {
            self.next_pid += 1;
        }
        let id = self.next_worker;
        self.next_worker += 1;
        let mut servers = self.files.clone();
        servers.retain(|(backend, _), _| self.backends.contains(backend));
        for server in servers.values_mut() {
            server.next_check = now.plus(server.check.map_or(Duration::ZERO, |check| check.inter / 2));
            (server.fails, server.down, server.has_passed) = (0, false, false);
            server.enter_tree();
        }
        let started_s = now.since(Tick::default()).as_secs();
        self.workers.insert(
            id,
            Worker {
                pid: self.next_pid,
                version: self.version,
                started_s,
                stopping: false,
                stopped_at: now,
                servers,
                streams: BTreeMap::new(),
                kept_connections: 0,
                restarting: BTreeMap::new(),
            },
        );
        self.current = Some(id);
        self.started = now;
    }

    /// Reloads: the present worker becomes an old one, with `kept` client connections that send one more request each.
    pub fn reload(&mut self, now: Tick, kept: u32) {
        if let Some(worker) = self.current.and_then(|id| self.workers.get_mut(&id)) {
            (worker.stopping, worker.stopped_at) = (true, now);
            worker.kept_connections = kept;
        }
        self.start(now, false);
        self.end_idle();
    }

    /// All workers die.
    pub fn kill(&mut self) {
        self.workers.clear();
        self.current = None;
    }

    /// Old workers without anything to do end. Returns whether any did.
    pub fn end_idle(&mut self) -> bool {
        let before = self.workers.len();
        self.workers.retain(|_, worker| {
            !worker.stopping || !worker.streams.is_empty() || worker.kept_connections > 0
        });
        self.workers.len() != before
    }

    /// The files have these `server` lines from now on, each with its backend.
    pub fn write_files<'a>(&mut self, now: Tick, lines: impl Iterator<Item = (&'a str, String)>) {
        let server = |(backend, line): (&str, String)| {
            let (name, server) = Server::configured(now, &line)?;
            Some(((backend.to_owned(), name), server))
        };
        self.files = lines.filter_map(server).collect();
    }

    /// The answer of `worker` to one line. The second part is the streams that were cut.
    pub fn ask(
        &mut self,
        now: Tick,
        worker: WorkerId,
        line: &str,
    ) -> Result<(String, Vec<StreamId>), Crashed> {
        let Some(worker) = self.workers.get_mut(&worker) else { return Ok((String::new(), vec![])) };
        let words: Vec<&str> = line.split(' ').collect();
        let text = match words[..] {
            ["show", "info"] => format!(
                "Name: HAProxy\nVersion: {}\nPid: {}\nStopping: {}\nUptime_sec: 1\nStart_time_sec: {}\nnode: b\n",
                VERSIONS[worker.version],
                worker.pid,
                u8::from(worker.stopping),
                worker.started_s
            ),
            ["show", "backend"] => {
                self.backends.iter().fold("# name\n".to_owned(), |text, name| text + name + "\n")
            }
            ["show", "servers", "state"] => worker.state(&self.backends, None),
            ["show", "servers", "state", backend] => worker.state(&self.backends, Some(backend)),
            ["show", "map"] => worker.maps(if self.has_maps { &self.backends } else { &[] }),
            ["show", "map", id] => worker.map(backend_of_map(&self.backends, id)),
            ["add", "map", id, name, _] => worker.change_map(backend_of_map(&self.backends, id), name, true),
            ["del", "map", id, name] => worker.change_map(backend_of_map(&self.backends, id), name, false),
            ["show", "stat", backend, "4", id] => worker.stat(&self.backends, backend, id),
            ["shutdown", "sessions", "server", path] => {
                let Some(path) = path_of(path) else { return Ok(("No such server.\n".into(), vec![])) };
                let cut: Vec<StreamId> = worker
                    .streams
                    .iter()
                    .filter(|(_, stream)| stream.server == path)
                    .map(|(id, _)| *id)
                    .collect();
                for id in &cut {
                    worker.streams.remove(id);
                }
                return Ok(("\n".into(), cut));
            }
            _ => worker.change(now, &self.backends, &words)?,
        };
        Ok((text, vec![]))
    }

    /// When the next check of the present worker is due.
    #[must_use]
    pub fn next_check(&self) -> Option<Tick> {
        let worker = self.workers.get(&self.current?)?;
        let checked = worker.servers.values().filter(|server| server.check_enabled && !server.maint);
        checked.map(|server| server.next_check).min()
    }

    /// Runs the checks that are due; `passes` says what an address answers.
    pub fn run_checks(&mut self, now: Tick, passes: impl Fn(SocketAddr) -> bool) {
        let Some(worker) = self.current.and_then(|id| self.workers.get_mut(&id)) else { return };
        for server in worker.servers.values_mut() {
            let Some(check) = server.check else { continue };
            if !server.check_enabled || server.maint || now < server.next_check {
                continue;
            }
            server.next_check = now.plus(check.inter);
            if passes(server.addr) {
                (server.fails, server.down, server.has_passed) = (0, false, true);
            } else {
                server.fails += 1;
                if !server.down && server.fails >= check.fall {
                    (server.down, server.down_since) = (true, now);
                }
            }
            server.enter_tree();
        }
    }

    /// Picks a server of `backend` for a request: by its cookie, else any that is selectable, passing over `tried`.
    #[must_use]
    pub fn pick(
        &self,
        worker: WorkerId,
        backend: &str,
        cookie: Option<&str>,
        tried: &BTreeSet<String>,
        choice: u64,
    ) -> Option<(String, SocketAddr)> {
        let worker = self.workers.get(&worker)?;
        let of = |server: &&(String, String)| server.0 == backend && !tried.contains(&server.1);
        if let Some(cookie) = cookie.filter(|cookie| !tried.contains(*cookie))
            && let Some(server) = worker.servers.get(&(backend.to_owned(), cookie.to_owned()))
            && server.takes_persistent()
        {
            return Some((cookie.to_owned(), server.addr));
        }
        let mut all = worker.servers.iter().filter(|(path, server)| of(path) && server.is_selectable());
        let at = usize::try_from(choice).unwrap_or(0) % all.clone().count().max(1);
        all.nth(at).map(|(path, server)| (path.1.clone(), server.addr))
    }

    /// Whether a client whose cookie names this server keeps it while others serve it.
    #[must_use]
    pub fn is_restarting(&self, worker: WorkerId, backend: &str, name: &str) -> bool {
        let names = self.workers.get(&worker).and_then(|worker| worker.restarting.get(backend));
        names.is_some_and(|names| names.contains(name))
    }

    /// Begins a stream.
    pub fn open(&mut self, worker: WorkerId, server: (String, String), addr: SocketAddr) -> Option<StreamId> {
        let id = self.next_stream;
        self.next_stream += 1;
        self.workers.get_mut(&worker)?.streams.insert(id, Stream { server, addr });
        Some(id)
    }

    /// Ends a stream.
    pub fn close(&mut self, worker: WorkerId, stream: StreamId) {
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.streams.remove(&stream);
        }
    }
}

impl Worker {
    fn maps(&self, backends: &[String]) -> String {
        let mut text = "# id (file) description\n".to_owned();
        for (id, backend) in backends.iter().enumerate() {
            let count = self.restarting.get(backend).map_or(0, BTreeSet::len);
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{id} (/services/{backend}.restarting.map) pattern loaded from file. curr_ver=0 next_ver=0 entry_cnt={count}"
            );
        }
        text
    }

    fn map(&self, backend: Option<&String>) -> String {
        let Some(backend) = backend else { return UNKNOWN_MAP.into() };
        let names = self.restarting.get(backend).into_iter().flatten();
        names.fold(String::new(), |text, name| text + "0x1 " + name + " 1\n") + "\n"
    }

    fn change_map(&mut self, backend: Option<&String>, name: &str, adds: bool) -> String {
        let Some(backend) = backend else { return UNKNOWN_MAP.into() };
        let names = self.restarting.entry(backend.clone()).or_default();
        if adds {
            names.insert(name.to_owned());
        } else if !names.remove(name) {
            return "Key not found.\n".into();
        }
        "\n".into()
    }

    fn state(&self, backends: &[String], only: Option<&str>) -> String {
        let mut text = STATE_HEADER.to_owned();
        for ((backend, name), server) in &self.servers {
            if only.is_some_and(|only| only != backend) {
                continue;
            }
            let number = backend_number(backends, backend);
            let (op, check) = (if server.maint || server.down { 0 } else { 2 }, server.check_state());
            let admin = u8::from(server.maint) | (u8::from(server.drain) << 3);
            let (ip, port, weight, id) = (server.addr.ip(), server.addr.port(), server.weight, server.id);
            let health = server.health();
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{number} {backend} {id} {name} {ip} {op} {admin} {weight} {weight} 1 6 3 {health} {check} 0 0 0 - {port} - 0 0 - - 0"
            );
        }
        text
    }

    fn stat(&self, backends: &[String], backend: &str, id: &str) -> String {
        let mut text = STAT_HEADER.to_owned();
        for ((name, server_name), server) in &self.servers {
            let number = backend_number(backends, name);
            if (backend != "-1" && backend != number.to_string())
                || (id != "-1" && id != server.id.to_string())
            {
                continue;
            }
            let path = (name.clone(), server_name.clone());
            let current = self.streams.values().filter(|stream| stream.server == path).count();
            let status = match server {
                Server { maint: true, .. } => "MAINT",
                Server { down: true, .. } => "DOWN",
                Server { drain: true, .. } => "DRAIN",
                Server { check: None, .. } => "no check",
                _ => "UP",
            };
            let (weight, id, addr, health) = (server.weight, server.id, server.addr, server.health());
            let _ = writeln!(
                text,
                "{name},{server_name},0,{current},{status},{weight},{number},{id},0,{addr},L7OK,{weight},{health},"
            );
        }
        text
    }

    fn change(&mut self, now: Tick, backends: &[String], words: &[&str]) -> Result<String, Crashed> {
        if let ["add", "server", path, addr, "id", id, "weight", weight, options @ ..] = words {
            return Ok(self.add(now, backends, path, addr, (id, weight), options));
        }
        let (["set", "server", path, ..] | ["del", "server", path] | ["enable", "health", path]) = words
        else {
            return Ok("Unknown command.\n".into());
        };
        let Some(path) = path_of(path) else { return Ok("Require 'backend/server'.\n".into()) };
        let busy = self.streams.values().any(|stream| stream.server == path);
        let Some(server) = self.servers.get_mut(&path) else { return Ok("No such server.\n".into()) };
        let crash = |what: &str| Crashed(format!("{}/{}: {what}", path.0, path.1));
        if server.crashes() {
            return Err(crash("takes persistent requests, was never in the balancing tree, and is changed"));
        }
        match words {
            ["del", ..] if !server.maint => {
                return Ok("Only servers in maintenance mode can be deleted.\n".into());
            }
            ["del", ..] if busy => {
                return Ok("Server still has connections attached to it, cannot remove it.\n".into());
            }
            ["del", ..] => {
                self.servers.remove(&path);
                return Ok("Server deleted.\n".into());
            }
            ["enable", ..] => {
                server.check_enabled = server.check.is_some();
                server.next_check = now.plus(Duration::from_millis(50));
            }
            ["set", _, _, "state", "ready"] => {
                if server.maint {
                    (server.down, server.fails, server.has_passed) = (server.begins_down, 0, false);
                    server.down_since = now;
                    server.next_check = now.plus(Duration::from_millis(200));
                }
                (server.maint, server.drain) = (false, false);
            }
            ["set", _, _, "state", "drain"] => (server.maint, server.drain) = (false, true),
            ["set", _, _, "state", "maint"] => server.maint = true,
            ["set", _, _, "health", "down"] => {
                if server.check_enabled && !server.maint {
                    (server.down, server.fails) = (true, server.check.map_or(0, |check| check.fall));
                    server.down_since = now;
                }
            }
            ["set", _, _, "weight", weight] => server.weight = weight.parse().unwrap_or(0),
            ["set", _, _, "addr", ip, "port", port] => {
                let addr = format!("{ip}:{port}").parse().or_else(|_| format!("[{ip}]:{port}").parse());
                if let Ok(addr) = addr {
                    (server.addr, server.moved_at) = (addr, now);
                }
                return Ok("no need to change the addr, port changed by 'stats socket command'\n".into());
            }
            _ => return Ok("Unknown command.\n".into()),
        }
        server.enter_tree();
        Ok("\n".into())
    }

    fn add(
        &mut self,
        now: Tick,
        backends: &[String],
        path: &str,
        addr: &str,
        (id, weight): (&str, &str),
        options: &[&str],
    ) -> String {
        let Some(path) = path_of(path) else { return "Require 'backend/server'.\n".into() };
        let Some(server) = Server::parse(now, addr, id, weight, options) else {
            return "Invalid arguments.\n".into();
        };
        if server.begins_down && self.version < HAS_INIT_STATE {
            return format!("unknown keyword 'init-state' in server '{}'\n", path.1);
        }
        let id = server.id;
        if !backends.contains(&path.0) {
            return "No such backend.\n".into();
        }
        if self.servers.contains_key(&path) {
            return "Already exists a server with the same name in backend.\n".into();
        }
        if let Some(((_, other), _)) =
            self.servers.iter().find(|((backend, _), server)| *backend == path.0 && server.id == id)
        {
            return format!("'id' : custom id {id} already used at (null):0 ('server {other}').\n");
        }
        self.servers.insert(path, server);
        "New server registered.\n".into()
    }
}

impl Server {
    /// As `add server` makes it: in MAINT, and its check not enabled.
    fn parse(now: Tick, addr: &str, id: &str, weight: &str, options: &[&str]) -> Option<Self> {
        let option = |name: &str| {
            let at = options.iter().position(|option| *option == name)?;
            options.get(at + 1)?.trim_end_matches("ms").parse::<u64>().ok()
        };
        let check = options.contains(&"check").then(|| Check {
            inter: Duration::from_millis(option("inter").unwrap_or(2_000)),
            fall: option("fall").and_then(|fall| u32::try_from(fall).ok()).unwrap_or(3),
        });
        Some(Self {
            id: id.parse().ok()?,
            addr: addr.parse().ok()?,
            maint: true,
            drain: false,
            weight: weight.parse().ok()?,
            down: false,
            check,
            check_enabled: false,
            begins_down: options.windows(2).any(|words| words == ["init-state", "fully-down"]),
            has_passed: false,
            down_since: now,
            moved_at: now,
            fails: 0,
            next_check: now,
            was_in_tree: false,
        })
    }

    /// A line of a configuration. A server that is configured is put into the tree at the start, whatever its weight.
    fn configured(now: Tick, line: &str) -> Option<(String, Self)> {
        let words: Vec<&str> = line.split(' ').collect();
        let ["server", name, addr, "id", id, "weight", weight, options @ ..] = &words[..] else {
            return None;
        };
        let mut server = Self::parse(now, addr, id, weight, options)?;
        (server.maint, server.was_in_tree) = (options.contains(&"disabled"), true);
        server.check_enabled = server.check.is_some();
        Some(((*name).to_owned(), server))
    }

    /// From 0 to `rise + fall - 1`; `rise` is 1.
    fn health(&self) -> u32 {
        let Some(check) = self.check.filter(|_| !self.down) else { return 0 };
        if self.has_passed { check.fall.saturating_sub(self.fails.min(check.fall - 1)) } else { 1 }
    }

    fn check_state(&self) -> u8 {
        let configured = if self.check.is_some() { 2 } else { 0 };
        configured | if self.check_enabled { 4 } else { 0 }
    }
}

fn version_of(index: u64) -> usize {
    usize::try_from(index).unwrap_or(0) % VERSIONS.len()
}

/// A map's number is its backend's place.
fn backend_of_map<'a>(backends: &'a [String], id: &str) -> Option<&'a String> {
    backends.get(id.strip_prefix('#')?.parse::<usize>().ok()?)
}

/// From 1, in the order of the configuration.
fn backend_number(backends: &[String], name: &str) -> usize {
    1 + backends.iter().position(|backend| backend == name).unwrap_or(0)
}

fn path_of(text: &str) -> Option<(String, String)> {
    text.split_once('/').map(|(backend, server)| (backend.to_owned(), server.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn haproxy(lines: &[&str]) -> (Haproxy, Vec<String>) {
        let mut haproxy = Haproxy::new(Tick::from_ms(1_000), vec!["web".into()], true, 0);
        let ask = |haproxy: &mut Haproxy, line: &&str| {
            let worker = haproxy.current().unwrap();
            haproxy.ask(Tick::from_ms(1_000), worker, line).map_or_else(|crash| crash.0, |answer| answer.0)
        };
        let answers = lines.iter().map(|line| ask(&mut haproxy, line)).collect();
        (haproxy, answers)
    }

    const ADD: &str = "add server web/a 10.0.0.1:80 id 10000 weight 100 check inter 2000ms rise 1 fall 2";

    #[test]
    fn a_server_is_deleted_only_from_maint_and_with_nothing_in_flight() {
        let (mut haproxy, answers) = haproxy(&[ADD, ADD, "set server web/a state ready", "del server web/a"]);
        assert!(answers[1].starts_with("Already exists") && answers[3].starts_with("Only servers in maint"));
        let worker = haproxy.current().unwrap();
        let stream = haproxy.open(worker, ("web".into(), "a".into()), "10.0.0.1:80".parse().unwrap());
        let now = Tick::from_ms(2_000);
        haproxy.ask(now, worker, "set server web/a state maint").unwrap();
        assert!(haproxy.ask(now, worker, "del server web/a").unwrap().0.starts_with("Server still has"));
        haproxy.close(worker, stream.unwrap());
        assert_eq!(haproxy.ask(now, worker, "del server web/a").unwrap().0, "Server deleted.\n");
    }

    #[test]
    fn a_restarting_map_is_in_the_memory_of_one_worker() {
        let (mut haproxy, answers) =
            haproxy(&["show map", "add map #0 a 1", "show map #0", "del map #0 b", "show map #1"]);
        assert!(answers[0].ends_with("entry_cnt=0\n") && answers[2] == "0x1 a 1\n\n", "{answers:?}");
        assert!(answers[3].starts_with("Key not found") && answers[4].starts_with("Unknown map"));
        let worker = haproxy.current().unwrap();
        assert!(haproxy.is_restarting(worker, "web", "a") && !haproxy.is_restarting(worker, "web", "b"));
        haproxy.reload(Tick::from_ms(2_000), 0);
        assert!(!haproxy.is_restarting(haproxy.current().unwrap(), "web", "a"));
    }

    #[test]
    fn a_server_that_begins_down_waits_for_its_check_and_only_a_new_haproxy_takes_it() {
        let add = format!("{ADD} init-state fully-down");
        let lines = [&*add, "enable health web/a", "set server web/a state ready"];
        let (mut haproxy, answers) = haproxy(&lines);
        assert!(answers[0].contains("init-state") && answers[2].starts_with("No such server"), "{answers:?}");
        let now = Tick::from_ms(2_000);
        haproxy.install(2);
        haproxy.reload(now, 0);
        let worker = haproxy.current().unwrap();
        for line in lines {
            haproxy.ask(now, worker, line).unwrap();
        }
        let is_selectable =
            |haproxy: &Haproxy| haproxy.workers[&worker].servers.values().all(Server::is_selectable);
        assert!(!is_selectable(&haproxy));
        haproxy.run_checks(haproxy.next_check().unwrap(), |_| true);
        assert!(is_selectable(&haproxy));
    }

    #[test]
    fn drain_before_the_tree_crashes_at_the_next_change() {
        let (_, answers) = haproxy(&[ADD, "set server web/a state drain", "set server web/a weight 5"]);
        assert!(answers[2].contains("never in the balancing tree"), "{answers:?}");
        let (_, answers) = haproxy(&[
            ADD,
            "set server web/a state ready",
            "set server web/a state drain",
            "set server web/a weight 5",
        ]);
        assert_eq!(answers[3], "\n");
    }

    #[test]
    fn a_reload_leaves_the_old_worker_with_its_streams() {
        let (mut haproxy, _) = haproxy(&[ADD, "set server web/a state ready"]);
        let old = haproxy.current().unwrap();
        let stream = haproxy.open(old, ("web".into(), "a".into()), "10.0.0.1:80".parse().unwrap()).unwrap();
        let line = "server a 10.0.0.1:80 id 10000 weight 100 check inter 2000ms".to_owned();
        haproxy.write_files(Tick::default(), [("web", line)].into_iter());
        haproxy.reload(Tick::from_ms(3_000), 0);
        assert_eq!(haproxy.workers.len(), 2);
        assert!(haproxy.ask(Tick::from_ms(3_000), old, "show info").unwrap().0.contains("Stopping: 1"));
        let new = haproxy.current().unwrap();
        assert!(haproxy.pick(new, "web", None, &BTreeSet::new(), 0).is_some());
        haproxy.close(old, stream);
        assert!(haproxy.end_idle() && haproxy.workers.len() == 1);
    }

    #[test]
    fn checks_take_a_dead_app_out_and_back() {
        let (mut haproxy, _) = haproxy(&[ADD, "enable health web/a", "set server web/a state ready"]);
        let worker = haproxy.current().unwrap();
        let selectable =
            |haproxy: &Haproxy| haproxy.workers[&worker].servers.values().all(Server::is_selectable);
        for _ in 0..2 {
            let due = haproxy.next_check().unwrap();
            assert!(selectable(&haproxy));
            haproxy.run_checks(due, |_| false);
        }
        assert!(!selectable(&haproxy));
        haproxy.run_checks(haproxy.next_check().unwrap(), |_| true);
        assert!(selectable(&haproxy));
    }
}
