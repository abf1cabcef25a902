//! Performs what the machine decides: writes the record, follows what is to be followed, tells.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use registry::follow::{Event, Following, follow};
use registry::lease::{Fence, LeaseHandle};
use registry::name::InstanceName;
use registry::record::{InstanceRecord, InstanceState, to_value};
use registry::session::Session;
use registry::time::Clock;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::machine::{Action, Input, Machine, RecordStatus};
use super::{Claim, MemberConfig, Registrant, Report, Status, claim};
use crate::etcd_thread::EtcdThread;
use crate::health::AppHealth;

/// The process's one lease: every member's record stands under it.
pub type SharedLease = Arc<Mutex<LeaseHandle>>;

/// One instance's membership, and all it needs.
pub struct Member {
    registrant: Registrant,
    record: InstanceRecord,
    session: Session,
    etcd: EtcdThread,
    lease: SharedLease,
    standing: watch::Receiver<registry::lease::LeaseStatus>,
    health: watch::Receiver<AppHealth>,
    asked_to_leave: CancellationToken,
    publish: watch::Sender<Status>,
    machine: Machine,
    /// Number of our last command to the lease.
    seq: u64,
    /// A look for a name that is under way.
    claiming: Option<Pin<Box<dyn Future<Output = Option<Claim>> + Send>>>,
    own: Option<Following>,
    presence: Option<Following>,
    acks: Option<Following>,
    /// The followers' tasks: they end with the member.
    followers: JoinSet<()>,
    shutdown: CancellationToken,
}

impl Member {
    /// A member that is not registered yet. It leaves when `asked_to_leave` is cancelled.
    pub async fn new(
        config: MemberConfig,
        registrant: Registrant,
        (session, etcd): (Session, EtcdThread),
        lease: SharedLease,
        health: watch::Receiver<AppHealth>,
        asked_to_leave: CancellationToken,
    ) -> (Self, watch::Receiver<Status>) {
        let machine = Machine::new(registrant.clone(), config.leave_max);
        let (publish, status) = watch::channel(machine.status());
        let standing = lease.lock().await.status();
        let member = Self {
            registrant,
            record: config.record,
            session,
            etcd,
            lease,
            standing,
            health,
            asked_to_leave,
            publish,
            machine,
            seq: 0,
            claiming: None,
            own: None,
            presence: None,
            acks: None,
            followers: JoinSet::new(),
            shutdown: CancellationToken::new(),
        };
        (member, status)
    }

    /// Runs until a part it needs has ended, which is not to happen.
    pub async fn run(mut self) {
        let clock = Clock;
        let mut leaving = false;
        loop {
            let input = tokio::select! {
                // The standing first: a name that somebody newer has taken over is not written to again.
                biased;
                changed = self.standing.changed() => changed.ok().map(|()| self.standing()),
                () = self.asked_to_leave.cancelled(), if !leaving => {
                    leaving = true;
                    Some(Input::Leave)
                }
                changed = self.health.changed() => changed.ok().map(|()| self.health()),
                claim = claimed(&mut self.claiming) => {
                    self.claiming = None;
                    Some(Input::Claimed(claim))
                }
                event = next(&mut self.own) => event.map(Input::Own),
                event = next(&mut self.presence) => event.map(Input::Presence),
                event = next(&mut self.acks) => event.map(Input::Acks),
                () = clock.until(self.machine.wake_at()) => Some(Input::Woke),
            };
            let Some(input) = input else { return };
            for action in self.machine.step(clock.now(), input) {
                self.perform(action).await;
            }
            let status = self.machine.status();
            self.publish.send_if_modified(|told| {
                let changed = *told != status;
                *told = status;
                changed
            });
        }
    }

    fn health(&mut self) -> Input {
        Input::Health(self.health.borrow_and_update().clone())
    }

    fn standing(&mut self) -> Input {
        let key = self.machine.identity().map(super::Identity::key);
        let standing = self.standing.borrow_and_update();
        // What was said before our last command was taken in is about another name, or an earlier claim of it.
        let current = self.seq > 0 && standing.seq >= self.seq;
        Input::RecordStatus(RecordStatus {
            held: standing.lease.is_some(),
            settled: current && standing.settled,
            superseded: current && key.is_some_and(|key| standing.superseded.contains(&key)),
        })
    }

    async fn perform(&mut self, action: Action) {
        match action {
            Action::Put { at, state, expected } => self.put(at, state, expected).await,
            Action::Claim { at, returns } => self.claim(at, returns),
            Action::FollowOwn => {
                self.own = self.machine.identity().map(super::Identity::key).map(|key| self.follow(key));
            }
            Action::FollowBalancers => {
                let acks = self.machine.identity().map(|identity| identity.prefix.acks_of(&identity.id));
                self.acks = acks.map(|acks| self.follow(acks));
                self.presence = Some(self.follow(self.registrant.prefix.balancers()));
            }
            Action::Report(report) => self.report(&report),
        }
    }

    async fn put(&mut self, at: std::net::SocketAddr, state: InstanceState, expected: Option<i64>) {
        let Some(key) = self.machine.identity().map(super::Identity::key) else { return };
        let owner = self.registrant.owner.clone();
        let fence = match expected {
            Some(expected) => Fence::Claim { owner, expected },
            None => Fence::Owner(owner),
        };
        let value = self.value(at, state);
        self.seq = self.lease.lock().await.put(key, value, fence).await;
    }

    /// On etcd's thread, like all that speaks with it; what is under way already is given up.
    fn claim(&mut self, at: std::net::SocketAddr, returns: bool) {
        self.own = None;
        let Registrant { service, prefix, .. } = self.registrant.clone();
        let look = claim::look(self.session.clone(), prefix, service, at, returns, fastrand::u64(..));
        let look = self.etcd.spawn(look);
        // The thread ends with the process only.
        self.claiming = Some(Box::pin(async move {
            match look.await {
                Ok(claim) => claim,
                Err(_) => std::future::pending().await,
            }
        }));
    }

    fn value(&self, at: std::net::SocketAddr, state: InstanceState) -> Vec<u8> {
        let mut record = self.record.clone();
        record.address = at.ip();
        record.state = state;
        record.owner = Some(self.registrant.owner.clone());
        let written_at = humantime::format_rfc3339_micros(Clock.time_of_day());
        record.registered_at = Some(written_at.to_string());
        to_value(&record)
    }

    fn follow(&mut self, prefix: String) -> Following {
        let (following, task) = follow(self.session.clone(), prefix, self.shutdown.clone());
        self.followers.spawn_on(task, self.etcd.handle());
        following
    }

    fn report(&self, report: &Report) {
        let service = self.registrant.service.as_str();
        let status = self.machine.status();
        let instance = status.name.as_ref().map_or("-", InstanceName::as_str);
        // The level of an event is fixed where it is written.
        match report.level() {
            tracing::Level::ERROR => tracing::error!(service, instance, "{report}"),
            tracing::Level::WARN => tracing::warn!(service, instance, "{report}"),
            _ => tracing::info!(service, instance, "{report}"),
        }
    }
}

/// The name that was found; never, where none is looked for.
async fn claimed<T>(claiming: &mut Option<Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match claiming {
        Some(claiming) => claiming.await,
        None => std::future::pending().await,
    }
}

/// The next event; never, where nothing is followed.
async fn next(following: &mut Option<Following>) -> Option<Event> {
    match following {
        Some(following) => following.recv().await,
        None => std::future::pending().await,
    }
}
