//! For an app in Rust that registers itself: a [`RegistrationBuilder`] says as what, a [`Registration`] stands while the app is well.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use registrar::Join;
//!
//! let mut place = Join::new("web".parse()?, "3000".parse()?).start()?;
//! place.registered().await;
//! // … serve, until you are asked to stop; then, still serving:
//! place.leave().await;
//! # Ok(()) }
//! ```

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use registry::name::{InstanceName, NameError, ServiceName};
use registry::record::{DrainTimes, InstanceRecord, RecordError, Weight, parse, to_value};
use registry::session::{EtcdConfig, EtcdOptions, OptionsError};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::etcd_thread::EtcdThread;
use crate::health::AppHealth;
use crate::member::{self, AddressChoice, MemberConfig, Naming, Status};
use crate::members::Members;

/// What an app joins as. The defaults are those of `registrar run`.
#[derive(Clone, Debug)]
pub struct RegistrationBuilder {
    /// The service.
    pub service: ServiceName,
    /// The TCP port that the app listens on.
    pub port: NonZeroU16,
    /// The instance's name; `None`: the host's.
    pub naming: Option<Naming>,
    /// Where balancers reach the app.
    pub address: AddressChoice,
    /// Share of the traffic.
    pub weight: Weight,
    /// For people and for queries.
    pub labels: BTreeMap<String, String>,
    /// How long leaving may take.
    pub drain: DrainTimes,
    /// Seconds of ramp after joining.
    pub slow_start_s: u32,
    /// How long the registration outlives a process that dies; 2 s to an hour, in whole seconds.
    pub ttl: Duration,
    /// Longest wait for balancers when leaving.
    pub leave_max: Duration,
    /// How to reach etcd.
    pub etcd: EtcdOptions,
}

