//! The task: waits for something to happen, takes it in, and passes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use registry::follow::{Event, Following};
use registry::key::Prefix;
use registry::lease::{LeaseId, lives};
use registry::name::InstanceId;
use registry::session::Session;
use registry::time::{Clock, Tick};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::backends::{self, BackendMaker};
use super::routes::RouteKeeper;
use super::schedule::{Due, Schedule};
use super::{PassError, apply, log, observe};
use crate::files::Files;
use crate::haproxy::answer::info::Info;
use crate::haproxy::{BackendName, Dialogue, DialogueError};
use crate::notify::{self, Manager};
use crate::plan::ids::Ids;
use crate::plan::observed::Observed;
use crate::plan::pending::PendingPlan;
use crate::plan::{Planner, Policy};
use crate::snapshot::{self, Snapshot};
use crate::status::{JournalEvent, Metrics, PassProgress, Report, StatusPublisher};
use crate::tell::{Publisher, SyncCondition};
use crate::view::{GuardPolicy, Scope, View};

/// Longest that HAProxy may take to answer one request; it answers 10,000 rows in 50 ms.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Plans in one pass. Three are usual: do, read back, find nothing left. What is left over is done in the next pass.
const ROUNDS_MAX: usize = 32;

/// How a pass is made.
#[derive(Clone, Debug)]
pub struct PassConfig {
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
}

/// The task and all that it owns.
pub struct Pass {
    config: PassConfig,
    view: View,
    observed: Observed,
    planner: Planner,
    schedule: Schedule,
    dialogue: Option<Dialogue>,
    /// The worker that is known.
    worker: Option<Info>,
    publisher: Publisher,
    manager: Manager,
    session: Session,
    /// Questions to etcd about the leases of suspects.
    lease_checks: JoinSet<Vec<(InstanceId, LeaseId)>>,
    /// Copies of the view for the disk.
    snapshots: watch::Sender<Option<Snapshot>>,
    /// Told what the files should say.
    files: Files,
    /// Which view was copied last (by its count of changes), and when.
    copied: (u64, Tick),
    /// Instances to look at in the next pass.
    dirty: Scope,
    /// What is planned and not done yet.
    pending: PendingPlan,
    routes: RouteKeeper,
    backends: BackendMaker,
    /// Who asks how things stand.
    status: StatusPublisher,
    totals: Metrics,
    /// When the changes that are to be passed for were taken up.
    arrived: BTreeMap<InstanceId, Tick>,
    /// How often anything was learnt of HAProxy.
    reads: u64,
    /// When the last pass was, and when all of HAProxy's state was last read.
    passed: Option<Tick>,
    read_at: Tick,
    /// The last failure, so that each is logged once.
    trouble: String,
}

/// What a pass waits for.
enum Input {
    Instances(Event),
    Overrides(Event),
    HaproxyGone(DialogueError),
    LeasesLive(Vec<(InstanceId, LeaseId)>),
    Asked(oneshot::Sender<Arc<Report>>),
    Woke,
    Shutdown,
}

impl Pass {
    /// Knows nothing yet but for the snapshot.
    #[must_use]
    pub fn new(
        mut config: PassConfig,
        session: Session,
        publisher: Publisher,
        status: StatusPublisher,
    ) -> Self {
        let mut view = View::guarded(config.prefix.clone(), config.guard);
        if let Some(snapshot) = config.snapshot.take() {
            let instances = snapshot.instances.len();
            tracing::warn!(instances, "until etcd is heard, serving from the snapshot on disk");
            view.restore(snapshot);
        }
        Self {
            view,
            observed: Observed::default(),
            planner: Planner::new(config.policy),
            schedule: Schedule::new(Clock.now(), fastrand::u64(..)),
            dialogue: None,
            worker: None,
            publisher,
            manager: Manager::of_this_process(),
            session,
            lease_checks: JoinSet::new(),
            snapshots: watch::Sender::default(),
            files: Files::default(),
            copied: (0, Tick::default()),
            dirty: Scope::none(),
            pending: PendingPlan::default(),
            routes: RouteKeeper::default(),
            backends: BackendMaker::default(),
            status,
            totals: Metrics::default(),
            arrived: BTreeMap::new(),
            reads: 0,
            passed: None,
            read_at: Tick::default(),
            trouble: String::new(),
            config,
        }
    }

