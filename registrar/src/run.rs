//! Connects the parts of the process, and performs what [`Registrar`] decides.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use daemon::port::{self, ListenError, PortServices, Tls};
use daemon::service_manager::{Message, Watchdog, notify};
use leasehold::etcd_thread::EtcdThread;
use leasehold::member::{self, MemberConfig};
use leasehold::members::{Members, MembersIo};
use nix::sys::signal::Signal;
use proto::health::Statuses;
use registry::key::Prefix;
use registry::time::Clock;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, OpenConfig};
use crate::health;
use crate::machine::{Action, Input, Registrar};
use crate::metrics::{self, MemberStatuses, Sources};
use crate::probe::prober::Prober;
use crate::probe::{self, CheckTls, ProbeConfig};
use crate::supervise::output::{Origin, Output, OutputError};
use crate::supervise::program::Program;
use crate::supervise::supervisor::Supervisor;
use crate::supervise::{self, Children, Exit, Processes, Request, SpawnError};

/// Longest wait for processes that were killed, and for the rest of their output.
const SETTLE_MAX: Duration = Duration::from_secs(1);
/// Exit code of a shell for a program that cannot be run.
const EXIT_NOT_RUN: u8 = 127;

/// The process could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The port for health cannot be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The app or a sidecar cannot be started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The output of the programs cannot be forwarded.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The kernel refuses what supervision needs.
    #[error("cannot take over the waiting for child processes: {0}")]
    Reaper(io::Error),
    /// The kernel refuses a thread.
    #[error("cannot start the thread that keeps the lease: {0}")]
    Thread(io::Error),
}

impl RunError {
    /// The exit code: a shell's for a command that cannot be run, 78 for a FIFO, 1 otherwise.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Spawn(SpawnError::NotFound { .. }) => EXIT_NOT_RUN,
            Self::Spawn(SpawnError::NotExecutable { .. }) => 126,
            Self::Output(OutputError::NoFifo(_) | OutputError::Fifo { .. }) => 78,
            Self::Spawn(SpawnError::Refused { .. })
            | Self::Output(OutputError::Thread(_))
            | Self::Listen(_)
            | Self::Reaper(_)
            | Self::Thread(_) => 1,
        }
    }
}

/// Runs a configuration until the app ends, or `requests` ask for a stop. Returns the exit code. It waits for every child of this
/// process: no other code may.
pub async fn run(open: OpenConfig, requests: mpsc::Receiver<Request>) -> Result<u8, RunError> {
    let OpenConfig { config, etcd, listen_tls, check_tls } = open;
    // Before the app: an error here is reported before anything has happened.
    let listener = port::listen(config.listen).await?;
    let (processes, reaping) = supervise::start().map_err(RunError::Reaper)?;
    let mut parts = JoinSet::new();
    parts.spawn(reaping);

    let owner = format!("{:016x}", fastrand::u64(..));
    let mut registrar = compose(&config, etcd.prefix(), &owner);
    let (publish, statuses) = watch::channel(registrar.statuses());
    let output = Output::start(&config.output, FirstMember(statuses.clone()))?;
    let mut children = Children::new(config.programs.clone(), processes.clone(), output);
    for action in registrar.step(Clock.now(), Input::Start) {
        let Action::Spawn(number) = action else { continue };
        if let Err(error) = children.spawn(number).await {
            children.abandon(SETTLE_MAX).await;
            return Err(error.into());
        }
    }

    announce(&config, listener.local_addr().ok());
    let shutdown = CancellationToken::new();
    let thread = EtcdThread::start().map_err(RunError::Thread)?;
    let members: Vec<MemberConfig> = config.services.iter().map(|one| one.member.clone()).collect();
    let members = MembersIo::start(&members, owner, &etcd, config.ttl, thread, shutdown.clone());
    let sources = Sources { statuses, lease: members.lease(), restarts: children.restarts() };
    let health = serve_port(&mut parts, listener, listen_tls, sources, &shutdown);
    let probes = Probes::start(&config, check_tls, etcd.endpoints(), processes);
    let io = Io { children, members, probes, parts, publish, health, shutdown };
    Ok(io.run(registrar, requests).await)
}

