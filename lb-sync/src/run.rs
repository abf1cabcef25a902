//! Builds the tasks of `lb-sync run`, and ends with the first of them that ends.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use daemon::port::{self, ListenError, PortServices};
use proto::health::Statuses;
use registry::follow::{follow, follow_quietly};
use registry::host;
use registry::lease::lease_task;
use registry::local_addr::local_address_towards;
use registry::name::BalancerName;
use registry::session::Session;
use registry::time::Clock;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::balancer::{Balancer, BalancerTask, Life, Outputs};
use crate::config::{ConfigError, RunConfig};
use crate::snapshot::{self, Snapshot};

/// Longest that our own address may take to be found out, before the first pass.
const FIND_ADDRESS_MAX: Duration = Duration::from_secs(1);

/// How long the presence of balancers may be quiet before etcd is asked for a sign of life: it seldom changes.
const PRESENCE_QUIET_MAX: Duration = Duration::from_secs(30);

/// What `run` cannot be begun or gone on with.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An option that cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The status port.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A task ended that must not.
    #[error("{0} ended unexpectedly: nothing goes on without it")]
    TaskEnded(&'static str),
}

/// Follows the registry until `shutdown`. Any task's end is the end of all.
///
/// What is on the way from etcd to HAProxy, and speaks with etcd at all, is on the runtime that this runs on, which best has one
/// thread: where a step of the way has to wake another thread, a change takes longer. The port, whose questions may be many,
/// and the disk are on that of `others`.
pub async fn run(
    mut config: RunConfig,
    others: &Handle,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    if let Some(dir) = &config.state_dir {
        make_state_dir(dir)?;
        config.pass.snapshot = Snapshot::load(dir, &config.pass.prefix);
    }
    let files = config.files.open(config.state_dir.as_deref());
    let files = files.map_err(|error| ConfigError(error.to_string()))?.start(config.pass.policy);
    let tls = config.listen_tls.checked().map_err(|error| ConfigError(error.to_string()))?;
    let listener = listen(config.listen, others).await?;
    let listening = listener.local_addr().map_or(config.listen, |addr| addr);
    let session = Session::new(config.etcd);
    let prefix = config.pass.prefix.clone();
    tracing::info!(
        balancer = %config.balancer,
        listen = %listening,
        etcd = session.endpoints().join(","),
        socket = %config.pass.socket.display(),
        "lb-sync {}", env!("CARGO_PKG_VERSION")
    );
    let end = CancellationToken::new();
    let (tell_health, health) = watch::channel(Statuses::default());
    let (lease, holding) = lease_task(session.clone(), config.ttl, end.clone());
    let (instances, following_instances) = follow(session.clone(), prefix.instances(), end.clone());
    let (overrides, following_overrides) = follow(session.clone(), prefix.overrides(), end.clone());
    let (balancers, following_balancers) =
        follow_quietly(session.clone(), prefix.balancers(), PRESENCE_QUIET_MAX, None, end.clone());
    let (hub, status, auditing) =
        crate::port::open(config.pass.socket.clone(), config.audit_file, Some(files.report));
    let services = PortServices { tls, ..crate::port::services(&hub, &end) };
    let told = reachable(listening, session.endpoints()).await;
    let (snapshots, new_snapshots) = watch::channel(None);
    let outputs = Outputs { lease, health: tell_health, snapshots, files: files.link, status };
    let sockets = (config.pass.socket.clone(), config.master_socket);
    let life = life(config.balancer, &config.pass.socket, told);
    let balancer = Balancer::new(Clock.now(), fastrand::u64(..), config.pass, life, (files.files, files.ids));
    let balancing = BalancerTask::new(balancer, prefix, sockets, session, outputs);

    let mut tasks = JoinSet::new();
    let state_dir = config.state_dir.clone();
    if let Some(dir) = config.state_dir {
        let keeping = snapshot::save_each(dir, new_snapshots);
        tasks.spawn_on(async move { (keeping.await, "the snapshot").1 }, others);
    }
    if let Some(auditing) = auditing {
        tasks.spawn_on(async move { (auditing.await, "the audit file").1 }, others);
    }
    for (task, name) in files.tasks {
        tasks.spawn_on(async move { (task.await, name).1 }, others);
    }
    let stop = end.clone();
    tasks.spawn(async move { (holding.await, "the lease").1 });
    tasks.spawn(async move { (following_instances.await, "the watch of the instances").1 });
    tasks.spawn(async move { (following_overrides.await, "the watch of the overrides").1 });
    tasks.spawn(async move { (following_balancers.await, "the watch of the balancers").1 });
    tasks.spawn_on(
        async move { (port::serve(listener, health, services, stop).await, "the status port").1 },
        others,
    );
    let ended = tokio::select! {
        last_view = balancing.run((instances, overrides, balancers), shutdown.clone()) => {
            if let Some((dir, view)) = state_dir.zip(last_view) {
                snapshot::save_last(dir, view).await;
            }
            "the balancer"
        }
        ended = tasks.join_next() => ended.and_then(Result::ok).unwrap_or("a task"),
    };
    end.cancel();
    if shutdown.is_cancelled() { Ok(()) } else { Err(RunError::TaskEnded(ended)) }
}

/// What this life says of itself.
pub(crate) fn life(name: BalancerName, socket: &Path, status: SocketAddr) -> Life {
    let socket = std::path::absolute(socket).unwrap_or_else(|_| socket.to_owned());
    Life {
        name,
        id: format!("{:016x}", fastrand::u64(..)),
        host: host::name(),
        boot: host::boot_id(),
        socket: socket.display().to_string(),
        status: status.to_string(),
    }
}

fn make_state_dir(dir: &Path) -> Result<(), ConfigError> {
    fs::create_dir_all(dir).map_err(|error| {
        ConfigError(format!(
            "cannot make the state directory {}: {error}\n  check --state-dir",
            dir.display()
        ))
    })
}

/// Listens on the runtime of `others`, which then is the one that new connections wake.
async fn listen(addr: SocketAddr, others: &Handle) -> Result<TcpListener, RunError> {
    let listening = others.spawn(port::listen(addr)).await;
    Ok(listening.map_err(|_| RunError::TaskEnded("the status port"))??)
}

/// Where others ask us: of a port that is open on all addresses, the one on the way to etcd. What cannot be found out in time is
/// told as it is.
async fn reachable(listening: SocketAddr, endpoints: &[String]) -> SocketAddr {
    if !listening.ip().is_unspecified() {
        return listening;
    }
    let find = async {
        for endpoint in endpoints {
            if let Ok(address) = local_address_towards(endpoint).await {
                return Some(SocketAddr::new(address, listening.port()));
            }
        }
        None
    };
    tokio::time::timeout(FIND_ADDRESS_MAX, find).await.ok().flatten().unwrap_or(listening)
}
