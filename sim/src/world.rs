//! The world: one queue of events in virtual time, and all that lives in it.
//!
//! Events at one instant are ordered by a draw, not by insertion, so that the order in which a process meets them is
//! explored. Nothing here decides for the product: it performs what the machines say, with latencies, losses and faults.

mod clients;
mod coverage;
mod etcd_calls;
mod faults;
mod haproxies;
mod network;
mod processes;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lb_sync::files::Desired;
use registry::name::InstanceId;
use registry::time::Tick;

use crate::balancer::{BalancerProcess, Disk};
use crate::draw::Draws;
use crate::etcd::{self, Etcd, Store};
use crate::haproxy::{Haproxy, StreamId, WorkerId};
use crate::link::{Answer, Call};
use crate::marks::{self, Marks};
use crate::oracles::Violation;
use crate::registrar::RegistrarProcess;
use crate::script::{Op, Options, Script};

pub(crate) use clients::Request;
pub(crate) use network::Network;

/// Most events of one run: a busy loop is a finding, not a long run.
const EVENTS_MAX: u64 = 2_000_000;
/// How long the world goes on after the last fault is over, before it must be as it should.
pub const SETTLE: Duration = Duration::from_secs(45);

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Process {
    /// The registrar in this slot.
    Registrar(usize),
    /// The lb-sync of this balancer.
    Balancer(usize),
}

/// Something that reaches a process.
#[derive(Debug)]
pub(crate) enum Delivery {
    Woke,
    Answer(Answer),
    Registrar(::registrar::machine::Input),
    Balancer(lb_sync::balancer::Input),
    /// Of the session of this number on HAProxy's runtime socket.
    Session(u64, lb_sync::balancer::Input),
}

/// Something that happens.
#[derive(Debug)]
pub(crate) enum Event {
    Op(Op),
    Deliver {
        to: Process,
        life: u32,
        delivery: Delivery,
    },
    Arrive {
        from: Process,
        life: u32,
        call: Call,
        sent: Tick,
    },
    ExpireLeases,
    Resync,
    Backup,
    /// etcd is back, with this of its past.
    EtcdBack(Past),
    Commands {
        balancer: usize,
        life: u32,
        session: Session,
        lines: Vec<String>,
    },
    Checks {
        balancer: usize,
        at: Tick,
    },
    /// The writer of a balancer's files has put these in place.
    FilesWritten {
        balancer: usize,
        life: u32,
        desired: Arc<Desired>,
    },
    StartHaproxy(usize),
    /// HAProxy is restarted with the configuration that it had at first.
    ConfigureHaproxy(usize),
    Client {
        balancer: usize,
        service: usize,
    },
    KeptRequest {
        balancer: usize,
        worker: WorkerId,
    },
    RequestEnds {
        balancer: usize,
        worker: WorkerId,
        stream: StreamId,
    },
    StartRegistrar(usize),
    StopRegistrar(usize),
    StartBalancer(usize),
    Resume(Process),
    AppExits {
        registrar: usize,
        incarnation: u64,
    },
    /// An app that is in a crash loop ends.
    AppCrashes {
        registrar: usize,
        incarnation: u64,
    },
    ClearOverride(usize),
    NotFull,
}

/// What of etcd's past is there when it is back.
#[derive(Clone, Debug)]
pub(crate) enum Past {
    All,
    /// All of it, and two revisions more, that are compacted at once: who resumes a watch finds that it cannot.
    Compacted,
    Nothing,
    Backup(Box<Store>, i64),
}

/// An app that listens.
#[derive(Clone, Debug)]
pub struct App {
    /// Its service.
    pub service: usize,
    /// Its registrar's slot.
    pub registrar: usize,
    /// Counts apps.
    pub incarnation: u64,
    /// Since when it listens.
    pub since: Tick,
}

