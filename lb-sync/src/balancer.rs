//! The balancer: the requests to one HAProxy, and what the registry learns of it. A machine without I/O.
//!
//! [`Balancer::step`] takes what has happened and returns what to do. It owns the view of the registry, what was observed
//! of HAProxy, and the planner. It goes by levels, not by events: an event only names the instances to look at.
//!
//! One request to HAProxy is under way at a time ([`conversation`]). Every request begins with `show info`, so that each
//! answer says which HAProxy process gave it. A [`round`] carries out what the planner has planned, reads back what was
//! touched, and has it planned again, until nothing is left to do. [`schedule`] says what is due by itself.
//! [`task`] performs the actions.

mod backends;
mod conversation;
mod error;
mod events;
mod health;
mod held_acks;
pub(crate) mod presence;
mod publisher;
pub(crate) mod reading;
mod round;
mod routes;
mod schedule;
mod task;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use daemon::log_once::LogOnce;
use proto::health::Status;
use registry::follow::Event;
use registry::key::{AckKey, Prefix};
use registry::lease::{LeaseId, TimeToLive};
use registry::name::{BalancerName, InstanceId};
use registry::record::BalancerRecord;
use registry::time::Tick;

pub(crate) use backends::can_add_backends;
pub use error::PassError;
pub use presence::PresenceStatus;
pub use task::{BalancerTask, Outputs};

use crate::condition::SyncCondition;
use crate::files::{Desired, Files, FilesAction, WriterRequests};
use crate::plan::ids::{Ids, SavedIds};
use crate::plan::observed::Observed;
use crate::plan::pending::PendingPlan;
use crate::plan::{AckValue, Planner, Policy};
use crate::port::{JournalEvent, Metrics, PassProgress, Report};
use crate::scope::Scope;
use crate::snapshot::{self, Snapshot};
use crate::view::{GuardPolicy, View};
use backends::BackendMaker;
use conversation::{Activity, Talk};
use haproxy::answer::info::Info;
use haproxy::{BackendName, Command, DialogueError};
use presence::Presence;
use publisher::Publisher;
use routes::RouteSync;
use schedule::Schedule;

/// Commands in one request. Each `add server` stops all of HAProxy's threads for a moment; HAProxy takes up traffic
/// again between requests (5,000 present: batches of 50 pushed the slowest request to 29 ms, batches of 10 to 9 ms).
const COMMANDS_MAX: usize = 10;

/// How long after a change the view is copied for the disk.
const COPY_AFTER: Duration = Duration::from_millis(200);
/// Shortest time between two writings of everything for another history of etcd: the lease and each list tell of it.
const DOUBT_EVERY: Duration = Duration::from_secs(2);
/// How long etcd may take to answer before what is known from the disk is acted on.
const DISK_AFTER: Duration = Duration::from_millis(1_500);

/// Longest that the first servers of a life wait for its presence to stand. An etcd that can be read and not written must
/// not keep HAProxy empty.
const PRESENCE_WAIT_MAX: Duration = Duration::from_secs(3);

/// Longest that the files wait for the end of what is under way.
const FILES_WAIT_MAX: Duration = Duration::from_secs(1);

/// How one HAProxy is made to follow the registry.
#[derive(Clone, Debug)]
pub struct BalancerConfig {
    /// HAProxy's runtime socket.
    pub socket: PathBuf,
    /// Where the registry stands in etcd.
    pub prefix: Prefix,
    /// How servers are made.
    pub policy: Policy,
    /// When an expiry is not believed.
    pub guard: GuardPolicy,
    /// The `defaults` section that a new service's backend is made from, where HAProxy can do that while it runs.
    pub backend_defaults: Option<BackendName>,
    /// What was known before etcd is heard.
    pub snapshot: Option<Snapshot>,
    /// Whether there is a master socket: after a reload it says when the last old worker has ended.
    pub has_master: bool,
}

/// What this life of lb-sync says of itself in its presence record.
#[derive(Clone, Debug)]
pub struct Life {
    /// The name that the balancer was given.
    pub name: BalancerName,
    /// A random id.
    pub id: String,
    /// The host's name.
    pub host: String,
    /// The boot id of the host's kernel.
    pub boot: String,
    /// HAProxy's runtime socket.
    pub socket: String,
    /// `ADDR:PORT` of the status port.
    pub status: String,
}