    /// Passes until `shutdown`, or until a follower ends. HAProxy is left as it is.
    pub async fn run(
        mut self,
        mut instances: Following,
        mut overrides: Following,
        shutdown: CancellationToken,
    ) {
        loop {
            let wake_at = self.wake_at();
            let input = tokio::select! {
                biased;
                () = shutdown.cancelled() => Input::Shutdown,
                event = instances.recv() => event.map_or(Input::Shutdown, Input::Instances),
                event = overrides.recv() => event.map_or(Input::Shutdown, Input::Overrides),
                error = closed(&mut self.dialogue) => Input::HaproxyGone(error),
                Some(Ok(living)) = self.lease_checks.join_next() => Input::LeasesLive(living),
                () = self.files.asked() => Input::Woke,
                asker = self.status.asked() => Input::Asked(asker),
                () = Clock.until(Some(wake_at)) => Input::Woke,
            };
            if matches!(input, Input::Shutdown) {
                notify::stopping();
                return self.publisher.leave().await;
            }
            if let Input::Asked(asker) = input {
                // Whoever asked may have gone.
                let _ = asker.send(Arc::new(self.report()));
                continue;
            }
            self.handle(input);
            // Whatever came while the last pass ran is one burst: taken in as a whole.
            while let Ok(event) = instances.try_recv() {
                self.handle(Input::Instances(event));
            }
            while let Ok(event) = overrides.try_recv() {
                self.handle(Input::Overrides(event));
            }
            self.check_leases();
            self.keep_up().await;
            self.make_backends().await;
            self.pass(|| !instances.is_empty() || !overrides.is_empty() || shutdown.is_cancelled()).await;
            if self.dirty.is_empty() && self.pending.is_empty() {
                self.arrived.clear();
            }
            self.keep_routes().await;
            self.tell().await;
            self.copy_view();
            self.keep_files();
        }
    }

    /// Keeps files, and goes on from the ids that were kept.
    #[must_use]
    pub fn keeping(mut self, files: Files, ids: Option<Ids>) -> Self {
        self.files = files;
        if let Some(ids) = ids {
            *self.planner.ids_mut() = ids;
        }
        self
    }

    /// Copies of the view, each time it has changed, for [`snapshot::keep`].
    #[must_use]
    pub fn snapshots(&self) -> watch::Receiver<Option<Snapshot>> {
        self.snapshots.subscribe()
    }

    fn wake_at(&self) -> Tick {
        let planned = self.planner.wake_at().filter(|_| self.dialogue.is_some());
        [planned, self.view.wake_at(), self.files.wake_at()]
            .into_iter()
            .flatten()
            .fold(self.schedule.wake_at(), Tick::min)
    }

    fn handle(&mut self, input: Input) {
        let now = Clock.now();
        let was_in_sync = self.view.in_sync();
        if let Input::Instances(Event::OutOfSync) | Input::Overrides(Event::OutOfSync) = input {
            self.totals.watch_restarts += 1;
        }
        let changed = match input {
            Input::Instances(event) => self.view.fold_instances(now, event),
            Input::Overrides(event) => self.view.fold_overrides(now, event),
            Input::HaproxyGone(error) => {
                self.lost(&error.into());
                Scope::none()
            }
            Input::LeasesLive(living) => {
                let mut changed = Scope::none();
                for (id, lease) in living {
                    changed.extend(self.view.lease_lives(&id, lease));
                }
                changed
            }
            Input::Woke => self.view.expire(now),
            Input::Asked(_) | Input::Shutdown => Scope::none(),
        };
        if let Scope::Only(ids) = &changed {
            for id in ids {
                self.arrived.entry(id.clone()).or_insert(now);
            }
        }
        self.dirty.extend(changed);
        if was_in_sync != self.view.in_sync() {
            // What had to wait for the view to be current is looked at now.
            self.dirty = Scope::All;
            self.routes.again();
            let instances = self.view.instances().len();
            self.status.changed();
            if was_in_sync {
                self.totals.out_of_sync += 1;
                self.status
                    .journal
                    .say("out of sync with etcd", "all stay served, nothing is drained or deleted");
                tracing::warn!(
                    instances,
                    "out of sync with etcd: all stay served, nothing is drained or deleted"
                );
            } else {
                self.status.journal.say("in sync with etcd", format!("instances: {instances}"));
                tracing::info!(instances, "in sync with etcd");
            }
        }
        self.files.note(&self.dirty);
    }

