//! A real HAProxy with a configuration as an administrator writes it: backends without servers.

mod config;
mod seen;
mod socket;

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

pub use config::Layout;
pub use seen::{Seen, Server};

use crate::fail::OrFail as _;
use crate::home::Home;
use crate::process::{Daemon, END_MAX};
use crate::wait;

/// Longest a start may take; it is a few milliseconds on an idle machine.
const START_MAX: Duration = Duration::from_secs(10);

/// What the HAProxy with an admin socket at `addr` says at this moment.
pub async fn seen_over_tcp(addr: SocketAddr) -> Result<Seen> {
    let info = socket::ask_over_tcp(addr, "show info").await?;
    let stat = socket::ask_over_tcp(addr, "show stat").await?;
    Seen::parse(&info, &stat)
}

/// An HAProxy process.
#[derive(Debug)]
pub struct HaProxy {
    daemon: Daemon,
    layout: Layout,
}

impl HaProxy {
    /// Writes the configuration into `home` and starts HAProxy on it.
    pub async fn launch(home: &Arc<Home>, layout: Layout) -> Result<Self> {
        let program = crate::program::system("haproxy")?;
        let file = home.join("haproxy.cfg");
        fs::write(&file, layout.config()).with_context(|| format!("cannot write {}", file.display()))?;
        for service in &layout.services {
            fs::write(layout.restarting_map(service), "")?;
        }
        let mut args: Vec<OsString> = match &layout.master {
            Some(socket) => vec!["-W".into(), "-S".into(), socket.into()],
            None => vec!["-db".into()],
        };
        args.extend(["-f".into(), file.into()]);
        if let Some(folder) = &layout.sections {
            fs::create_dir(folder)?;
            for service in &layout.services {
                fs::write(folder.join(format!("50-{service}.cfg")), layout.section(service))?;
            }
            args.extend(["-f".into(), folder.into()]);
        }
        let haproxy = Self { daemon: Daemon::new(home, "haproxy", program, args), layout };
        haproxy.launch_again().await?;
        Ok(haproxy)
    }

    /// Its runtime socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.layout.socket
    }

    /// Where its traffic and its stats page are.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The process and its log.
    #[must_use]
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// What it says of itself and of its servers at this moment.
    pub async fn seen(&self) -> Result<Seen> {
        let info = self.ask("show info").await?;
        let stat = self.ask("show stat").await?;
        Seen::parse(&info, &stat)
    }

    /// The answer to one command.
    pub async fn ask(&self, command: &str) -> Result<String> {
        socket::ask(self.socket(), command).await
    }

    async fn launch_again(&self) -> Result<()> {
        self.daemon.start()?;
        let pid = self.daemon.process()?.pid();
        wait::until(START_MAX, "an answer of HAProxy", async || match self.daemon.surprise() {
            Some(surprise) => Err(anyhow::Error::msg(surprise)),
            // A socket left behind by its predecessor does not answer; one from before must not count.
            // With a master it is a worker that answers.
            None => Ok(self.seen().await.ok().filter(|seen| seen.pid == pid || self.layout.master.is_some())),
        })
        .await?;
        Ok(())
    }
}

/// What scenarios do to it. Each ends the scenario if it cannot be done.
impl HaProxy {
    /// `kill -9`.
    pub async fn kill(&self) {
        self.daemon.process().or_fail().kill().await.or_fail();
    }

    /// Starts it again with the same configuration, which knows no servers unless lb-sync keeps files.
    pub async fn start(&self) {
        self.launch_again().await.or_fail();
    }

    /// Reloads it by its master, and waits until the new worker answers.
    pub async fn reload(&self) {
        let before = self.seen().await.or_fail().pid;
        self.daemon.process().and_then(|master| master.signal(Signal::SIGUSR2)).or_fail();
        let new_worker = async || Ok(self.seen().await.ok().filter(|seen| seen.pid != before));
        wait::until(START_MAX, "HAProxy's new worker", new_worker).await.or_fail();
    }

    /// TERM, which ends it at once, and starts it again.
    pub async fn restart(&self) {
        let process = self.daemon.process().or_fail();
        process.terminate(END_MAX).await.or_fail();
        self.start().await;
    }
}

/// Where the runtime socket of the stack in `home` stands.
pub(crate) fn socket_in(home: &Home) -> PathBuf {
    home.join("haproxy.sock")
}