impl Life {
    /// The presence record, as far as it does not depend on HAProxy.
    #[must_use]
    pub fn record(&self) -> BalancerRecord {
        let Self { id, host, boot, socket, status, .. } = self.clone();
        let lb_sync_version = env!("CARGO_PKG_VERSION").to_owned();
        let (services, haproxy_version) = (vec![], String::new());
        BalancerRecord {
            id: Some(id),
            host,
            boot,
            socket,
            services,
            haproxy_version,
            lb_sync_version,
            status,
        }
    }
}

/// Something that has happened.
#[derive(Debug)]
pub enum Input {
    /// An event of the follower of `instances/`.
    Instances(Event),
    /// An event of the follower of `overrides/`.
    Overrides(Event),
    /// An event of the follower of `balancers/`.
    Balancers(Event),
    /// What is known of the presence record that was put last.
    Presence(PresenceStatus),
    /// etcd says that these leases live, and how much time they have.
    LeasesAlive(Vec<(InstanceId, LeaseId, TimeToLive)>),
    /// There is a session with HAProxy.
    Connected,
    /// HAProxy's answers to the last [`Action::Ask`], one for each command.
    Answers(Vec<String>),
    /// The session with HAProxy is over, or could not be begun.
    Lost(DialogueError),
    /// The writer of the files asks for something.
    Files(WriterRequests),
    /// Below this, HAProxy ids may be given out.
    IdsReserved(u32),
    /// How many old workers HAProxy has; `None` where its master did not say.
    OldWorkers(Option<usize>),
    /// [`Balancer::wake_at`] has come.
    Woke,
}

/// Something to do.
#[derive(Debug)]
pub enum Action {
    /// Begin a session with HAProxy: [`Input::Connected`] or [`Input::Lost`] follows.
    Connect,
    /// Give the session up.
    Disconnect,
    /// Send these commands in one request: [`Input::Answers`] or [`Input::Lost`] follows. At most one is under way.
    Ask(Vec<Command>),
    /// Write an ack.
    PutAck(AckKey, AckValue),
    /// Take an ack back.
    RemoveAck(AckKey),
    /// Acks and presence may not stand any more, since etcd has another history: write them again.
    DoubtKeys,
    /// Write the presence record under a name of this life: [`Input::Presence`] follows.
    PutPresence {
        /// The name.
        name: BalancerName,
        /// The record.
        record: BalancerRecord,
        /// Claim the name, or put its key right: write only if the key's `mod_revision` is this.
        expected: Option<i64>,
    },
    /// Publish health, by name.
    PutHealth(BTreeMap<String, Status>),
    /// Ask etcd which of these leases live: [`Input::LeasesAlive`] follows.
    CheckLeases(Vec<(InstanceId, LeaseId)>),
    /// Ask HAProxy's master how many old workers there are: [`Input::OldWorkers`] follows.
    CountOldWorkers,
    /// Write the view to disk.
    SaveSnapshot(Snapshot),
    /// Write to disk which instance has which HAProxy id: [`Input::IdsReserved`] follows.
    SaveIds(Arc<SavedIds>),
    /// Hand over what the files should say.
    WriteFiles(Arc<Desired>),
    /// Add this to the journal.
    Record(JournalEvent),
    /// The status page may look different from now on.
    StatusChanged,
}

/// The machine.
#[derive(Debug)]
pub struct Balancer {
    view: View,
    observed: Observed,
    planner: Planner,
    schedule: Schedule,
    talk: Talk,
    activity: Activity,
    /// The HAProxy process that is known.
    worker: Option<Info>,
    publisher: Publisher,
    files: Files,
    routes: RouteSync,
    backends: BackendMaker,
    /// Whether the view is kept on disk.
    saves_snapshots: bool,
    /// Which view was copied last (by its count of changes), and when.
    copied: (u64, Tick),
    /// When the view, which has changed since, is to be copied.
    copy_at: Option<Tick>,
    /// Instances to look at: something newer has happened to them.
    dirty: Scope,
    /// Instances that were read back, or read on, and are to be planned again.
    replan: BTreeSet<InstanceId>,
    /// What is planned and not done yet.
    pending: PendingPlan,
    metrics: Metrics,
    /// When the changes that wait to be carried out were received.
    arrived: BTreeMap<InstanceId, Tick>,
    /// How often anything was read from HAProxy.
    reads: u64,
    /// When the last pass was, and when all of HAProxy's state was last read.
    passed: Option<Tick>,
    read_at: Tick,
    /// When everything was last carried out and read back.
    rested_at: Tick,
    /// Until when the next commands wait for HAProxy ids to be reserved on disk.
    ids_wait_until: Option<Tick>,
    /// Whether there is a master socket, and when it is asked for old workers.
    has_master: bool,
    count_at: Option<Tick>,
    count_until: Tick,
    /// From when on what is known from the disk may be acted on.
    disk_from: Tick,
    /// How often the lease was seen to be of another history of etcd, and when all was last written again for one.
    histories: u64,
    doubted_at: Option<Tick>,
    /// The instances that the disk knew, until the servers that HAProxy had at the start are compared with it and with etcd.
    known_on_disk: Option<BTreeSet<InstanceId>>,
    /// The first servers of this life wait for its presence to stand, at most until then.
    waits_for_presence: bool,
    presence_until: Option<Tick>,
    /// The last failure, so that each is logged once.
    log_once: LogOnce,
    actions: Vec<Action>,
}

