//! Wires everything up, and performs what [`Life`] decides.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use daemon::port::{self, Beside, ListenError, Tls, TlsError};
use daemon::service_manager::{Message, Watchdog, notify};
use nix::sys::signal::Signal;
use proto::health::Statuses;
use registry::time::Clock;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, ServiceConfig};
use crate::health;
use crate::metrics::{self, Sources};
use crate::probe;
use leasehold::AppHealth;
use leasehold::etcd_thread::EtcdThread;
use leasehold::member::{self, Status};
use leasehold::members::Members;

use crate::supervise::life::{Action, Input, Life};
use crate::supervise::output::{Origin, Output, OutputError};
use crate::supervise::{self, AppLife, Children, Exit, Processes, Request, SpawnError};

/// Longest wait for what is left of the programs, which were killed, and for their last words.
const SETTLE_MAX: Duration = Duration::from_secs(1);
/// What a shell says of a program that cannot be run.
const EXIT_NOT_RUN: u8 = 127;

/// Why nothing could be started.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The port for health cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// TLS on it cannot be spoken.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The app, or one beside it, cannot be started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// Their output cannot be handed on.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The kernel refuses what supervising needs.
    #[error("cannot take over the waiting for child processes: {0}")]
    Reaper(io::Error),
    /// The kernel refuses a thread.
    #[error("cannot start the thread that keeps the lease: {0}")]
    Thread(io::Error),
}

impl RunError {
    /// The exit code that says so: a shell's for a command that cannot be run, 78 for a certificate or a FIFO, 1 for the
    /// rest.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Spawn(SpawnError::NotFound { .. }) => EXIT_NOT_RUN,
            Self::Spawn(SpawnError::NotExecutable { .. }) => 126,
            Self::Tls(_) | Self::Output(OutputError::NoFifo(_) | OutputError::Fifo { .. }) => 78,
            Self::Spawn(SpawnError::Refused { .. })
            | Self::Output(OutputError::Thread(_))
            | Self::Listen(_)
            | Self::Reaper(_)
            | Self::Thread(_) => 1,
        }
    }
}

/// Runs `config` until the app ends, or `requests` ask for a stop; the exit code. It waits for every child of this
/// process: nobody else may.
pub async fn run(config: Config, requests: mpsc::Receiver<Request>) -> Result<u8, RunError> {
    // Before the app: what cannot work is told before anything has happened.
    let tls = config.listen_tls.checked()?;
    let listener = port::listen(config.listen).await?;
    let (processes, reaping) = supervise::start().map_err(RunError::Reaper)?;
    let mut parts = JoinSet::new();
    parts.spawn(reaping);
    let origin = FirstMember::of(&config);
    let output = Output::start(&config.output, origin.clone())?;
    let mut children = Children::new(config.programs.clone(), processes.clone(), output);
    let mut life = Life::new(children.programs(), config.app);
    for action in life.step(Clock.now(), Input::Start) {
        let Action::Spawn(number) = action else { continue };
        if let Err(error) = children.spawn(number).await {
            children.abandon(SETTLE_MAX).await;
            return Err(error.into());
        }
    }
    let supervised = Supervised::start(config, (listener, tls), processes, children, life, parts).await?;
    origin.is(supervised.members.watches());
    notify(&[Message::Ready]);
    let watchdog = Watchdog::of_this_process(Clock.now());
    Ok(supervised.run(requests, watchdog).await)
}

/// Everything that runs.
struct Supervised {
    life: Life,
    children: Children,
    /// The number of the app.
    app: Option<usize>,
    app_life: watch::Sender<AppLife>,
    members: Members,
    statuses: watch::Sender<Statuses>,
    /// The tasks; none may end before the process does.
    parts: JoinSet<()>,
    shutdown: CancellationToken,
}

impl Supervised {
    async fn start(
        config: Config,
        (listener, tls): (TcpListener, Option<Tls>),
        processes: Processes,
        children: Children,
        life: Life,
        mut parts: JoinSet<()>,
    ) -> Result<Self, RunError> {
        let shutdown = CancellationToken::new();
        announce(&config, listener.local_addr().ok());
        let (app_life, known_life) = watch::channel(AppLife { starts: 1, ended: None });
        let mut candidates = vec![];
        for service in &config.services {
            let (publish, health) = watch::channel(AppHealth::default());
            let endpoints = config.etcd.endpoints().to_vec();
            let app = (processes.clone(), known_life.clone());
            parts.spawn(watch_app(service.clone(), endpoints, app, publish));
            candidates.push((service.member.clone(), health));
        }
        let thread = EtcdThread::start().map_err(RunError::Thread)?;
        let members =
            Members::start(candidates, &config.etcd, config.ttl, &thread, &shutdown, &mut parts).await;

        let (statuses, served) = watch::channel(health::statuses(&members.statuses(), true));
        let sources = Sources {
            members: members.watches().to_vec(),
            lease: members.lease(),
            restarts: children.restarts(),
        };
        let beside = Beside { pages: metrics::pages(sources), tls, ..Beside::default() };
        parts.spawn(port::serve(listener, served, beside, shutdown.clone()));
        Ok(Self { life, children, app: config.app, app_life, members, statuses, parts, shutdown })
    }

