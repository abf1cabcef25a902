//! Performs what the machine decides: writes the record, follows what is to be followed, tells.

use std::sync::Arc;

use registry::follow::{Event, Following, follow};
use registry::lease::{Fence, LeaseHandle};
use registry::record::{InstanceRecord, InstanceState, to_value};
use registry::session::Session;
use registry::time::Clock;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::machine::{Action, Input, Machine, Standing};
use super::{Identity, Report, Status};
use crate::config::MemberConfig;
use crate::probe::AppHealth;

/// The process's one lease: every member's record stands under it.
pub type SharedLease = Arc<Mutex<LeaseHandle>>;

/// One instance's membership, and all it needs.
pub struct Member {
    identity: Identity,
    key: String,
    record: InstanceRecord,
    session: Session,
    lease: SharedLease,
    standing: watch::Receiver<registry::lease::Standing>,
    health: watch::Receiver<AppHealth>,
    asked_to_leave: CancellationToken,
    publish: watch::Sender<Status>,
    machine: Machine,
    /// Number of our last command to the lease.
    seq: u64,
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
        identity: Identity,
        session: Session,
        lease: SharedLease,
        health: watch::Receiver<AppHealth>,
        asked_to_leave: CancellationToken,
    ) -> (Self, watch::Receiver<Status>) {
        let (publish, status) = watch::channel(Status::default());
        let standing = lease.lock().await.standing();
        let member = Self {
            key: identity.key(),
            machine: Machine::new(identity.clone(), config.leave_max),
            identity,
            record: config.record,
            session,
            lease,
            standing,
            health,
            asked_to_leave,
            publish,
            seq: 0,
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
            self.publish.send_if_modified(|told| std::mem::replace(told, status) != status);
        }
    }

    fn health(&mut self) -> Input {
        Input::Health(self.health.borrow_and_update().clone())
    }

    fn standing(&mut self) -> Input {
        let standing = self.standing.borrow_and_update();
        Input::Standing(Standing {
            held: standing.lease.is_some(),
            settled: self.seq > 0 && standing.settled_since(self.seq),
            superseded: standing.superseded.contains(&self.key),
        })
    }

    async fn perform(&mut self, action: Action) {
        match action {
            Action::Put { at, state } => {
                let fence = Fence::Owner(self.identity.owner.clone());
                let value = self.value(at, state);
                self.seq = self.lease.lock().await.put(self.key.clone(), value, fence).await;
            }
            Action::FollowOwn => self.own = Some(self.follow(self.key.clone())),
            Action::FollowBalancers => {
                self.presence = Some(self.follow(self.identity.prefix.balancers()));
                self.acks = Some(self.follow(self.identity.prefix.acks_of(&self.identity.id)));
            }
            Action::Report(report) => self.report(&report),
        }
    }

    fn value(&self, at: std::net::SocketAddr, state: InstanceState) -> Vec<u8> {
        let mut record = self.record.clone();
        record.address = at.ip();
        record.state = state;
        record.owner = Some(self.identity.owner.clone());
        let written_at = humantime::format_rfc3339_micros(Clock.time_of_day());
        record.registered_at = Some(written_at.to_string());
        to_value(&record)
    }

    fn follow(&mut self, prefix: String) -> Following {
        let (following, task) = follow(self.session.clone(), prefix, self.shutdown.clone());
        self.followers.spawn(task);
        following
    }

    fn report(&self, report: &Report) {
        let service = self.identity.id.service.as_str();
        let instance = self.identity.id.instance.as_str();
        // The level of an event is fixed where it is written.
        match report.level() {
            tracing::Level::ERROR => tracing::error!(service, instance, "{report}"),
            tracing::Level::WARN => tracing::warn!(service, instance, "{report}"),
            _ => tracing::info!(service, instance, "{report}"),
        }
    }
}

/// The next event; never, where nothing is followed.
async fn next(following: &mut Option<Following>) -> Option<Event> {
    match following {
        Some(following) => following.recv().await,
        None => std::future::pending().await,
    }
}