impl Balancer {
    /// Knows nothing yet but for the snapshot. `seed` spreads waits.
    #[must_use]
    pub fn new(
        now: Tick,
        seed: u64,
        mut config: BalancerConfig,
        life: Life,
        (files, ids): (Files, Option<Ids>),
    ) -> Self {
        let presence = Presence::new(config.prefix.clone(), life);
        let mut view = View::guarded(config.prefix, config.guard);
        let on_disk = config.snapshot.iter().flat_map(|snapshot| snapshot.instances.keys());
        let known_on_disk = Some(on_disk.filter_map(|id| id.parse().ok()).collect());
        if let Some(snapshot) = config.snapshot.take() {
            let instances = snapshot.instances.len();
            tracing::warn!(instances, "etcd has not answered yet: serving from the snapshot on disk");
            view.restore(snapshot);
        }
        let mut planner = Planner::new(config.policy);
        let check_every =
            config.policy.check.map(|check| Duration::from_millis(check.inter.as_millis().into()));
        let saves_snapshots = ids.is_some();
        if let Some(ids) = ids {
            *planner.ids_mut() = ids;
        }
        Self {
            view,
            observed: Observed::default(),
            planner,
            schedule: Schedule::new(now, seed, check_every),
            talk: Talk::Away,
            activity: Activity::None,
            worker: None,
            publisher: Publisher::new(presence),
            files,
            routes: RouteSync::default(),
            backends: BackendMaker::new(config.backend_defaults),
            saves_snapshots,
            copied: (0, Tick::default()),
            copy_at: None,
            dirty: Scope::none(),
            replan: BTreeSet::new(),
            pending: PendingPlan::default(),
            metrics: Metrics::default(),
            arrived: BTreeMap::new(),
            reads: 0,
            passed: None,
            read_at: Tick::default(),
            rested_at: now,
            ids_wait_until: None,
            has_master: config.has_master,
            count_at: None,
            count_until: now,
            disk_from: now.plus(DISK_AFTER),
            histories: 0,
            doubted_at: None,
            known_on_disk,
            waits_for_presence: false,
            presence_until: None,
            log_once: LogOnce::default(),
            actions: Vec::new(),
        }
    }

    /// Takes in what has happened until `now`, all of it, and returns what to do, in this order.
    pub fn step(&mut self, now: Tick, inputs: impl IntoIterator<Item = Input>) -> Vec<Action> {
        let was_in_sync = self.view.in_sync();
        self.view.set_now(now);
        if was_in_sync != self.view.in_sync() {
            self.sync_changed();
        }
        for input in inputs {
            self.handle(now, input);
        }
        if self.view.take_history_broke() {
            self.history_broke(now);
        }
        if self.count_at.is_some_and(|at| now >= at) {
            self.count_at = None;
            self.actions.push(Action::CountOldWorkers);
        }
        let queries = self.view.take_lease_queries(now);
        if !queries.is_empty() {
            self.actions.push(Action::CheckLeases(queries));
        }
        self.proceed(now);
        if self.is_at_rest() && self.dirty.is_empty() {
            self.arrived.clear();
        }
        self.publish(now);
        self.copy_view(now);
        self.write_files(now);
        let held = self.publisher.acks_to_plan(now, &self.files);
        if !held.is_empty() {
            self.dirty.extend(held);
            self.proceed(now);
        }
        std::mem::take(&mut self.actions)
    }