    async fn run(mut self, mut requests: mpsc::Receiver<Request>, mut watchdog: Watchdog) -> u8 {
        let clock = Clock;
        loop {
            if watchdog.is_due(clock.now()) {
                notify(&[Message::Alive]);
            }
            let wake_at = [self.life.wake_at(), watchdog.wake_at()].into_iter().flatten().min();
            let input = tokio::select! {
                biased;
                (number, exit) = self.children.ended() => Some(self.exited(number, exit)),
                Some(request) = requests.recv() => self.request(request).await,
                () = self.members.changed() => self.look(),
                Some(_) = self.parts.join_next() => Some(self.part_ended()),
                () = clock.until(wake_at) => Some(Input::Woke),
            };
            let mut inputs: VecDeque<Input> = input.into_iter().collect();
            while let Some(input) = inputs.pop_front() {
                for action in self.life.step(clock.now(), input) {
                    if let Action::End(code) = action {
                        return self.end(code).await;
                    }
                    inputs.extend(self.perform(action).await);
                }
            }
            self.tell();
        }
    }

    /// That the app has ended needs no check to be found out.
    fn exited(&self, number: usize, exit: Exit) -> Input {
        if self.app == Some(number) {
            self.app_life.send_modify(|life| life.ended = Some(exit));
        }
        Input::Exited(number, exit)
    }

    fn part_ended(&self) -> Input {
        // The lease's task ends when it is released.
        if self.members.are_released() {
            return Input::Released;
        }
        tracing::error!("a part of the registrar ended that should not have: stopping; please report this");
        Input::Broken
    }

    async fn request(&mut self, request: Request) -> Option<Input> {
        match request {
            Request::Stop(signal) => {
                tracing::info!(%signal, "asked to stop");
                notify(&[Message::Stopping]);
                Some(Input::Stop)
            }
            Request::Forward(signal) => {
                if let Some(app) = self.app {
                    self.children.signal(app, signal).await;
                }
                None
            }
        }
    }

    fn look(&self) -> Option<Input> {
        if self.members.are_released() {
            return Some(Input::Released);
        }
        self.members.have_left().then_some(Input::Left)
    }

    /// What has come of it, if anything.
    async fn perform(&mut self, action: Action) -> Option<Input> {
        match action {
            Action::Spawn(number) => return self.spawn_again(number).await,
            Action::Term(number) => {
                tracing::info!(process = self.children.name(number), "stopping");
                self.children.signal(number, Signal::SIGTERM).await;
            }
            Action::Kill(number) => {
                let process = self.children.name(number);
                tracing::warn!(process, "killing: it did not end in time, or was not to be waited for");
                self.children.signal(number, Signal::SIGKILL).await;
            }
            Action::Again(number, exit, wait) => {
                self.children.count_restart(number);
                let (process, ms) = (self.children.name(number), wait.as_millis());
                tracing::warn!(process, "{exit}; it is started again in {ms} ms");
            }
            Action::GaveUp(number) => {
                let process = self.children.name(number);
                tracing::error!(process, "it ends again and again: giving up, and stopping everything");
            }
            Action::Leave => self.members.leave(),
            Action::Release => self.members.release().await,
            Action::End(_) => {}
        }
        None
    }

    async fn spawn_again(&mut self, number: usize) -> Option<Input> {
        match self.children.spawn(number).await {
            Ok(()) => {
                if self.app == Some(number) {
                    self.app_life.send_modify(|life| {
                        life.starts = life.starts.wrapping_add(1);
                        life.ended = None;
                    });
                }
                None
            }
            Err(error) => {
                tracing::error!(process = self.children.name(number), "{error}");
                Some(Input::Exited(number, Exit::Code(EXIT_NOT_RUN)))
            }
        }
    }

    fn tell(&self) {
        let statuses = health::statuses(&self.members.statuses(), self.life.is_running());
        self.statuses.send_if_modified(|told| {
            let changed = *told != statuses;
            *told = statuses;
            changed
        });
    }

    async fn end(self, code: u8) -> u8 {
        self.children.finish(SETTLE_MAX).await;
        self.shutdown.cancel();
        tracing::info!(code, "ended");
        code
    }
}

/// Finds out where the app is, then watches it there.
async fn watch_app(
    config: ServiceConfig,
    endpoints: Vec<String>,
    (processes, life): (Processes, watch::Receiver<AppLife>),
    publish: watch::Sender<AppHealth>,
) {
    let seed = fastrand::u64(..);
    let address = member::find(&config.member.address, &endpoints, seed).await;
    let target = SocketAddr::new(address, config.member.record.port.get());
    tracing::info!(service = %config.member.service, check = %config.probe.check, at = %target, "watching the app");
    probe::watch(config.probe, target, seed, processes, life, publish).await;
}

fn announce(config: &Config, listen: Option<SocketAddr>) {
    let listen = listen.unwrap_or(config.listen);
    let services: Vec<_> = config.services.iter().map(|one| one.member.service.as_str()).collect();
    tracing::info!(services = services.join(","), %listen, "registrar started");
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
}

/// Whose output it is that the programs print: the first service's.
#[derive(Clone)]
struct FirstMember {
    service: Option<String>,
    status: Arc<OnceLock<watch::Receiver<Status>>>,
}

impl FirstMember {
    fn of(config: &Config) -> Self {
        let service = config.services.first().map(|one| one.member.service.to_string());
        Self { service, status: Arc::default() }
    }

    fn is(&self, members: &[(registry::name::ServiceName, watch::Receiver<Status>)]) {
        if let Some((_, status)) = members.first() {
            // Set once.
            let _ = self.status.set(status.clone());
        }
    }
}

impl Origin for FirstMember {
    fn names(&self) -> (Option<String>, Option<String>) {
        let name =
            self.status.get().and_then(|status| status.borrow().name.as_ref().map(ToString::to_string));
        (self.service.clone(), name)
    }
}
