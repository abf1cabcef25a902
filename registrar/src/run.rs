//! Wires everything up, and performs what [`Life`] decides.

use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use proto::health::Statuses;
use proto::port::{self, Beside, ListenError, Tls, TlsError};
use registry::lease::{self, Standing};
use registry::session::Session;
use registry::time::Clock;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::health;
use crate::member::{self, Identity, Member, SharedLease, Status};
use crate::metrics::{self, Sources};
use crate::probe::{self, AppHealth};
use crate::service_manager::{self, Pulse};
use crate::supervise::life::{Action, Input, Life};
use crate::supervise::{self, Child, Exit, Processes, Request, SpawnError};

/// Longest wait for what is left of the app's process group, which was killed.
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// Why nothing could be started.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The port for health cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// TLS on it cannot be spoken.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The app cannot be started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The kernel refuses what supervising needs.
    #[error("cannot take over the waiting for child processes: {0}")]
    Reaper(io::Error),
}

impl RunError {
    /// The exit code that says so: a shell's for a command that cannot be run, 78 for a certificate, 1 for the rest.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Spawn(SpawnError::NotFound { .. }) => 127,
            Self::Spawn(SpawnError::NotExecutable { .. }) => 126,
            Self::Tls(_) => 78,
            Self::Spawn(SpawnError::Refused { .. }) | Self::Listen(_) | Self::Reaper(_) => 1,
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
    let app = match &config.command {
        Some((program, args)) => {
            let mut command = Command::new(program);
            command.args(args);
            service_manager::keep_from(&mut command);
            Some(processes.spawn(command).await?)
        }
        None => None,
    };
    if let Some(app) = &app {
        tracing::info!(pid = app.pid.as_raw(), "the app is started");
    }
    let supervised = Supervised::start(config, (listener, tls), processes, app, parts).await;
    let pulse = Pulse::ready(Clock.now());
    Ok(supervised.run(requests, pulse).await)
}

/// Everything that runs.
struct Supervised {
    life: Life,
    app: Option<Child>,
    processes: Processes,
    lease: SharedLease,
    standing: watch::Receiver<Standing>,
    member: watch::Receiver<Status>,
    leaving: CancellationToken,
    statuses: watch::Sender<Statuses>,
    service: registry::name::ServiceName,
    /// The tasks; none may end before the process does.
    parts: JoinSet<()>,
    shutdown: CancellationToken,
}

/// One of the things that are waited for.
enum Happened {
    Request(Request),
    Input(Input),
    /// Something to look at anew.
    Changed,
}

impl Supervised {
    async fn start(
        config: Config,
        (listener, tls): (tokio::net::TcpListener, Option<Tls>),
        processes: Processes,
        app: Option<Child>,
        mut parts: JoinSet<()>,
    ) -> Self {
        let shutdown = CancellationToken::new();
        let session = Session::new(config.etcd.clone());
        let (lease, holding) = lease::hold(session.clone(), config.ttl, shutdown.clone());
        let (standing, counts) = (lease.standing(), lease.counts());
        let lease = Arc::new(Mutex::new(lease));
        parts.spawn(holding);

        let (app_health, known_health) = watch::channel(AppHealth::default());
        parts.spawn(watch_app(config.clone(), session.clone(), processes.clone(), app_health));

        let leaving = shutdown.child_token();
        let id = config.member.id.clone();
        let service = id.service.clone();
        let identity = identity(&config);
        announce(&config, listener.local_addr().ok(), &identity);
        let (member, status) =
            Member::new(config.member, identity, session, Arc::clone(&lease), known_health, leaving.clone())
                .await;
        parts.spawn(member.run());

        let (statuses, served) = watch::channel(health::statuses(&service, Status::default(), true));
        let sources = Sources { id, member: status.clone(), standing: standing.clone(), counts };
        let beside = Beside { pages: metrics::pages(sources), tls, ..Beside::default() };
        parts.spawn(port::serve(listener, served, beside, shutdown.clone()));
        Self {
            life: Life::new(app.is_some(), config.stop_grace),
            app,
            processes,
            lease,
            standing,
            member: status,
            leaving,
            statuses,
            service,
            parts,
            shutdown,
        }
    }