/// The machine of the whole process, for this configuration.
fn compose(config: &Config, prefix: &Prefix, owner: &str) -> Registrar {
    let now = Clock.now();
    let seed = || fastrand::u64(..);
    let programs = config.programs.iter().map(|program| Program::new(program.policy, seed())).collect();
    let probers = config.services.iter().map(|one| Prober::new(&one.probe, now, seed())).collect();
    let members: Vec<MemberConfig> = config.services.iter().map(|one| one.member.clone()).collect();
    let members = Members::new(&members, owner, prefix, seed());
    Registrar::new(Supervisor::new(programs, config.app), probers, members, config.app)
}

/// Serves health and metrics; returns the sender of what health says.
fn serve_port(
    parts: &mut JoinSet<()>,
    listener: TcpListener,
    tls: Option<Tls>,
    sources: Sources,
    shutdown: &CancellationToken,
) -> watch::Sender<Statuses> {
    let (health, served) = watch::channel(health::statuses(&sources.statuses.borrow(), true));
    let services = PortServices { pages: metrics::pages(sources), tls, ..PortServices::default() };
    parts.spawn(port::serve(listener, served, services, shutdown.clone()));
    health
}

/// Everything that runs, without a decision.
struct Io {
    children: Children,
    members: MembersIo,
    probes: Probes,
    /// Tasks that must not end before the process does.
    parts: JoinSet<()>,
    publish: watch::Sender<MemberStatuses>,
    health: watch::Sender<Statuses>,
    shutdown: CancellationToken,
}

impl Io {
    async fn run(mut self, mut registrar: Registrar, mut requests: mpsc::Receiver<Request>) -> u8 {
        let clock = Clock;
        notify(&[Message::Ready]);
        let mut watchdog = Watchdog::of_this_process(clock.now());
        loop {
            if watchdog.is_due(clock.now()) {
                notify(&[Message::Alive]);
            }
            let wake_at = [registrar.wake_at(), watchdog.wake_at()].into_iter().flatten().min();
            let input = tokio::select! {
                biased;
                (number, exit) = self.children.ended() => Input::Exited(number, exit),
                Some(request) = requests.recv() => requested(request),
                input = self.members.next() => input.map_or(Input::PartEnded, Input::Members),
                input = self.probes.next() => input,
                Some(_) = self.parts.join_next() => Input::PartEnded,
                () = clock.until(wake_at) => Input::Woke,
            };
            let mut inputs = VecDeque::from([input]);
            while let Some(input) = inputs.pop_front() {
                for action in registrar.step(clock.now(), input) {
                    if let Action::End(code) = action {
                        return self.end(code).await;
                    }
                    inputs.extend(self.perform(action).await);
                }
            }
            self.publish(&registrar);
        }
    }

    /// Performs `action`. Returns its outcome where the machine waits for one.
    async fn perform(&mut self, action: Action) -> Option<Input> {
        match action {
            Action::Spawn(number) => match self.children.spawn(number).await {
                Ok(()) => return Some(Input::Spawned(number)),
                Err(error) => {
                    tracing::error!(process = self.children.name(number), "{error}");
                    return Some(Input::Exited(number, Exit::Code(EXIT_NOT_RUN)));
                }
            },
            Action::Term(number) => {
                tracing::info!(process = self.children.name(number), "stopping");
                self.children.signal(number, Signal::SIGTERM).await;
            }
            Action::Kill(number) => {
                let process = self.children.name(number);
                tracing::warn!(process, "killing: it did not end in time, or a further stop was requested");
                self.children.signal(number, Signal::SIGKILL).await;
            }
            Action::Forward(number, signal) => self.children.signal(number, signal).await,
            Action::ReportRestart(number, exit, wait) => {
                self.children.count_restart(number);
                let (process, ms) = (self.children.name(number), wait.as_millis());
                tracing::warn!(process, "{exit}; it is started again in {ms} ms");
            }
            Action::ReportGaveUp(number) => {
                let process = self.children.name(number);
                tracing::error!(process, "it ends again and again: giving up, and stopping everything");
            }
            Action::ReportBroken => {
                tracing::error!(
                    "a part of the registrar ended that should not have: stopping; please report this"
                );
            }
            Action::Check(index, target) => self.probes.check(index, target),
            Action::Members(action) => return self.members.perform(action).await.map(Input::Members),
            Action::End(_) => {}
        }
        None
    }