    /// Says what the files should say, now that the pass is over.
    fn keep_files(&mut self) {
        let (connected, ids) = (self.dialogue.is_some(), self.planner.ids_mut());
        self.files.keep(
            Clock.now(),
            (&self.view, self.routes.routes()),
            (&self.observed, self.backends.made()),
            connected,
            ids,
        );
    }

    /// Copies the view for the disk if it has changed, which costs some milliseconds at 10,000 instances: not at every
    /// pass, and only where somebody keeps it.
    fn copy_view(&mut self) {
        let (now, (changes, at)) = (Clock.now(), self.copied);
        let due = changes != self.view.changes() && now.since(at) >= snapshot::WRITE_EVERY;
        if due && self.view.in_sync() && !self.snapshots.is_closed() {
            self.copied = (self.view.changes(), now);
            self.snapshots.send_replace(self.view.snapshot());
        }
    }

    /// Asks etcd whether the leases of new suspects live: then their keys were deleted on purpose.
    fn check_leases(&mut self) {
        let questions = self.view.take_lease_queries();
        if questions.is_empty() {
            return;
        }
        let session = self.session.clone();
        self.lease_checks.spawn(async move {
            let mut living = Vec::new();
            for (id, lease) in questions {
                // Unanswered, it stays a suspect: that is what a guard is for.
                if lives(&session, lease).await.unwrap_or(false) {
                    living.push((id, lease));
                }
            }
            living
        });
    }

    /// Does what is due without anything having happened.
    async fn keep_up(&mut self) {
        let Some(due) = self.schedule.due(Clock.now()) else {
            return;
        };
        let kept_up = match due {
            Due::Connect => self.connect().await,
            Due::Audit => self.audit().await,
            Due::Ping => self.ping().await,
        };
        if let Err(error) = kept_up {
            self.lost(&error);
        }
    }

    async fn connect(&mut self) -> Result<(), PassError> {
        self.dialogue = Some(Dialogue::connect(&self.config.socket, ANSWER_MAX).await?);
        // Whatever is there is news.
        self.read_all(&Observed::default()).await?;
        self.dirty = Scope::All;
        Ok(())
    }

    /// Reads everything anew, and says what somebody else has changed; the pass puts it right where it is ours. Where nothing
    /// is other than it was known to be, there is nothing to plan.
    async fn audit(&mut self) -> Result<(), PassError> {
        // Where the reading fails the dialogue begins anew, and with it what is observed.
        let before = std::mem::take(&mut self.observed);
        let refused_backends = self.backends.again();
        let news = self.read_all(&before).await?;
        self.dirty.extend(if refused_backends { Scope::All } else { news });
        // The files may have been changed by hand as well.
        self.files.note(&Scope::All);
        for id in self.observed.edited_since(&before) {
            tracing::warn!(instance = %id, "the audit found that somebody else has changed this server");
            self.totals.audit_findings += 1;
            let (what, why) = ("changed by somebody else".into(), "found by the audit".into());
            self.status.journal.note(JournalEvent {
                instance: Some(id.to_string()),
                what,
                why,
                ..JournalEvent::default()
            });
        }
        Ok(())
    }

