//! The lb-sync under test.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::apart::Apart;
use crate::fail::OrFail as _;
use crate::home::Home;
use crate::port::loopback;
use crate::process::{Daemon, END_MAX};
use crate::{PREFIX, http, program, wait};

/// Its name among the balancers.
pub const BALANCER: &str = "lb";
/// Longest from its start until it is in sync.
const SYNC_MAX: Duration = Duration::from_secs(15);

/// Its state directory, within the stack's home.
const STATE_DIR: &str = "lb-sync-state";

/// An lb-sync process.
#[derive(Debug)]
pub struct LbSync {
    daemon: Daemon,
    addr: SocketAddr,
}

impl LbSync {
    /// Starts it for the HAProxy at `socket`, and waits until it is in sync with the etcd at `endpoint`.
    pub async fn launch(home: &Arc<Home>, endpoint: &str, socket: &Path, port: u16) -> Result<Self> {
        Self::launch_with(home, endpoint, socket, port, &[]).await
    }

    /// The same, with `flags` beside its own.
    pub async fn launch_with(
        home: &Arc<Home>,
        endpoint: &str,
        socket: &Path,
        port: u16,
        flags: &[String],
    ) -> Result<Self> {
        Self::launch_at(home, endpoint, socket, loopback(port), flags, None).await
    }

    /// The same, in a network namespace.
    pub async fn launch_apart(
        home: &Arc<Home>,
        endpoint: &str,
        socket: &Path,
        port: u16,
        flags: &[String],
        apart: &Apart,
    ) -> Result<Self> {
        let addr = SocketAddr::new(apart.there(), port);
        Self::launch_at(home, endpoint, socket, addr, flags, Some(apart)).await
    }

    async fn launch_at(
        home: &Arc<Home>,
        endpoint: &str,
        socket: &Path,
        addr: SocketAddr,
        flags: &[String],
        apart: Option<&Apart>,
    ) -> Result<Self> {
        let mut program = program::ours("lb-sync")?;
        let mut words: Vec<OsString> = Vec::new();
        if let Some(apart) = apart {
            words.extend(apart.words().map(OsString::from));
            words.push(program.into());
            program = program::system("ip")?;
        }
        let args = [
            "run".into(),
            "--etcd-endpoints".into(),
            endpoint.into(),
            "--haproxy-socket".into(),
            socket.into(),
            "--listen".into(),
            addr.to_string().into(),
            "--balancer".into(),
            BALANCER.into(),
            "--prefix".into(),
            PREFIX.into(),
            "--state-dir".into(),
            home.join(STATE_DIR).into(),
        ];
        let args = words.into_iter().chain(args).chain(flags.iter().map(Into::into)).collect();
        let lb_sync = Self { daemon: Daemon::new(home, "lb-sync", program, args), addr };
        lb_sync.daemon.start()?;
        lb_sync.in_sync().await?;
        Ok(lb_sync)
    }

    /// The process and its log.
    #[must_use]
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Where its status page, health and metrics are.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// The body of one of its pages.
    pub async fn page(&self, path: &str) -> Result<String> {
        Ok(http::get_at(self.addr, path).await?.1)
    }

    async fn in_sync(&self) -> Result<()> {
        wait::until(SYNC_MAX, "lb-sync in sync (GET /healthz)", async || match self.daemon.surprise() {
            Some(surprise) => Err(anyhow::Error::msg(surprise)),
            None => Ok(http::get_at(self.addr, "/healthz").await.ok().filter(|(status, _)| *status == 200)),
        })
        .await?;
        Ok(())
    }
}

/// What scenarios do to it. Each ends the scenario if it cannot be done.
impl LbSync {
    /// `kill -9`.
    pub async fn kill(&self) {
        self.daemon.process().or_fail().kill().await.or_fail();
    }

    /// TERM, as an upgrade does; waits for its end.
    pub async fn stop(&self) {
        self.daemon.process().or_fail().terminate(END_MAX).await.or_fail();
    }

    /// Starts it again, and waits until it is in sync.
    pub async fn start(&self) {
        self.daemon.start().or_fail();
        self.in_sync().await.or_fail();
    }

    /// Starts it again without waiting for anything: there may be no etcd to be in sync with.
    pub fn start_blind(&self) {
        self.daemon.start().or_fail();
    }

    /// Waits until its snapshot of the registry on disk holds `instance` (`web/web-1`).
    pub async fn until_saved(&self, home: &Home, instance: &str) {
        let path = home.join(STATE_DIR).join("snapshot.json");
        let what = format!("{instance} in lb-sync's snapshot");
        wait::until(SYNC_MAX, what, async || {
            let saved = std::fs::read_to_string(&path).unwrap_or_default();
            Ok(saved.contains(&format!("\"{instance}\"")).then_some(()))
        })
        .await
        .or_fail();
    }

    /// `kill -9`, and starts it again.
    pub async fn restart(&self) {
        self.kill().await;
        self.start().await;
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        self.daemon.process().and_then(|it| it.signal(Signal::SIGSTOP)).or_fail();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.daemon.process().and_then(|it| it.signal(Signal::SIGCONT)).or_fail();
    }
}
