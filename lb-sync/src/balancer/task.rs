//! The task: waits for something to happen, steps the machine, performs what it says.

use std::future::pending;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use daemon::service_manager::{Message, notify};
use proto::health::Statuses;
use registry::follow::Following;
use registry::key::{Key, Prefix};
use registry::lease::{Fence, LeaseHandle, LeaseId, LeaseStatus, TimeToLive, time_to_live};
use registry::name::InstanceId;
use registry::record::{AckRecord, to_value};
use registry::session::Session;
use registry::time::Clock;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Action, Balancer, Input, PresenceStatus};
use crate::files::FilesLink;
use crate::notify::Manager;
use crate::plan::AckValue;
use crate::port::{Report, StatusPublisher};
use crate::snapshot::Snapshot;
use haproxy::master::old_workers;
use haproxy::{Command, Dialogue, DialogueError};

/// Longest that HAProxy may take to answer one request; it answers 10,000 rows in 50 ms.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Most events that are taken in at once: a burst is one step, and a registry that never rests does not keep HAProxy
/// from being asked.
const EVENTS_MAX: usize = 10_000;

/// Where the balancer's words go.
pub struct Outputs {
    /// Acks and presence stand under this lease.
    pub lease: LeaseHandle,
    /// Health, by name.
    pub health: watch::Sender<Statuses>,
    /// Copies of the view, each time it has changed, for [`snapshot::keep`](crate::snapshot::save_each).
    pub snapshots: watch::Sender<Option<Snapshot>>,
    /// The tasks that write files.
    pub files: FilesLink,
    /// The journal, and questions of how everything stands.
    pub status: StatusPublisher,
}

/// The task and all that it owns.
pub struct BalancerTask {
    balancer: Balancer,
    prefix: Prefix,
    presence: PresenceWatch,
    socket: PathBuf,
    line: Line,
    outputs: Outputs,
    session: Session,
    /// Questions to etcd about leases.
    lease_checks: JoinSet<Vec<(InstanceId, LeaseId, TimeToLive)>>,
    /// HAProxy's master socket, and a question to it.
    master: Option<PathBuf>,
    counting: JoinSet<Option<usize>>,
    manager: Manager,
}

/// What becomes of the presence record.
struct PresenceWatch {
    lease: watch::Receiver<LeaseStatus>,
    /// The key that was put last, and the number of that command.
    put: Option<(String, u64)>,
    /// What was known of it last.
    known: Option<PresenceStatus>,
}

impl PresenceWatch {
    /// The next status of the record that was put last. May be dropped and called again.
    async fn next(&mut self) -> Input {
        loop {
            if self.lease.changed().await.is_err() {
                // The task of the lease has ended, which ends the process.
                return pending().await;
            }
            let Some((key, put)) = &self.put else { continue };
            let status = PresenceStatus::of(&self.lease.borrow_and_update(), key, *put);
            if let Some(status) = status.filter(|status| self.known != Some(*status)) {
                self.known = Some(status);
                return Input::Presence(status);
            }
        }
    }
}

/// The session with HAProxy.
enum Line {
    None,
    Idle(Dialogue),
    /// Connecting, or a request is under way.
    Busy(Exchange),
}

/// Resolves to the session, while there is one, and what came of it.
type Exchange = Pin<Box<dyn Future<Output = (Option<Dialogue>, Input)> + Send>>;

impl Line {
    /// The next thing that happens on it. May be dropped and called again.
    async fn next(&mut self) -> Input {
        match self {
            Self::None => pending().await,
            Self::Idle(dialogue) => {
                let error = dialogue.closed().await;
                *self = Self::None;
                Input::Lost(error)
            }
            Self::Busy(exchange) => {
                let (dialogue, input) = exchange.await;
                *self = dialogue.map_or(Self::None, Self::Idle);
                input
            }
        }
    }

    fn connect(&mut self, socket: PathBuf) {
        *self = Self::Busy(Box::pin(async move {
            match Dialogue::connect(&socket, ANSWER_MAX).await {
                Ok(dialogue) => (Some(dialogue), Input::Connected),
                Err(error) => (None, Input::Lost(error)),
            }
        }));
    }

    fn ask(&mut self, commands: Vec<Command>) {
        let line = std::mem::replace(self, Self::None);
        *self = Self::Busy(Box::pin(async move {
            let Self::Idle(mut dialogue) = line else { return (None, Input::Lost(DialogueError::Spent)) };
            match dialogue.ask(&commands).await {
                Ok(answers) => (Some(dialogue), Input::Answers(answers)),
                Err(error) => (None, Input::Lost(error)),
            }
        }));
    }
}

/// What the task waits for.
enum Event {
    Input(Input),
    Asked(oneshot::Sender<Arc<Report>>),
    Shutdown,
}

impl BalancerTask {
    /// Performs what `balancer` says, for the HAProxy behind `socket`, with its master socket.
    #[must_use]
    pub fn new(
        balancer: Balancer,
        prefix: Prefix,
        (socket, master): (PathBuf, Option<PathBuf>),
        session: Session,
        outputs: Outputs,
    ) -> Self {
        let (line, lease_checks, counting) = (Line::None, JoinSet::new(), JoinSet::new());
        let manager = Manager::of_this_process();
        let presence = PresenceWatch { lease: outputs.lease.status(), put: None, known: None };
        Self {
            balancer,
            prefix,
            presence,
            socket,
            line,
            outputs,
            session,
            lease_checks,
            master,
            counting,
            manager,
        }
    }