    /// When [`Input::Woke`] is wanted, if nothing else happens before.
    #[must_use]
    pub fn wake_at(&self) -> Option<Tick> {
        let is_idle = self.is_waiting() && self.is_connected();
        let planned = if self.waits_for_presence { self.presence_until } else { self.planner.wake_at() };
        let planned = planned.filter(|_| is_idle);
        let due = self.is_waiting().then(|| self.schedule.wake_at());
        let waits_for_disk = self.view.is_from_disk() && !self.dirty.is_empty() && !self.has_own_servers();
        let disk = (waits_for_disk && is_idle && !self.waits_for_presence).then_some(self.disk_from);
        let waits = [
            disk,
            self.count_at,
            planned,
            due,
            self.ids_wait_until,
            self.view.wake_at(),
            self.files
                .wake_at()
                .map(|at| if self.is_at_rest() { at } else { at.max(self.files_wait_until()) }),
            self.publisher.wake_at(),
        ];
        waits.into_iter().flatten().min()
    }

    /// Whether nothing is being carried out, or read back: what is reported then is what HAProxy has.
    #[must_use]
    pub fn is_between_rounds(&self) -> bool {
        matches!(self.activity, Activity::None)
    }

    /// How everything stands.
    #[must_use]
    pub fn report(&self, now: Tick, generation: u64) -> Report {
        let progress = PassProgress { generation, passed: self.passed, read_at: self.read_at };
        let presence = &self.publisher.presence;
        let published = ((&presence.life().name, presence.name()), self.publisher.known());
        Report::of(&self.condition(now), &self.planner, published, &self.metrics, progress)
    }

