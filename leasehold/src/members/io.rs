//! Performs what [`super::Members`] decides: keeps the lease, writes records, lists names, follows keys.

use std::collections::BTreeMap;
use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use registry::follow::{
    Entry, Event, Following, QUIET_MAX, RELIST_EVERY, RELIST_EVERY_WHILE_LEAVING, follow_quietly, list,
};
use registry::lease::{self, Fence, LeaseHandle, LeaseMetrics, LeaseStatus, TimeToLive, time_to_live};
use registry::name::{InstanceName, ServiceName};
use registry::record::{InstanceRecord, InstanceState, to_value};
use registry::session::{EtcdConfig, Session};
use registry::time::Clock;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Action, Input};
use crate::etcd_thread::EtcdThread;
use crate::member::machine;
use crate::member::{MemberConfig, Report};

/// How long our own key and the balancers' presence may be quiet before etcd is asked for a sign of life. Both are for what
/// seldom happens, and thousands of registrars ask: together less than one question in 5 s.
const OWN_QUIET_MAX: Duration = Duration::from_secs(10);
const PRESENCE_QUIET_MAX: Duration = Duration::from_secs(30);

/// The connection of all members to etcd.
pub struct MembersIo {
    session: Session,
    thread: EtcdThread,
    owner: String,
    /// `None` without members.
    lease: Option<Lease>,
    members: Vec<MemberIo>,
    /// The task of the lease. It may end only after the lease is released.
    lease_task: JoinSet<()>,
    /// The tasks of the followers: they end with this value.
    followers: JoinSet<()>,
    abort: CancellationToken,
}

struct Lease {
    handle: LeaseHandle,
    status: watch::Receiver<LeaseStatus>,
}

struct MemberIo {
    record: InstanceRecord,
    /// A list of names that is under way.
    listing: Option<JoinHandle<Result<Vec<Entry>, String>>>,
    /// A question about a lease that is under way.
    asking: Option<JoinHandle<Result<Option<TimeToLive>, String>>>,
    own: Option<Following>,
    presence: Option<Following>,
    /// By key.
    acks: BTreeMap<String, Following>,
}

impl MembersIo {
    /// Starts to keep a lease of `ttl` on `thread`, where all that talks to etcd runs; without members, nothing. `abort`
    /// ends everything at once, without revoking the lease.
    #[must_use]
    pub fn start(
        configs: &[MemberConfig],
        owner: String,
        etcd: &EtcdConfig,
        ttl: Duration,
        thread: EtcdThread,
        abort: CancellationToken,
    ) -> Self {
        let session = Session::new(etcd.clone());
        let mut lease_task = JoinSet::new();
        let lease = (!configs.is_empty()).then(|| {
            tracing::info!(owner, prefix = %etcd.prefix(), "registering");
            let (handle, task) = lease::lease_task(session.clone(), ttl, abort.clone());
            lease_task.spawn_on(task, thread.handle());
            Lease { status: handle.status(), handle }
        });
        let member = |config: &MemberConfig| MemberIo {
            record: config.record.clone(),
            listing: None,
            asking: None,
            own: None,
            presence: None,
            acks: BTreeMap::new(),
        };
        Self {
            session,
            thread,
            owner,
            lease,
            members: configs.iter().map(member).collect(),
            lease_task,
            followers: JoinSet::new(),
            abort,
        }
    }

    /// The status of the lease, and what its task counts. `None` without members.
    #[must_use]
    pub fn lease(&self) -> Option<(watch::Receiver<LeaseStatus>, Arc<LeaseMetrics>)> {
        self.lease.as_ref().map(|lease| (lease.status.clone(), lease.handle.metrics()))
    }

    /// The next input. `None`, once for each: a task has ended. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Option<Input> {
        tokio::select! {
            // The lease first: a name that a newer owner has taken is not written to again.
            biased;
            status = next_status(&mut self.lease) => Some(Input::Lease(status)),
            Some(_) = self.lease_task.join_next() => None,
            (index, input) = next_of_any(&mut self.members) => input.map(|input| Input::Member(index, input)),
        }
    }

    /// Performs `action`. Returns its outcome where the machine waits for one.
    pub async fn perform(&mut self, action: Action) -> Option<Input> {
        match action {
            Action::Release => {
                if let Some(lease) = &mut self.lease {
                    lease.handle.release().await;
                }
            }
            Action::Report { service, instance, report } => log(&service, instance.as_ref(), &report),
            Action::Member(index, action) => return self.perform_for(index, action).await,
        }
        None
    }

    async fn perform_for(&mut self, index: usize, action: machine::Action) -> Option<Input> {
        let Self { session, thread, owner, lease, members, followers, abort, .. } = self;
        let (member, lease) = (members.get_mut(index)?, lease.as_mut()?);
        let mut follow = |prefix, quiet_max, relist_every| {
            let (following, task) =
                follow_quietly(session.clone(), prefix, quiet_max, relist_every, abort.clone());
            followers.spawn_on(task, thread.handle());
            following
        };
        match action {
            machine::Action::Put { key, at, state, expected } => {
                let value = member.value(owner, at, state);
                let owner = owner.clone();
                let fence = match expected {
                    Some(expected) => Fence::Claim { owner, expected },
                    None => Fence::Owner(owner),
                };
                return Some(Input::Queued(index, lease.handle.put(key, value, fence).await));
            }
            machine::Action::ListNames { prefix } => {
                member.own = None;
                let session = session.clone();
                member.listing = Some(thread.spawn(async move {
                    let listed = list(&session, &prefix, 0).await;
                    listed.map(|listed| listed.entries).map_err(|error| error.to_string())
                }));
            }
            machine::Action::AskLease(lease) => {
                let session = session.clone();
                member.asking = Some(thread.spawn(async move {
                    time_to_live(&session, lease).await.map_err(|error| error.to_string())
                }));
            }
            machine::Action::FollowOwn { key } => member.own = Some(follow(key, OWN_QUIET_MAX, None)),
            machine::Action::FollowRival { key } => {
                let relist_every = RELIST_EVERY.mul_f64(1.0 + fastrand::f64());
                member.own = Some(follow(key, OWN_QUIET_MAX, Some(relist_every)));
            }
            machine::Action::FollowPresence { presence } => {
                member.presence = Some(follow(presence, PRESENCE_QUIET_MAX, None));
            }
            machine::Action::FollowBalancers { presence } => {
                member.presence = Some(follow(presence, QUIET_MAX, Some(RELIST_EVERY_WHILE_LEAVING)));
            }
            machine::Action::FollowAck { key } => {
                let following = follow(key.clone(), QUIET_MAX, Some(RELIST_EVERY_WHILE_LEAVING));
                member.acks.insert(key, following);
            }
            // The machine of all members returns reports by themselves.
            machine::Action::Report(_) => {}
        }
        None
    }
}