    async fn run(mut self, mut requests: mpsc::Receiver<Request>, mut pulse: Pulse) -> u8 {
        let clock = Clock;
        loop {
            pulse.beat(clock.now());
            let wake_at = [self.life.wake_at(), pulse.wake_at()].into_iter().flatten().min();
            let happened = tokio::select! {
                biased;
                exit = ended(&mut self.app) => Happened::Input(self.app_ended(exit)),
                Some(request) = requests.recv() => Happened::Request(request),
                Ok(()) = self.member.changed() => Happened::Changed,
                Ok(()) = self.standing.changed() => Happened::Changed,
                Some(_) = self.parts.join_next() => Happened::Input(self.part_ended()),
                () = clock.until(wake_at) => Happened::Input(Input::Woke),
            };
            let input = match happened {
                Happened::Input(input) => Some(input),
                Happened::Request(request) => self.request(request).await,
                Happened::Changed => self.look(),
            };
            for action in input.map_or_else(Vec::new, |input| self.life.step(clock.now(), input)) {
                if let Action::End(code) = action {
                    return self.end(code).await;
                }
                self.perform(action).await;
            }
            self.tell();
        }
    }

    fn app_ended(&mut self, exit: Exit) -> Input {
        tracing::info!("the app {exit}");
        self.app = None;
        Input::AppEnded(exit)
    }

    fn part_ended(&self) -> Input {
        // The lease's task ends when it is released, which is looked at as a change.
        if self.standing.borrow().released {
            return Input::Released;
        }
        tracing::error!("a part of the registrar ended that should not have: stopping; please report this");
        Input::Broken
    }

    async fn request(&mut self, request: Request) -> Option<Input> {
        match request {
            Request::Stop(signal) => {
                tracing::info!(%signal, "asked to stop");
                service_manager::stopping();
                Some(Input::Stop)
            }
            Request::Forward(signal) => {
                self.signal_app(signal).await;
                None
            }
        }
    }

    fn look(&mut self) -> Option<Input> {
        if self.standing.borrow_and_update().released {
            return Some(Input::Released);
        }
        self.member.borrow_and_update().left.then_some(Input::Left)
    }

    async fn perform(&mut self, action: Action) {
        match action {
            Action::Leave => self.leaving.cancel(),
            Action::Term => {
                tracing::info!("stopping the app");
                self.signal_app(Signal::SIGTERM).await;
            }
            Action::Kill => {
                tracing::warn!("killing the app: it did not end in time, or was not to be waited for");
                self.signal_app(Signal::SIGKILL).await;
            }
            Action::Release => {
                self.lease.lock().await.release().await;
            }
            Action::End(_) => {}
        }
    }

    async fn signal_app(&self, signal: Signal) {
        if let Some(app) = &self.app {
            self.processes.signal(app.pid, signal).await;
        }
    }

    fn tell(&self) {
        let statuses = health::statuses(&self.service, *self.member.borrow(), self.life.is_running());
        self.statuses.send_if_modified(|told| {
            let changed = *told != statuses;
            *told = statuses;
            changed
        });
    }

    async fn end(self, code: u8) -> u8 {
        self.processes.settled(SETTLE_MAX).await;
        self.shutdown.cancel();
        tracing::info!(code, "ended");
        code
    }
}

/// How the app ended, once it has; never, where there is none.
async fn ended(app: &mut Option<Child>) -> Exit {
    match app {
        // A reaper that ended without an answer is told of by its own task; the app's end is then unknown.
        Some(app) => match (&mut app.exit).await {
            Ok(exit) => exit,
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// Finds out where the app is, then watches it there.
async fn watch_app(
    config: Config,
    session: Session,
    processes: Processes,
    publish: watch::Sender<AppHealth>,
) {
    let seed = fastrand::u64(..);
    let address = member::find(config.member.address, session.endpoints(), seed).await;
    let target = SocketAddr::new(address, config.member.record.port.get());
    tracing::info!(check = %config.probe.check, at = %target, "watching the app");
    probe::watch(config.probe, target, seed, processes, publish).await;
}

fn identity(config: &Config) -> Identity {
    Identity {
        id: config.member.id.clone(),
        owner: format!("{:016x}", fastrand::u64(..)),
        prefix: config.etcd.prefix().clone(),
    }
}

fn announce(config: &Config, listen: Option<SocketAddr>, identity: &Identity) {
    let listen = listen.unwrap_or(config.listen);
    let Identity { id, owner, prefix } = identity;
    tracing::info!(service = %id.service, instance = %id.instance, owner, %prefix, %listen, "registrar started");
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
}