    /// How lb-sync stands with etcd and HAProxy.
    #[must_use]
    pub fn condition(&self, now: Tick) -> SyncCondition<'_> {
        let (view, observed, reads) = (&self.view, &self.observed, self.reads);
        SyncCondition {
            now,
            view,
            observed,
            reads,
            worker: self.worker.as_ref().filter(|_| self.is_connected()),
        }
    }

    fn handle(&mut self, now: Tick, input: Input) {
        let was_in_sync = self.view.in_sync();
        if let Input::Instances(Event::OutOfSync) | Input::Overrides(Event::OutOfSync) = input {
            self.metrics.watch_restarts += 1;
        }
        let changed = match input {
            Input::Instances(event) => {
                let (planner, observed) = (&self.planner, &self.observed);
                let is_down = |id: &InstanceId| planner.is_down(observed.server(id));
                self.view.fold_instances_beside(now, event, &is_down)
            }
            Input::Overrides(event) => self.view.fold_overrides(now, event),
            Input::Balancers(event) => {
                self.publisher.presence.fold(event);
                Scope::none()
            }
            Input::Presence(status) => {
                if std::mem::replace(&mut self.histories, status.histories) != status.histories {
                    self.history_broke(now);
                    self.mark_dirty(Scope::All);
                }
                self.publisher.presence.status(status);
                // What waits for it goes on in this step.
                self.publisher.publish_presence(&mut self.actions);
                Scope::none()
            }
            Input::LeasesAlive(alive) => {
                let mut changed = Scope::none();
                for (id, lease, ttl) in alive {
                    changed.extend(self.view.lease_lives(now, &id, lease, ttl));
                }
                changed
            }
            Input::OldWorkers(count) => self.old_workers(now, count),
            Input::Woke => {
                let (planner, observed) = (&self.planner, &self.observed);
                let is_down = |id: &InstanceId| planner.is_down(observed.server(id));
                self.view.expire(now, planner.has_checks().then_some(&is_down))
            }
            Input::Connected => self.connected(),
            Input::Answers(answers) => self.answers(now, &answers),
            Input::Lost(error) => self.lost(now, &error.into()),
            Input::Files(requests) => self.files.handle_requests(requests),
            Input::IdsReserved(below) => self.files.ids_reserved(below),
        };
        if let Scope::Only(ids) = &changed {
            for id in ids {
                self.arrived.entry(id.clone()).or_insert(now);
            }
        }
        self.mark_dirty(changed);
        if was_in_sync != self.view.in_sync() {
            self.sync_changed();
        }
    }

    fn mark_dirty(&mut self, scope: Scope) {
        self.files.mark_dirty(&scope);
        self.dirty.extend(scope);
    }

    /// etcd has another history, as the lease or a list tells. What does not hold in it is taken back first, and the rest is
    /// written again, once for all that tell of it.
    fn history_broke(&mut self, now: Tick) {
        self.publisher.history_broke(&mut self.actions);
        if self.doubted_at.is_none_or(|at| now.since(at) >= DOUBT_EVERY) {
            self.doubted_at = Some(now);
            self.actions.push(Action::DoubtKeys);
        }
    }

    /// What had to wait for the view to be current is looked at now.
    fn sync_changed(&mut self) {
        self.mark_dirty(Scope::All);
        self.routes.invalidate();
        self.actions.push(Action::StatusChanged);
        let instances = self.view.instances().len();
        if self.view.in_sync() {
            self.publisher.repeat_acks();
            self.record("in sync with etcd", format!("instances: {instances}"));
            tracing::info!(instances, "in sync with etcd");
        } else {
            self.metrics.out_of_sync += 1;
            self.record("out of sync with etcd", "all stay served, nothing is drained or deleted");
            tracing::warn!(
                instances,
                "out of sync with etcd: all stay served, nothing is drained or deleted"
            );
            // A restart in the meantime begins with what is known now, not with what was up to two seconds ago.
            self.flush_view();
        }
    }

    /// Remembers something that concerns all instances.
    fn record(&mut self, what: impl Into<String>, why: impl Into<String>) {
        let event = JournalEvent { what: what.into(), why: why.into(), ..JournalEvent::default() };
        self.actions.push(Action::Record(event));
    }

    /// Remembers something that concerns one instance.
    fn record_of(&mut self, id: &InstanceId, what: &str, why: &str) {
        let (instance, what, why) = (Some(id.to_string()), what.into(), why.into());
        self.actions.push(Action::Record(JournalEvent { instance, what, why, ..JournalEvent::default() }));
    }

    fn publish(&mut self, now: Tick) {
        let (view, observed, reads) = (&self.view, &self.observed, self.reads);
        let worker = self.worker.as_ref().filter(|_| self.talk.is_connected());
        let condition = SyncCondition { now, view, observed, reads, worker };
        self.publisher.publish(&condition, &mut self.actions);
    }

    /// Copies the view for the disk if it has changed, which takes some milliseconds at 10,000 instances: not before what has
    /// changed is carried out, not in every step, and only where a copy is kept. A ping comes soon enough for it.
    fn copy_view(&mut self, now: Tick) {
        let (changes, at) = self.copied;
        if changes == self.view.changes() || !self.saves_snapshots {
            return;
        }
        let soon = now.plus(COPY_AFTER).max(at.plus(snapshot::WRITE_EVERY));
        let copy_at = *self.copy_at.get_or_insert(soon);
        let may_wait = !self.is_at_rest() && now < copy_at.plus(snapshot::WRITE_EVERY);
        if now >= copy_at && !may_wait && self.view.in_sync() {
            (self.copied, self.copy_at) = ((self.view.changes(), now), None);
            self.actions.extend(self.view.snapshot().map(Action::SaveSnapshot));
        }
    }

    /// Copies the view for the disk, if it has changed since the last copy.
    fn flush_view(&mut self) {
        if self.saves_snapshots && self.copied.0 != self.view.changes() {
            (self.copied.0, self.copy_at) = (self.view.changes(), None);
            self.actions.extend(self.view.snapshot().map(Action::SaveSnapshot));
        }
    }

    /// What a next life begins with; `None` where nothing is kept on disk, or etcd was never heard.
    #[must_use]
    pub fn last_view(&self) -> Option<Snapshot> {
        self.view.snapshot().filter(|_| self.saves_snapshots && !self.view.is_from_disk())
    }

    /// Until when the files wait for the end of a round.
    fn files_wait_until(&self) -> Tick {
        self.rested_at.plus(FILES_WAIT_MAX)
    }

    /// Says what the files should say: after a round, so that it is not in the way of commands. A registry that never rests
    /// does not keep the files from being written.
    fn write_files(&mut self, now: Tick) {
        if self.is_at_rest() {
            self.rested_at = now;
        } else if now < self.files_wait_until() {
            return;
        }
        self.routes.read_view(&self.view);
        let connected = self.is_connected();
        let known = (&self.observed, self.backends.made());
        let actions = self.files.draw(
            now,
            (&self.view, self.routes.routes()),
            known,
            connected,
            self.planner.ids_mut(),
        );
        self.actions.extend(actions.into_iter().map(|action| match action {
            FilesAction::Sections(desired) => Action::WriteFiles(desired),
            FilesAction::Ids(ids) => Action::SaveIds(ids),
        }));
    }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
