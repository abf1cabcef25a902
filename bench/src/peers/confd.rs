//! confd with etcd, and a HAProxy that it reloads.

use std::fs;

use anyhow::Result;
use testkit::process::Daemon;
use testkit::{Stack, program};

use super::{Peer, Started, fill};
use crate::latency::measured::Measured;
use crate::latency::register::Register;
use crate::latency::way::Way;
use crate::reloading::{Master, TEMPLATE};

/// Where its records stand.
const PREFIX: &str = "/confd/v1";
/// Its backend.
const BACKEND: &str = "confd";
/// What it is to do at a change.
const RESOURCE: &str = include_str!("../../peers/confd/conf.d/haproxy.toml");

/// Starts it; `None` where there is none.
pub(super) async fn start(stack: &Stack) -> Result<Option<Started<'_>>> {
    let Ok(binary) = program::system("confd") else { return Ok(None) };
    let master = Master::start(stack, BACKEND).await?;
    let folder = stack.home().join("confd");
    fs::create_dir_all(folder.join("conf.d"))?;
    fs::create_dir_all(folder.join("templates"))?;
    let pid = master.daemon().process()?.pid().to_string();
    let resource = fill(&master.fill(RESOURCE), &[("PREFIX", PREFIX), ("MASTER", &pid)]);
    fs::write(folder.join("conf.d/haproxy.toml"), resource)?;
    fs::write(folder.join("templates/haproxy.tmpl"), master.fill(TEMPLATE))?;
    let endpoint = stack.etcd().endpoint();
    let words = ["-backend", "etcdv3", "-node", &endpoint, "-watch", "-confdir"].map(Into::into);
    let args = words.into_iter().chain([folder.into_os_string()]).collect();
    let confd = Daemon::new(stack.home(), "confd", binary, args);
    confd.start()?;
    let register = Register::record(stack, BACKEND, PREFIX).await?;
    let way = Way::new(stack, BACKEND, register).await?.at(master.port);
    Ok(Some((Peer { daemons: vec![confd], haproxy: Some(master) }, Measured::new("confd", way))))
}