/// A [`RegistrationBuilder`] that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// Balancers would refuse the record.
    #[error("the record would be refused by every balancer: {0}")]
    Record(#[from] RecordError),
    /// The host's name cannot be the instance's.
    #[error("the host's name cannot be the instance's: {0}\n  set `naming`")]
    Name(#[from] NameError),
    /// The options for etcd.
    #[error(transparent)]
    Etcd(#[from] OptionsError),
    /// The kernel refuses a thread.
    #[error("cannot start the thread that keeps the lease: {0}")]
    Thread(#[from] io::Error),
}

/// An app's place in the registry. Dropped, it is given up without waiting for any balancer.
#[derive(Debug)]
pub struct Registration {
    health: watch::Sender<Result<(), String>>,
    status: watch::Receiver<Status>,
    leave: CancellationToken,
    give_up: CancellationToken,
}

impl RegistrationBuilder {
    /// An instance of `service` that listens on `port`.
    #[must_use]
    pub fn new(service: ServiceName, port: NonZeroU16) -> Self {
        Self {
            service,
            port,
            naming: None,
            address: AddressChoice::Auto,
            weight: Weight::default(),
            labels: BTreeMap::new(),
            drain: DrainTimes::default(),
            slow_start_s: 0,
            ttl: Duration::from_secs(10),
            leave_max: Duration::from_mins(1),
            etcd: EtcdOptions::default(),
        }
    }

    /// Takes the place: the app is healthy, and is registered as soon as etcd answers, and for as long as the place stands.
    /// All of it happens on a thread of its own, which a busy runtime cannot starve. Call it once the app listens.
    pub fn start(self) -> Result<Registration, RegistrationError> {
        let etcd = self.etcd.checked()?;
        let ttl = self.ttl;
        let member = self.member()?;
        let thread = EtcdThread::start()?;
        let (health, wanted) = watch::channel(Ok(()));
        let (publish, status) = watch::channel(Status::default());
        let (leave, give_up) = (CancellationToken::new(), CancellationToken::new());
        let driver = Driver {
            etcd,
            ttl,
            thread: thread.clone(),
            wanted,
            publish,
            leave: leave.clone(),
            give_up: give_up.clone(),
        };
        drop(thread.spawn(driver.run(member)));
        Ok(Registration { health, status, leave, give_up })
    }

    fn member(self) -> Result<MemberConfig, RegistrationError> {
        let naming = match self.naming {
            Some(naming) => naming,
            None => Naming::Is(registry::host::name().parse::<InstanceName>()?),
        };
        let address = match self.address {
            AddressChoice::Is(address) => address,
            _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let record = InstanceRecord {
            weight: self.weight,
            labels: self.labels,
            drain: self.drain,
            slow_start_s: self.slow_start_s,
            ..InstanceRecord::new(address, self.port)
        };
        // Read back as a balancer will.
        let record = parse(&to_value(&record))?;
        let (service, address, leave_max) = (self.service, self.address, self.leave_max);
        Ok(MemberConfig { service, naming, record, address, leave_max })
    }
}

impl Registration {
    /// From now on the app is healthy.
    pub fn set_healthy(&self) {
        drop(self.health.send_replace(Ok(())));
    }

    /// From now on the app is ill, and gets no traffic; it keeps its name. `why` is for logs.
    pub fn set_unhealthy(&self, why: impl Into<String>) {
        drop(self.health.send_replace(Err(why.into())));
    }

    /// How the place stands.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Returns once the record stands in etcd.
    pub async fn registered(&mut self) {
        // The sender lives as long as we do.
        let _ = self.status.wait_for(|status| status.registered).await;
    }

    /// Leaves: returns when every balancer has said that nothing is in flight to the app any more, or after
    /// [`RegistrationBuilder::leave_max`]. Serve on until then.
    pub async fn leave(mut self) {
        self.leave.cancel();
        // Closed when all is done: the lease is revoked, or given up.
        while self.status.changed().await.is_ok() {}
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.give_up.cancel();
    }
}

/// What happens on the thread.
struct Driver {
    etcd: EtcdConfig,
    ttl: Duration,
    thread: EtcdThread,
    wanted: watch::Receiver<Result<(), String>>,
    publish: watch::Sender<Status>,
    leave: CancellationToken,
    give_up: CancellationToken,
}

impl Driver {
    async fn run(self, config: MemberConfig) {
        let abort = CancellationToken::new();
        let mut parts = JoinSet::new();
        let (publish, health) = watch::channel(AppHealth::default());
        let (choice, port) = (config.address.clone(), config.record.port);
        let endpoints = self.etcd.endpoints().to_vec();
        parts.spawn(tell_health(choice, port, endpoints, self.wanted, publish));
        let mut members =
            Members::start(vec![(config, health)], &self.etcd, self.ttl, &self.thread, &abort, &mut parts)
                .await;
        let (mut left, mut given_up) = (false, false);
        while !members.are_released() {
            tokio::select! {
                () = members.changed() => {}
                () = self.leave.cancelled(), if !left => {
                    left = true;
                    members.leave();
                }
                () = self.give_up.cancelled(), if !given_up => given_up = true,
            }
            if given_up || (left && members.have_left()) {
                members.release().await;
            }
            if let Some((_, status)) = members.statuses().pop() {
                self.publish.send_if_modified(|told| {
                    let changed = *told != status;
                    *told = status;
                    changed
                });
            }
        }
    }
}

/// Finds out where the app is, then hands on what it says of itself.
async fn tell_health(
    choice: AddressChoice,
    port: NonZeroU16,
    endpoints: Vec<String>,
    mut wanted: watch::Receiver<Result<(), String>>,
    publish: watch::Sender<AppHealth>,
) {
    let address = member::find(&choice, &endpoints, fastrand::u64(..)).await;
    let at = SocketAddr::new(address, port.get());
    loop {
        let health = wanted.borrow_and_update().clone();
        publish.send_replace(match health {
            Ok(()) => AppHealth::Up(at),
            Err(why) => AppHealth::Down(why),
        });
        if wanted.changed().await.is_err() {
            // The place is given up: what was said last stays.
            return std::future::pending().await;
        }
    }
}