impl MemberIo {
    fn value(&self, owner: &str, at: std::net::SocketAddr, state: InstanceState) -> Vec<u8> {
        let mut record = self.record.clone();
        record.address = at.ip();
        record.state = state;
        record.owner = Some(owner.to_owned());
        let written_at = humantime::format_rfc3339_micros(Clock.time_of_day());
        record.registered_at = Some(written_at.to_string());
        to_value(&record)
    }

    /// The next input. `None`: a follower's task has ended.
    async fn next(&mut self) -> Option<machine::Input> {
        tokio::select! {
            biased;
            names = finished(&mut self.listing) => Some(machine::Input::Names(names)),
            ttl = finished(&mut self.asking) => Some(machine::Input::Lease(ttl)),
            event = next_event(&mut self.own) => event.map(machine::Input::Own),
            event = next_event(&mut self.presence) => event.map(machine::Input::Presence),
            (key, event) = next_ack(&mut self.acks) => event.map(|event| machine::Input::Acks(key, event)),
        }
    }
}

/// The next status of the lease. Pending without one, and after its task has ended: that is reported by the task itself.
async fn next_status(lease: &mut Option<Lease>) -> LeaseStatus {
    let Some(lease) = lease else { return pending().await };
    match lease.status.changed().await {
        Ok(()) => lease.status.borrow_and_update().clone(),
        Err(_) => pending().await,
    }
}

/// The next input of any member, and its index.
async fn next_of_any(members: &mut [MemberIo]) -> (usize, Option<machine::Input>) {
    type Next<'a> = Pin<Box<dyn Future<Output = Option<machine::Input>> + Send + 'a>>;
    let mut all: Vec<Next<'_>> =
        members.iter_mut().map(|member| Box::pin(member.next()) as Next<'_>).collect();
    poll_fn(|context| {
        for (index, next) in all.iter_mut().enumerate() {
            if let Poll::Ready(input) = next.as_mut().poll(context) {
                return Poll::Ready((index, input));
            }
        }
        Poll::Pending
    })
    .await
}

/// The answer to what was under way; pending without it.
async fn finished<T>(listing: &mut Option<JoinHandle<Result<T, String>>>) -> Result<T, String> {
    let Some(handle) = listing else { return pending().await };
    let names = handle.await.unwrap_or_else(|error| Err(error.to_string()));
    *listing = None;
    names
}

/// The next event; pending where nothing is followed. `None`, once: the follower's task has ended.
async fn next_event(following: &mut Option<Following>) -> Option<Event> {
    let Some(events) = following else { return pending().await };
    let event = events.recv().await;
    if event.is_none() {
        *following = None;
    }
    event
}

/// The next event of any of these, and its key; pending where nothing is followed. No event, once: a follower's task has
/// ended.
async fn next_ack(acks: &mut BTreeMap<String, Following>) -> (String, Option<Event>) {
    let next = poll_fn(|context| {
        for (key, events) in acks.iter_mut() {
            if let Poll::Ready(event) = events.poll_recv(context) {
                return Poll::Ready((key.clone(), event));
            }
        }
        Poll::Pending
    });
    let (key, event) = next.await;
    if event.is_none() {
        acks.remove(&key);
    }
    (key, event)
}

fn log(service: &ServiceName, instance: Option<&InstanceName>, report: &Report) {
    let (service, instance) = (service.as_str(), instance.map_or("-", InstanceName::as_str));
    // The level of an event is fixed where it is written.
    match report.level() {
        tracing::Level::ERROR => tracing::error!(service, instance, "{report}"),
        tracing::Level::WARN => tracing::warn!(service, instance, "{report}"),
        _ => tracing::info!(service, instance, "{report}"),
    }
}