/// A registrar's place: what is started there again and again.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "what has happened to it, each for itself")]
pub struct RegistrarSlot {
    /// Its service.
    pub service: usize,
    /// The name it is given.
    pub name: String,
    /// The process, while it lives.
    pub process: Option<RegistrarProcess>,
    pub(crate) life: u32,
    pub(crate) paused_until: Option<Tick>,
    pub(crate) suspended_for: Duration,
    pub(crate) backlog: Vec<Delivery>,
    pub(crate) network: Network,
    pub(crate) wake: Option<Tick>,
    /// Another registrar's app is at this address, and this one registers it in its own service.
    pub(crate) shares: Option<(SocketAddr, u64)>,
    /// The app does not end on TERM.
    pub(crate) stubborn: bool,
    /// The app, where it is and which one.
    pub app: Option<(SocketAddr, u64)>,
    /// Until when the app's check fails.
    pub ill_until: Tick,
    /// Until when the app ends soon after each start.
    pub(crate) crashes_until: Tick,
    /// It was told to stop.
    pub stopping: bool,
    /// The last leave ended by its deadline.
    pub timed_out: bool,
    /// When a record of this life stood first.
    pub stood: Option<Tick>,
    /// It is started again this long after its end; never for the second of a name.
    pub(crate) restart_after: Option<Duration>,
    /// An operator's order for it.
    pub overridden: bool,
    /// When such an order was given or lifted last, or it was told to stop.
    pub(crate) ordered: Tick,
    /// When its present life was started.
    pub started: Tick,
    /// Since when it has been as it is.
    pub changed: Tick,
}

/// A balancer: HAProxy and lb-sync.
#[derive(Debug)]
pub struct BalancerSlot {
    /// HAProxy.
    pub haproxy: Haproxy,
    /// lb-sync, while it lives.
    pub process: Option<BalancerProcess>,
    pub(crate) life: u32,
    pub(crate) disk: Disk,
    pub(crate) paused_until: Option<Tick>,
    pub(crate) suspended_for: Duration,
    /// What was on disk, each second of a run in which an old state directory comes back.
    pub(crate) old_disks: Vec<(Tick, Disk)>,
    pub(crate) backlog: Vec<Delivery>,
    pub(crate) network: Network,
    pub(crate) wake: Option<Tick>,
    pub(crate) session: Option<Session>,
    pub(crate) sessions: u64,
    /// When what HAProxy said last arrives: in order.
    pub(crate) heard_at: Tick,
    /// lb-sync is told, or will be, that its session is over: once.
    pub(crate) is_loss_told: bool,
    /// Until when the runtime socket says nothing.
    pub(crate) hung_until: Tick,
    /// Until when lb-sync may not have seen what an operator changed: by hand, or by another configuration.
    pub(crate) edited_until: Option<Tick>,
    /// HAProxy was given another configuration in this run.
    pub(crate) is_reconfigured: bool,
    /// The services that its presence names, or did when it was last there, and since when.
    pub(crate) announced: BTreeMap<String, Tick>,
    /// Until when every check fails.
    pub(crate) lies_until: Tick,
    pub(crate) writer: FilesWriter,
    pub(crate) checks_at: Option<Tick>,
    /// Since when nothing has happened to it.
    pub changed: Tick,
    /// Since when it has no presence in etcd.
    pub absent_since: Option<Tick>,
    /// Since when it had none before its presence was written last, and when that was.
    pub returned: Option<(Tick, Tick)>,
    /// Its suspects, as last seen.
    pub(crate) suspects: BTreeSet<InstanceId>,
    /// Who has had which HAProxy id.
    pub(crate) ids: BTreeMap<(String, String), String>,
    /// Clients' cookies, and when each was last of use.
    pub(crate) cookies: BTreeMap<(usize, u64), Cookie>,
}

/// A connection to a runtime socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    /// Who accepted it.
    pub(crate) worker: WorkerId,
    /// Counts connections: an answer on one that was given up is dropped.
    pub(crate) number: u64,
}

/// A client's cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cookie {
    /// The name of the server.
    pub(crate) server: String,
    /// Where that was.
    pub(crate) addr: SocketAddr,
    /// When it was of use last.
    pub(crate) served: Tick,
}

/// The writer of a balancer's files.
#[derive(Debug, Default)]
pub(crate) struct FilesWriter {
    pub(crate) is_busy: bool,
    /// What is to be written next.
    pub(crate) next: Option<Arc<Desired>>,
}

/// Counts of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events.
    pub events: u64,
    /// Requests.
    pub requests: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Leaves that were acked by all.
    pub leaves: u64,
    /// Leaves that ended by their deadline.
    pub timed_out: u64,
}

impl Counts {
    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.requests += other.requests;
        self.failed += other.failed;
        self.leaves += other.leaves;
        self.timed_out += other.timed_out;
    }
}