    async fn ping(&mut self) -> Result<(), PassError> {
        let Some(dialogue) = &mut self.dialogue else {
            return Ok(());
        };
        let info = observe::info(dialogue).await?;
        let known = self.worker.as_ref().is_some_and(|worker| worker.pid == info.pid);
        if info.stopping || !known {
            return Err(PassError::Replaced);
        }
        self.schedule.pinged(Clock.now());
        Ok(())
    }

    /// Reads everything anew; returns what is other than it was `before`.
    async fn read_all(&mut self, before: &Observed) -> Result<Scope, PassError> {
        let Some(dialogue) = &mut self.dialogue else {
            return Ok(Scope::none());
        };
        let (info, observed) = observe::all(dialogue).await?;
        if self.worker.as_ref().is_none_or(|worker| worker.pid != info.pid) {
            let backends = observed.backends.len();
            tracing::info!(version = %info.version, pid = info.pid, backends, "HAProxy answers");
            self.status.journal.say("HAProxy answers", format!("{}, process {}", info.version, info.pid));
            self.planner.start_anew(&info.version);
            self.backends.start_anew();
        }
        self.worker = Some(info);
        self.reads += 1;
        self.totals.resyncs += 1;
        self.read_at = Clock.now();
        self.routes.again();
        self.backends.again();
        let news = observed.news_since(before);
        self.planner.learn(Clock.now(), &observed, &news);
        self.observed = observed;
        self.trouble.clear();
        self.schedule.read_all(Clock.now());
        Ok(news)
    }

    /// Before the pass: what it makes servers in.
    async fn make_backends(&mut self) {
        let (Some(dialogue), Some(worker)) = (&mut self.dialogue, &self.worker) else { return };
        let Some(defaults) = self.config.backend_defaults.as_ref().filter(|_| backends::can(&worker.version))
        else {
            return;
        };
        self.reads += 1;
        let (asked, kept) = ((&self.view, &self.dirty), (&self.status.journal, &mut self.totals));
        let made = self.backends.make(dialogue, defaults, asked, &mut self.observed, kept).await;
        if let Err(error) = made {
            self.lost(&error);
        }
    }

    /// After the pass: a route leads to servers that are there.
    async fn keep_routes(&mut self) {
        if !self.routes.follow(&self.view) {
            return;
        }
        let Some(dialogue) = &mut self.dialogue else { return };
        let in_sync = self.view.in_sync();
        let kept = self
            .routes
            .keep(dialogue, in_sync, &mut self.observed, &self.status.journal, &mut self.totals)
            .await;
        if let Err(error) = kept {
            self.lost(&error);
        }
    }

    /// Plans and applies until there is nothing left to do, HAProxy is lost, or `interrupted` for long enough.
    async fn pass(&mut self, interrupted: impl Fn() -> bool) {
        if self.dialogue.is_none() {
            return;
        }
        let mut scope = std::mem::replace(&mut self.dirty, Scope::none());
        scope.extend(self.planner.due(Clock.now()));
        self.files.note(&scope);
        if scope == Scope::All && self.waits_for_cold_start() {
            self.dirty = scope;
            return;
        }
        if !scope.is_empty() {
            self.totals.passes += 1;
            self.passed = Some(Clock.now());
            self.status.changed();
        }
        for round in 0..ROUNDS_MAX {
            // At least one round: a registry that never rests must not keep us from acting.
            if (scope.is_empty() && self.pending.is_empty()) || (round > 0 && interrupted()) {
                break;
            }
            self.manager.alive(Clock.now());
            let mut plan = self.planner.plan(Clock.now(), &self.view, &self.observed, &scope);
            self.pending.replace(&scope, std::mem::take(&mut plan.steps));
            let mut again = Scope::none();
            for id in &plan.foreign {
                tracing::error!(
                    instance = %id,
                    "not served: HAProxy has a server of that name that lb-sync did not make\n  remove it from the configuration, or give the instance another name"
                );
            }
            self.publisher.acks(&plan.acks).await;
            for id in &plan.failed {
                tracing::warn!(instance = %id, "a suspect fails HAProxy's check: it is gone");
                again.extend(self.view.check_failed(id));
                let (what, why) =
                    ("no longer kept as a suspect".into(), "HAProxy's own check of it fails".into());
                self.status.journal.note(JournalEvent {
                    instance: Some(id.to_string()),
                    what,
                    why,
                    ..JournalEvent::default()
                });
            }
            match self.carry_out(&plan.reads, &interrupted).await {
                Ok(touched) => again.extend(Scope::Only(touched)),
                Err(error) => return self.lost(&error),
            }
            scope = again;
        }
        self.dirty.extend(scope);
    }