    fn publish(&self, registrar: &Registrar) {
        let statuses = registrar.statuses();
        send_if_changed(&self.health, health::statuses(&statuses, registrar.is_running()));
        send_if_changed(&self.publish, statuses);
    }

    async fn end(self, code: u8) -> u8 {
        self.children.finish(SETTLE_MAX).await;
        self.shutdown.cancel();
        tracing::info!(code, "ended");
        code
    }
}

fn requested(request: Request) -> Input {
    match request {
        Request::Stop(signal) => {
            tracing::info!(%signal, "asked to stop");
            notify(&[Message::Stopping]);
            Input::Stop
        }
        Request::Forward(signal) => Input::Forward(signal),
    }
}

fn send_if_changed<T: PartialEq>(sender: &watch::Sender<T>, value: T) {
    sender.send_if_modified(|sent| {
        let changed = *sent != value;
        *sent = value;
        changed
    });
}

/// Searches for the addresses of the apps, and checks that are under way. Each ends with an input.
struct Probes {
    configs: Vec<(ProbeConfig, Option<CheckTls>)>,
    processes: Processes,
    running: JoinSet<Input>,
}

impl Probes {
    fn start(
        config: &Config,
        tls: Vec<Option<CheckTls>>,
        endpoints: &[String],
        processes: Processes,
    ) -> Self {
        let mut running = JoinSet::new();
        for (index, one) in config.services.iter().enumerate() {
            let (one, endpoints) = (one.clone(), endpoints.to_vec());
            running.spawn(async move {
                let address = member::find(&one.member.address, &endpoints, fastrand::u64(..)).await;
                let at = SocketAddr::new(address, one.member.record.port.get());
                tracing::info!(service = %one.member.service, check = %one.probe.check, %at, "watching the app");
                Input::Located(index, at)
            });
        }
        let configs = config.services.iter().map(|one| one.probe.clone()).zip(tls).collect();
        Self { configs, processes, running }
    }

    fn check(&mut self, index: usize, target: SocketAddr) {
        let Some((config, tls)) = self.configs.get(index).cloned() else { return };
        let processes = self.processes.clone();
        self.running.spawn(async move {
            Input::Checked(index, probe::perform(&config, tls.as_ref(), target, &processes).await)
        });
    }

    /// The next input; pending while nothing runs.
    async fn next(&mut self) -> Input {
        match self.running.join_next().await {
            Some(ended) => ended.unwrap_or(Input::PartEnded),
            None => pending().await,
        }
    }
}

fn announce(config: &Config, listen: Option<SocketAddr>) {
    let listen = listen.unwrap_or(config.listen);
    let services: Vec<_> = config.services.iter().map(|one| one.member.service.as_str()).collect();
    tracing::info!(services = services.join(","), %listen, "registrar started");
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
}

/// The programs' output is labelled with the first service and its instance.
struct FirstMember(watch::Receiver<MemberStatuses>);

impl Origin for FirstMember {
    fn names(&self) -> (Option<String>, Option<String>) {
        match self.0.borrow().first() {
            Some((service, status)) => {
                (Some(service.to_string()), status.name.as_ref().map(ToString::to_string))
            }
            None => (None, None),
        }
    }
}