/// The world.
#[derive(Debug)]
pub struct World {
    /// The options of the run.
    pub options: Options,
    /// Now.
    pub now: Tick,
    queue: BinaryHeap<Reverse<Queued>>,
    queued: u64,
    pub(crate) draws: Draws,
    /// The registry.
    pub etcd: Etcd,
    pub(crate) backups: Vec<(Tick, Store)>,
    pub(crate) streams: BTreeMap<etcd::StreamId, (Process, u32)>,
    /// Of an etcd that has another history by now: what they had sent went with it.
    pub(crate) dead_streams: BTreeSet<etcd::StreamId>,
    pub(crate) resync_at: Option<Tick>,
    pub(crate) last_delivery: BTreeMap<etcd::StreamId, Tick>,
    /// Registrars.
    pub registrars: Vec<RegistrarSlot>,
    /// Balancers.
    pub balancers: Vec<BalancerSlot>,
    /// Apps, by address.
    pub apps: BTreeMap<SocketAddr, App>,
    pub(crate) incarnations: u64,
    /// When a process that was paused went on.
    pub(crate) resumed: BTreeMap<Process, Tick>,
    /// Of a thousand calls to etcd so many are lost, until then.
    pub(crate) lossy: (u64, Tick),
    pub(crate) requests: BTreeMap<(usize, WorkerId, StreamId), Request>,
    pub(crate) burst_until: Tick,
    /// To which registrar's app an address was given last.
    pub(crate) given_to: BTreeMap<SocketAddr, usize>,
    /// Since when an address is no longer that of a second service.
    pub(crate) unshared: BTreeMap<SocketAddr, Tick>,
    /// When apps or `HAProxy`s last died by a fault.
    pub(crate) died: BTreeMap<usize, Tick>,
    /// When etcd last went away.
    pub(crate) etcd_went: Tick,
    /// When it was back.
    pub(crate) etcd_came: Tick,
    /// When an etcd-wide fault last was.
    pub(crate) history_broke: Option<Tick>,
    /// What has happened so far.
    pub counts: Counts,
    /// Since when two registrars believe that they have the same name.
    pub(crate) name_shared_since: Option<Tick>,
    /// All has come to rest: nothing changes any more.
    pub(crate) at_rest: bool,
    /// What went wrong.
    pub violations: Vec<Violation>,
    /// Coverage marks, each with how often it was hit.
    pub marks: Marks,
    /// One line for each event, if wanted.
    pub trace: Option<Vec<String>>,
}

#[derive(Debug)]
struct Queued {
    at: Tick,
    tie: u64,
    number: u64,
    /// Apart: the queue moves its entries about.
    event: Box<Event>,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.tie, self.number).cmp(&(other.at, other.tie, other.number))
    }
}

