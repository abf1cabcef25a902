//! For an app in Rust that registers itself: a [`RegistrationBuilder`] says as what, a [`Registration`] stands while the app is well.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use leasehold::RegistrationBuilder;
//!
//! let mut place = RegistrationBuilder::new("web".parse()?, "3000".parse()?).start()?;
//! place.registered().await;
//! // … serve, until you are asked to stop; then, still serving:
//! place.leave().await;
//! # Ok(()) }
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::pin::pin;
use std::time::Duration;

use registry::name::ServiceName;
use registry::record::{DrainTimes, InstanceRecord, RecordError, Weight, parse, to_value};
use registry::session::{EtcdOptions, OptionsError};
use registry::time::Clock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::etcd_thread::EtcdThread;
use crate::host::{HostNameError, host_name};
use crate::member::{self, AddressChoice, MemberConfig, Naming, Status};
use crate::members::{self, Members, MembersIo};

mod machine;

use machine::{Input, Machine};

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
    #[error(transparent)]
    Name(#[from] HostNameError),
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
    app: watch::Sender<Result<(), String>>,
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
        let config = self.member()?;
        let thread = EtcdThread::start()?;
        let owner = format!("{:016x}", fastrand::u64(..));
        let configs = std::slice::from_ref(&config);
        let machine = Machine::new(Members::new(configs, &owner, etcd.prefix(), fastrand::u64(..)));
        let io = MembersIo::start(configs, owner, &etcd, ttl, thread.clone(), CancellationToken::new());
        let (app, said) = watch::channel(Ok(()));
        let (publish, status) = watch::channel(Status::default());
        let (leave, give_up) = (CancellationToken::new(), CancellationToken::new());
        let driver =
            Driver { machine, io, app: said, publish, leave: leave.clone(), give_up: give_up.clone() };
        let locate = async move {
            let address = member::find(&config.address, etcd.endpoints(), fastrand::u64(..)).await;
            SocketAddr::new(address, config.record.port.get())
        };
        drop(thread.spawn(driver.run(locate)));
        Ok(Registration { app, status, leave, give_up })
    }

    fn member(self) -> Result<MemberConfig, RegistrationError> {
        let naming = match self.naming {
            Some(naming) => naming,
            None => Naming::Host(host_name()?),
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
        let linger = self.ttl * 3 / 2;
        Ok(MemberConfig { service, naming, record, address, leave_max, linger })
    }
}

impl Registration {
    /// From now on the app is healthy.
    pub fn set_healthy(&self) {
        drop(self.app.send_replace(Ok(())));
    }

    /// From now on the app is unhealthy. It gets no traffic and keeps its name. `why` goes to the log.
    pub fn set_unhealthy(&self, why: impl Into<String>) {
        drop(self.app.send_replace(Err(why.into())));
    }

    /// The status of the registration.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Returns once the record stands in etcd. There is no bound: without etcd it waits.
    pub async fn registered(&mut self) {
        // An error means that the thread has ended: the status then stays as it is.
        let _ = self.status.wait_for(|status| status.registered).await;
    }

    /// Leaves in order. Returns once every balancer has acknowledged that nothing is in flight to the app, or after
    /// [`RegistrationBuilder::leave_max`]; the lease is revoked by then. Keep serving until it returns. A call that is
    /// cancelled gives the registration up at once, as a drop does.
    pub async fn leave(mut self) {
        self.leave.cancel();
        // The sender is dropped when the lease is revoked, or given up.
        while self.status.changed().await.is_ok() {}
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.give_up.cancel();
    }
}

/// Performs what the machine decides, on the thread that talks to etcd.
struct Driver {
    machine: Machine,
    io: MembersIo,
    app: watch::Receiver<Result<(), String>>,
    publish: watch::Sender<Status>,
    leave: CancellationToken,
    give_up: CancellationToken,
}

impl Driver {
    /// Runs until the lease is released. `locate` finds the address of the app.
    async fn run(mut self, locate: impl Future<Output = SocketAddr>) {
        let clock = Clock;
        let mut locate = pin!(locate);
        let (mut located, mut leaving, mut given_up) = (false, false, false);
        while !self.machine.is_over() {
            let input = tokio::select! {
                biased;
                input = self.io.next() => match input {
                    Some(input) => Input::Members(input),
                    // A task has ended that was not to: nothing keeps the lease any more.
                    None => return,
                },
                () = self.give_up.cancelled(), if !given_up => {
                    given_up = true;
                    Input::GiveUp
                }
                () = self.leave.cancelled(), if !leaving => {
                    leaving = true;
                    Input::Leave
                }
                at = &mut locate, if !located => {
                    located = true;
                    Input::Located(at)
                }
                said = next_said(&mut self.app) => Input::App(said),
                () = clock.until(self.machine.wake_at()) => Input::Members(members::Input::Woke),
            };
            let mut inputs = VecDeque::from([input]);
            while let Some(input) = inputs.pop_front() {
                for action in self.machine.step(clock.now(), input) {
                    inputs.extend(self.io.perform(action).await.map(Input::Members));
                }
            }
            if let Some(status) = self.machine.status() {
                self.publish.send_if_modified(|published| {
                    let changed = *published != status;
                    *published = status;
                    changed
                });
            }
        }
    }
}

/// What the app says next. Pending once the registration was dropped: the last word stands.
async fn next_said(app: &mut watch::Receiver<Result<(), String>>) -> Result<(), String> {
    match app.changed().await {
        Ok(()) => app.borrow_and_update().clone(),
        Err(_) => pending().await,
    }
}