    /// Whether a reload on the files brings in what is missing.
    fn waits_for_cold_start(&mut self) -> bool {
        let Some(worker) = &self.worker else { return false };
        self.files.cold_start(Clock.now(), &self.view, &self.observed, worker, self.planner.ids_mut())
    }

    /// Carries out what is in hand and reads back what was touched, and `reads`; returns which instances to plan again.
    async fn carry_out(
        &mut self,
        reads: &[InstanceId],
        interrupted: &impl Fn() -> bool,
    ) -> Result<BTreeSet<InstanceId>, PassError> {
        let (Some(dialogue), Some(worker)) = (&mut self.dialogue, &self.worker) else {
            return Ok(BTreeSet::new());
        };
        if self.pending.is_empty() && reads.is_empty() {
            return Ok(BTreeSet::new());
        }
        self.reads += 1;
        self.files.cover(self.planner.ids_mut()).await;
        let (planner, pending, mut outcomes) = (&mut self.planner, &mut self.pending, Vec::new());
        let applied = apply::apply(dialogue, planner, pending, worker.pid, interrupted, &mut outcomes).await;
        log::note(&outcomes, (&self.view, &self.arrived), &mut self.totals, &self.status.journal);
        applied?;
        // An empty reply proves nothing: what was touched is read back.
        let servers = apply::servers(&outcomes, &self.observed);
        observe::servers(dialogue, &servers, &mut self.observed).await?;
        observe::restarting(dialogue, &apply::listed(&outcomes), &mut self.observed).await?;
        observe::sessions(dialogue, reads, &mut self.observed).await?;
        Ok(outcomes.into_iter().map(|outcome| outcome.step.id).chain(reads.iter().cloned()).collect())
    }

    /// The dialogue is over. What HAProxy has is read anew when there is another.
    fn lost(&mut self, error: &PassError) {
        if self.dialogue.take().is_some() {
            self.totals.haproxy_lost += 1;
            self.status.changed();
            self.status.journal.say("HAProxy is lost", error.to_string());
        }
        // Planned for what is there no more; all is planned anew once it is read.
        self.pending = PendingPlan::default();
        self.reads += 1;
        self.schedule.lost(Clock.now());
        let text = error.to_string();
        if text != self.trouble {
            tracing::warn!("{text}");
            self.trouble = text;
        }
    }

    /// How everything stands.
    fn report(&self) -> Report {
        let pulse =
            PassProgress { generation: self.status.generation(), passed: self.passed, read_at: self.read_at };
        let publisher = &self.publisher;
        let told = (publisher.balancer(), publisher.known());
        Report::of(&self.condition(), &self.planner, told, &self.totals, pulse)
    }

    fn condition(&self) -> SyncCondition<'_> {
        SyncCondition {
            now: Clock.now(),
            view: &self.view,
            observed: &self.observed,
            reads: self.reads,
            worker: self.dialogue.as_ref().and(self.worker.as_ref()),
        }
    }

    async fn tell(&mut self) {
        let condition = SyncCondition {
            now: Clock.now(),
            view: &self.view,
            observed: &self.observed,
            reads: self.reads,
            worker: self.dialogue.as_ref().and(self.worker.as_ref()),
        };
        self.publisher.tell(&condition).await;
        self.manager.tell(&condition);
    }
}

/// Resolves when HAProxy ends the dialogue; never, without one.
async fn closed(dialogue: &mut Option<Dialogue>) -> DialogueError {
    match dialogue {
        Some(dialogue) => dialogue.closed().await,
        None => std::future::pending().await,
    }
}