impl World {
    /// The world of `script`, at its beginning.
    #[must_use]
    pub fn new(script: &Script) -> Self {
        let options = script.options.clone();
        let now = Tick::from_ms(1_000);
        let mut world = Self {
            now,
            queue: BinaryHeap::new(),
            queued: 0,
            draws: Draws::new(options.noise),
            etcd: Etcd::default(),
            backups: Vec::new(),
            streams: BTreeMap::new(),
            dead_streams: BTreeSet::new(),
            resync_at: None,
            last_delivery: BTreeMap::new(),
            registrars: Vec::new(),
            balancers: Vec::new(),
            apps: BTreeMap::new(),
            incarnations: 0,
            resumed: BTreeMap::new(),
            lossy: (0, Tick::default()),
            requests: BTreeMap::new(),
            burst_until: Tick::default(),
            given_to: BTreeMap::new(),
            unshared: BTreeMap::new(),
            died: BTreeMap::new(),
            etcd_went: Tick::default(),
            etcd_came: Tick::default(),
            history_broke: None,
            counts: Counts::default(),
            violations: Vec::new(),
            marks: Marks::new(),
            name_shared_since: None,
            at_rest: false,
            trace: None,
            options,
        };
        let Options { services, instances, balancers, .. } = world.options.clone();
        for service in 0..usize::try_from(services).unwrap_or(1) {
            for number in 0..instances {
                world.add_registrar(
                    service,
                    format!("{}-{number}", service_name(service)),
                    Some(Duration::ZERO),
                );
            }
        }
        for slot in 0..world.registrars.len() {
            world.at(now, Event::StartRegistrar(slot));
        }
        let backends: Vec<String> = (0..usize::try_from(services).unwrap_or(1)).map(service_name).collect();
        for balancer in 0..usize::try_from(balancers).unwrap_or(1) {
            world.balancers.push(BalancerSlot {
                haproxy: Haproxy::new(now, backends.clone(), world.options.files == 1, world.options.version),
                process: None,
                life: 0,
                disk: Disk::default(),
                paused_until: None,
                suspended_for: Duration::ZERO,
                old_disks: Vec::new(),
                backlog: Vec::new(),
                network: Network::default(),
                wake: None,
                session: None,
                sessions: 0,
                heard_at: now,
                is_loss_told: false,
                hung_until: Tick::default(),
                edited_until: None,
                is_reconfigured: false,
                announced: BTreeMap::new(),
                lies_until: Tick::default(),
                checks_at: None,
                changed: now,
                absent_since: Some(now),
                returned: None,
                writer: FilesWriter::default(),
                suspects: BTreeSet::new(),
                ids: BTreeMap::new(),
                cookies: BTreeMap::new(),
            });
            world.at(now, Event::StartBalancer(balancer));
            for service in 0..backends.len() {
                world.at(now.plus(Duration::from_secs(3)), Event::Client { balancer, service });
            }
        }
        world.at(now.plus(etcd::EXPIRE_EVERY), Event::ExpireLeases);
        if script.ops.iter().any(|(_, op)| matches!(op, Op::Restore(..) | Op::OldDisk(..))) {
            world.at(now.plus(Duration::from_secs(1)), Event::Backup);
        }
        for (ms, op) in &script.ops {
            world.at(now.plus(Duration::from_millis(*ms)), Event::Op(*op));
        }
        world
    }

    pub(crate) fn add_registrar(
        &mut self,
        service: usize,
        name: String,
        restart_after: Option<Duration>,
    ) -> usize {
        self.registrars.push(RegistrarSlot {
            service,
            name,
            process: None,
            life: 0,
            paused_until: None,
            suspended_for: Duration::ZERO,
            backlog: Vec::new(),
            network: Network::default(),
            wake: None,
            shares: None,
            stubborn: false,
            app: None,
            ill_until: Tick::default(),
            crashes_until: Tick::default(),
            stopping: false,
            timed_out: false,
            stood: None,
            restart_after,
            overridden: false,
            ordered: Tick::default(),
            started: self.now,
            changed: self.now,
        });
        self.registrars.len() - 1
    }

    pub(crate) fn at(&mut self, at: Tick, event: Event) {
        self.queued += 1;
        let number = self.queued;
        let tie = if self.options.noise == 0 { number } else { self.draws.tie(number) };
        self.queue.push(Reverse(Queued { at: at.max(self.now), tie, number, event: Box::new(event) }));
    }

    pub(crate) fn after(&mut self, wait: Duration, event: Event) {
        self.at(self.now.plus(wait), event);
    }

    /// Runs until `end`, or until something went wrong. Returns whether time is up.
    pub fn run_until(&mut self, end: Tick) -> bool {
        while self.violations.is_empty() {
            if self.counts.events > EVENTS_MAX {
                self.violate("bounds", "a run of more than two million events");
                break;
            }
            match self.queue.peek() {
                Some(Reverse(next)) if next.at <= end => {}
                _ => {
                    self.now = end;
                    return true;
                }
            }
            self.step();
        }
        false
    }

    /// The next event. `false`: there is none.
    pub fn step(&mut self) -> bool {
        let Some(Reverse(Queued { at, event, .. })) = self.queue.pop() else { return false };
        self.now = at;
        self.counts.events += 1;
        if self.trace.is_some() {
            self.note(format!("{event:?}"));
        }
        self.handle(*event);
        self.send_etcd_messages();
        true
    }

    /// A line for the trace.
    pub(crate) fn note(&mut self, mut line: String) {
        let ms = self.now.since(Tick::from_ms(1_000)).as_micros();
        if let Some(trace) = &mut self.trace {
            if let Some((cut, _)) = line.char_indices().nth(2_000) {
                line.truncate(cut);
            }
            trace.push(format!("{:>10}.{:03} {line}", ms / 1_000, ms % 1_000));
        }
    }

    pub(crate) fn mark(&mut self, mark: &str) {
        marks::count(&mut self.marks, mark);
    }