    /// Runs until `shutdown`, or until a follower ends. HAProxy is left as it is, and so are presence and acks: HAProxy serves
    /// on, and a leave must not take it for gone. They end with the lease, or the next life takes them over. Returns what that
    /// life is to begin with.
    pub async fn run(
        mut self,
        (mut instances, mut overrides, mut balancers): (Following, Following, Following),
        shutdown: CancellationToken,
    ) -> Option<Snapshot> {
        loop {
            let wake_at = self.balancer.wake_at();
            let input = |event: Option<_>, input: fn(_) -> Input| match event {
                Some(event) => Event::Input(input(event)),
                None => Event::Shutdown,
            };
            let event = tokio::select! {
                biased;
                () = shutdown.cancelled() => Event::Shutdown,
                // Before the registry's events, all of which are taken in with it below.
                happened = self.line.next() => Event::Input(happened),
                event = instances.recv() => input(event, Input::Instances),
                event = overrides.recv() => input(event, Input::Overrides),
                event = balancers.recv() => input(event, Input::Balancers),
                status = self.presence.next() => Event::Input(status),
                Some(Ok(alive)) = self.lease_checks.join_next() => Event::Input(Input::LeasesAlive(alive)),
                Some(Ok(count)) = self.counting.join_next() => Event::Input(Input::OldWorkers(count)),
                happened = self.outputs.files.next() => Event::Input(happened),
                // Half of a round is not what HAProxy has: the question waits for the end of it.
                asker = self.outputs.status.asked(), if self.balancer.is_between_rounds() => Event::Asked(asker),
                () = Clock.until(wake_at) => Event::Input(Input::Woke),
            };
            match event {
                Event::Shutdown => {
                    notify(&[Message::Stopping]);
                    return self.balancer.last_view();
                }
                Event::Asked(asker) => {
                    let report = self.balancer.report(Clock.now(), self.outputs.status.generation());
                    // The asker may have gone.
                    let _ = asker.send(Arc::new(report));
                }
                Event::Input(first) => {
                    let queued = std::iter::from_fn(|| {
                        let instances = instances.try_recv().ok().map(Input::Instances);
                        instances.or_else(|| overrides.try_recv().ok().map(Input::Overrides))
                    });
                    let inputs = std::iter::once(first).chain(queued.take(EVENTS_MAX));
                    for action in self.balancer.step(Clock.now(), inputs) {
                        self.perform(action).await;
                    }
                    self.manager.notify_manager(&self.balancer.condition(Clock.now()));
                }
            }
        }
    }

    async fn perform(&mut self, action: Action) {
        let Outputs { lease, health, snapshots, files, status } = &mut self.outputs;
        match action {
            Action::Connect => self.line.connect(self.socket.clone()),
            Action::Disconnect => self.line = Line::None,
            Action::Ask(commands) => self.line.ask(commands),
            Action::PutAck(key, AckValue { owner, revision, state }) => {
                let at = humantime::format_rfc3339_millis(Clock.time_of_day()).to_string();
                let ack = AckRecord { owner, revision: Some(revision), state, at };
                lease.put(self.prefix.text(&Key::Ack(key)), to_value(&ack), Fence::None).await;
            }
            Action::RemoveAck(key) => drop(lease.remove(self.prefix.text(&Key::Ack(key))).await),
            Action::PutPresence { name, record, expected } => {
                let (value, covers) = (to_value(&record), self.prefix.acks_by(&name));
                let fence = Fence::Presence { id: record.id.unwrap_or_default(), covers, expected };
                let key = self.prefix.text(&Key::Balancer(name));
                let put = lease.put(key.clone(), value, fence).await;
                (self.presence.put, self.presence.known) = (Some((key, put)), None);
            }
            Action::DoubtKeys => drop(lease.doubt().await),
            Action::PutHealth(statuses) => drop(health.send_replace(statuses.into())),
            Action::CheckLeases(queries) => self.check_leases(queries),
            Action::CountOldWorkers => {
                if let Some(master) = self.master.clone() {
                    self.counting.spawn(async move {
                        let counted = tokio::time::timeout(ANSWER_MAX, old_workers(&master)).await;
                        counted.ok().and_then(Result::ok)
                    });
                }
            }
            Action::SaveSnapshot(snapshot) => drop(snapshots.send_replace(Some(snapshot))),
            Action::SaveIds(ids) => files.save_ids(ids),
            Action::WriteFiles(desired) => files.write_sections(desired),
            Action::Record(event) => status.journal.record(event),
            Action::StatusChanged => status.changed(),
        }
    }

    /// Asks etcd which of these leases live, and how much time they have.
    fn check_leases(&mut self, queries: Vec<(InstanceId, LeaseId)>) {
        let session = self.session.clone();
        self.lease_checks.spawn(async move {
            let mut alive = Vec::new();
            for (id, lease) in queries {
                // Unanswered, it stays a suspect: that is what a guard is for.
                if let Ok(Some(ttl)) = time_to_live(&session, lease).await {
                    alive.push((id, lease, ttl));
                }
            }
            alive
        });
    }
}
