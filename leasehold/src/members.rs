//! All that one process is a member of, under its one lease.

use std::sync::Arc;
use std::time::Duration;

use registry::lease::{self, LeaseMetrics, LeaseStatus};
use registry::name::ServiceName;
use registry::session::{EtcdConfig, Session};
use tokio::sync::{Mutex, Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::etcd_thread::EtcdThread;
use crate::health::AppHealth;
use crate::member::{Member, MemberConfig, Registrant, SharedLease, Status};

/// One of them, and what is known of the app by its check.
pub type Candidate = (MemberConfig, watch::Receiver<AppHealth>);

/// The members of a process.
pub struct Members {
    /// `None` where there is nothing to register.
    held: Option<Held>,
    statuses: Vec<(ServiceName, watch::Receiver<Status>)>,
    leaving: CancellationToken,
    news: Arc<Notify>,
    released: bool,
}

struct Held {
    lease: SharedLease,
    standing: watch::Receiver<LeaseStatus>,
    counts: Arc<LeaseMetrics>,
}

impl Members {
    /// Starts them; their tasks, none of which may end before the lease is released, go into `parts`. The lease is kept
    /// on `thread`, and all that speaks with etcd. `abort` ends everything without order.
    pub async fn start(
        candidates: Vec<Candidate>,
        etcd: &EtcdConfig,
        ttl: Duration,
        thread: &EtcdThread,
        abort: &CancellationToken,
        parts: &mut JoinSet<()>,
    ) -> Self {
        let leaving = abort.child_token();
        let news = Arc::new(Notify::new());
        if candidates.is_empty() {
            return Self { held: None, statuses: vec![], leaving, news, released: false };
        }
        let session = Session::new(etcd.clone());
        let (handle, holding) = lease::lease_task(session.clone(), ttl, abort.clone());
        let (standing, counts) = (handle.status(), handle.metrics());
        let lease: SharedLease = Arc::new(Mutex::new(handle));
        let holding = thread.spawn(holding);
        parts.spawn(async move { drop(holding.await) });
        tell(parts, standing.clone(), &news);

        let owner = format!("{:016x}", fastrand::u64(..));
        tracing::info!(owner, prefix = %etcd.prefix(), "registering");
        let mut statuses = vec![];
        for (config, health) in candidates {
            let service = config.service.clone();
            let registrant = Registrant {
                service: service.clone(),
                naming: config.naming.clone(),
                owner: owner.clone(),
                prefix: etcd.prefix().clone(),
            };
            let reached = (session.clone(), thread.clone());
            let (member, status) =
                Member::new(config, registrant, reached, Arc::clone(&lease), health, leaving.clone()).await;
            parts.spawn(member.run());
            tell(parts, status.clone(), &news);
            statuses.push((service, status));
        }
        Self { held: Some(Held { lease, standing, counts }), statuses, leaving, news, released: false }
    }

    /// Returns when something may have changed.
    pub async fn changed(&self) {
        self.news.notified().await;
    }

    /// How each is.
    #[must_use]
    pub fn statuses(&self) -> Vec<(ServiceName, Status)> {
        let status = |(service, status): &(ServiceName, watch::Receiver<Status>)| {
            (service.clone(), status.borrow().clone())
        };
        self.statuses.iter().map(status).collect()
    }

    /// The same, to be looked at again and again.
    #[must_use]
    pub fn watches(&self) -> &[(ServiceName, watch::Receiver<Status>)] {
        &self.statuses
    }

    /// How the lease stands, and what its task counts; nothing without members.
    #[must_use]
    pub fn lease(&self) -> Option<(watch::Receiver<LeaseStatus>, Arc<LeaseMetrics>)> {
        self.held.as_ref().map(|held| (held.standing.clone(), Arc::clone(&held.counts)))
    }

    /// Whether no balancer is awaited any more.
    #[must_use]
    pub fn have_left(&self) -> bool {
        self.statuses.iter().all(|(_, status)| status.borrow().left)
    }

    /// Whether the lease is revoked, or given up.
    #[must_use]
    pub fn are_released(&self) -> bool {
        match &self.held {
            Some(held) => held.standing.borrow().released,
            None => self.released,
        }
    }

    /// Takes all of them out of rotation; [`Self::have_left`] says when that is done.
    pub fn leave(&self) {
        self.leaving.cancel();
        self.news.notify_one();
    }

    /// Revokes the lease; [`Self::are_released`] says when that is done.
    pub async fn release(&mut self) {
        match &self.held {
            Some(held) => drop(held.lease.lock().await.release().await),
            None => self.released = true,
        }
        self.news.notify_one();
    }
}

/// Wakes who waits for news, at each change. It ends with who tells, which is told of by that one's own task.
fn tell<T: Send + Sync + 'static>(parts: &mut JoinSet<()>, mut of: watch::Receiver<T>, news: &Arc<Notify>) {
    let news = Arc::clone(news);
    parts.spawn(async move {
        while of.changed().await.is_ok() {
            news.notify_one();
        }
        news.notify_one();
        std::future::pending::<()>().await;
    });
}