    /// Nothing is pending: from now on nothing may change.
    pub(crate) fn come_to_rest(&mut self) {
        self.at_rest = true;
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Op(op) => self.begin(op),
            Event::Deliver { to, life, delivery } => self.deliver(to, life, delivery),
            Event::Arrive { from, life, call, sent } => self.serve_call(from, life, call, sent),
            Event::ExpireLeases => {
                self.etcd.expire(self.now);
                self.check_leases();
                self.check_names();
                self.check_serving();
                self.watch_presence();
                self.after(etcd::EXPIRE_EVERY, Event::ExpireLeases);
            }
            Event::Resync => self.etcd.resync(self.now),
            Event::Backup => {
                if self.etcd.is_up() {
                    self.backups.push((self.now, self.etcd.backup()));
                }
                for slot in &mut self.balancers {
                    let disk = slot.process.as_ref().map_or(&slot.disk, |process| &process.disk);
                    slot.old_disks.push((self.now, disk.clone()));
                }
                self.after(Duration::from_secs(1), Event::Backup);
            }
            Event::EtcdBack(past) => self.etcd_back(past),
            Event::Commands { balancer, life, session, lines } => {
                self.take_commands(balancer, life, session, lines);
            }
            Event::Checks { balancer, at } => self.run_checks(balancer, at),
            Event::FilesWritten { balancer, life, desired } => self.files_written(balancer, life, &desired),
            Event::StartHaproxy(balancer) => self.start_haproxy(balancer),
            Event::ConfigureHaproxy(balancer) => self.configure_haproxy(balancer, None),
            Event::Client { balancer, service } => self.client(balancer, service),
            Event::KeptRequest { balancer, worker } => self.kept_request(balancer, worker),
            Event::RequestEnds { balancer, worker, stream } => self.request_ends(balancer, worker, stream),
            Event::StartRegistrar(slot) => self.start_registrar(slot),
            Event::StopRegistrar(slot) => self.stop_registrar(slot),
            Event::StartBalancer(balancer) => self.start_balancer(balancer),
            Event::Resume(process) => self.resume(process),
            Event::AppExits { registrar, incarnation } => self.app_exits(registrar, incarnation),
            Event::AppCrashes { registrar, incarnation } => self.app_crashes(registrar, incarnation),
            Event::ClearOverride(slot) => self.clear_override(slot),
            Event::NotFull => {
                self.etcd.set_full(false);
                self.etcd_came = self.now;
            }
        }
    }

    pub(crate) fn violate(&mut self, oracle: &'static str, what: impl Into<String>) {
        let ms = u64::try_from(self.now.since(Tick::from_ms(1_000)).as_millis()).unwrap_or(0);
        self.violations.push(Violation { oracle, what: what.into(), at_ms: ms });
    }

    /// The registrar that has registered what listens at `addr` in `service`.
    pub(crate) fn registrar_at(&self, addr: SocketAddr, service: usize) -> Option<usize> {
        let app = self.apps.get(&addr).filter(|app| self.now >= app.since)?;
        if app.service == service {
            return Some(app.registrar);
        }
        let shares = |slot: &RegistrarSlot| {
            slot.service == service && slot.shares == Some((addr, app.incarnation)) && slot.app.is_some()
        };
        self.registrars.iter().position(shares)
    }

    /// The lowest free address: addresses are given out anew at once, as Docker does.
    pub(crate) fn free_address(&self) -> SocketAddr {
        let taken: BTreeSet<SocketAddr> = self
            .apps
            .keys()
            .copied()
            .chain(
                self.registrars.iter().filter_map(|slot| slot.process.as_ref().map(|process| process.addr)),
            )
            .collect();
        (1..=250_u8)
            .map(|n| SocketAddr::from(([10, 0, 0, n], 80)))
            .find(|addr| !taken.contains(addr))
            .unwrap_or_else(|| SocketAddr::from(([10, 0, 1, 1], 80)))
    }
}

/// The name of a service.
#[must_use]
pub fn service_name(service: usize) -> String {
    ["web", "api", "shop"].get(service).map_or_else(|| format!("s{service}"), |name| (*name).to_owned())
}

/// The host of a balancer.
#[must_use]
pub fn balancer_host(balancer: usize) -> String {
    format!("host-{balancer}")
}
