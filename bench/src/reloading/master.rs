//! A HAProxy in master-worker mode that hands its sockets on (`expose-fd listeners`), as the documentation of those who
//! reload has it, and the template of its configuration.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use testkit::process::Daemon;
use testkit::{Stack, program, wait};
use tokio::net::UnixStream;

use crate::socket::Socket;

/// confd's template, with names between `@` for what is another on each machine.
pub(crate) const TEMPLATE: &str = include_str!("../../peers/confd/templates/haproxy.tmpl");
/// Where the servers begin in it.
const SERVERS: &str = "{{range";

/// Longest until it answers.
const START_MAX: Duration = Duration::from_secs(10);

/// The running HAProxy; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Master {
    daemon: Daemon,
    /// Its binary, its configuration, its runtime socket, and where it takes traffic.
    pub(crate) program: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) port: u16,
    backend: &'static str,
}

impl Master {
    /// Starts it without a server.
    pub(crate) async fn start(stack: &Stack, backend: &'static str) -> Result<Self> {
        let home = stack.home();
        let (program, config) = (program::system("haproxy")?, home.join(format!("{backend}.cfg")));
        let args = ["-W".into(), "-f".into(), config.clone().into()].to_vec();
        let daemon = Daemon::new(home, &format!("{backend}-haproxy"), program.clone(), args);
        let socket = home.join(format!("{backend}.sock"));
        let master = Self { daemon, program, config, socket, port: stack.ports().free()?, backend };
        fs::write(&master.config, master.head()?)?;
        master.daemon.start()?;
        // Before its socket answers, a signal to reload ends it.
        let answers = async || Ok(UnixStream::connect(&master.socket).await.ok().map(drop));
        wait::until(START_MAX, format!("{backend}'s HAProxy started"), answers).await?;
        Ok(master)
    }

    /// The configuration up to the servers.
    pub(crate) fn head(&self) -> Result<String> {
        let template = self.fill(TEMPLATE);
        let (head, _) = template.split_once(SERVERS).context("the template has no servers")?;
        Ok(head.to_owned())
    }

    /// Puts what this machine has for the names between `@`.
    pub(crate) fn fill(&self, text: &str) -> String {
        let path = |path: &Path| path.display().to_string();
        [
            ("@SOCKET@", path(&self.socket)),
            ("@CONFIG@", path(&self.config)),
            ("@HAPROXY@", path(&self.program)),
            ("@PORT@", self.port.to_string()),
            ("@BACKEND@", self.backend.to_owned()),
        ]
        .iter()
        .fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
    }

    /// The process id of the worker that answers.
    pub(crate) async fn worker(&self) -> Result<u32> {
        let info = Socket::connect(&self.socket).await?.ask("show info".into()).await?;
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid: ")?.parse().ok());
        pid.context("HAProxy names no process id")
    }

    /// The process that takes the signal to reload, and starts the workers.
    pub(crate) fn daemon(&self) -> &Daemon {
        &self.daemon
    }
}
