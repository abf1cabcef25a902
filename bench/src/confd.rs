//! The real confd, where it is on PATH, with the configuration in `bench/peers/confd`.

use std::fs;

use anyhow::Result;
use stack::process::Daemon;
use stack::{Stack, program};

use crate::reloading::{Master, TEMPLATE};

/// Where its records stand.
pub(crate) const PREFIX: &str = "/confd/v1";
/// Its backend.
pub(crate) const BACKEND: &str = "confd";
/// What it is to do at a change.
const RESOURCE: &str = include_str!("../peers/confd/conf.d/haproxy.toml");

/// The running confd, and its HAProxy; both end with it.
#[derive(Debug)]
pub(crate) struct Confd {
    confd: Daemon,
    master: Master,
}

impl Confd {
    /// Starts it; `None` where there is none.
    pub(crate) async fn start(stack: &Stack) -> Result<Option<Self>> {
        let Ok(binary) = program::system("confd") else { return Ok(None) };
        let master = Master::start(stack, BACKEND).await?;
        let folder = stack.home().join("confd");
        fs::create_dir_all(folder.join("conf.d"))?;
        fs::create_dir_all(folder.join("templates"))?;
        let pid = master.daemon().process()?.pid().to_string();
        let resource = master.fill(RESOURCE).replace("@PREFIX@", PREFIX).replace("@MASTER@", &pid);
        fs::write(folder.join("conf.d/haproxy.toml"), resource)?;
        fs::write(folder.join("templates/haproxy.tmpl"), master.fill(TEMPLATE))?;
        let endpoint = stack.etcd().endpoint();
        let words = ["-backend", "etcdv3", "-node", &endpoint, "-watch", "-confdir"].map(Into::into);
        let args = words.into_iter().chain([folder.into_os_string()]).collect();
        let confd = Daemon::new(stack.home(), "confd", binary, args);
        confd.start()?;
        Ok(Some(Self { confd, master }))
    }

    /// Where its HAProxy takes traffic.
    pub(crate) fn port(&self) -> u16 {
        self.master.port
    }

    /// Why it has ended, if it has.
    pub(crate) fn failure(&self) -> Option<String> {
        self.confd.surprise().or_else(|| self.master.daemon().surprise())
    }
}
