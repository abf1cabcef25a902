//! consul-template with a Consul agent of its own, and a HAProxy that it reloads.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use testkit::process::Daemon;
use testkit::{Stack, http, program, wait};

use super::{Peer, Started, fill};
use crate::latency::measured::Measured;
use crate::latency::register::Register;
use crate::latency::way::Way;
use crate::reloading::Master;

/// Its backend.
const BACKEND: &str = "consul-template";
/// Longest until the agent leads itself; it is some 3 s.
const START_MAX: Duration = Duration::from_secs(30);

const AGENT: &str = include_str!("../../peers/consul-template/consul.json");
const FOLLOWER: &str = include_str!("../../peers/consul-template/consul-template.hcl");
const TEMPLATE: &str = include_str!("../../peers/consul-template/haproxy.ctmpl");

/// Starts it; `None` where it or `consul` is missing.
pub(super) async fn start(stack: &Stack) -> Result<Option<Started<'_>>> {
    let (Ok(consul), Ok(binary)) = (program::system("consul"), program::system("consul-template")) else {
        return Ok(None);
    };
    let master = Master::start(stack, BACKEND).await?;
    let agent = stack.ports().free()?;
    let daemons =
        vec![start_agent(stack, consul, agent).await?, start_follower(stack, binary, &master, agent)?];
    let way = Way::new(stack, BACKEND, Register::service(agent)).await?.at(master.port);
    Ok(Some((Peer { daemons, haproxy: Some(master) }, Measured::new(BACKEND, way))))
}

async fn start_agent(stack: &Stack, binary: PathBuf, port: u16) -> Result<Daemon> {
    let config = stack.home().join("consul.json");
    let free = || stack.ports().free().map(|port| port.to_string());
    let (http, server, lan, wan) = (port.to_string(), free()?, free()?, free()?);
    let names =
        [("CONSUL_HTTP", &*http), ("CONSUL_SERVER", &server), ("CONSUL_LAN", &lan), ("CONSUL_WAN", &wan)];
    fs::write(&config, fill(AGENT, &names))?;
    let words = ["agent", "-dev", "-config-file"].map(Into::into);
    let args = words.into_iter().chain([config.into_os_string()]).collect();
    let agent = Daemon::new(stack.home(), "consul", binary, args);
    agent.start()?;
    let leads = async || {
        let leader = http::get(port, "/v1/status/leader").await.ok();
        Ok(leader.filter(|(status, name)| *status == 200 && name.trim().len() > 2).map(drop))
    };
    wait::until(START_MAX, "Consul's agent leads", leads).await?;
    Ok(agent)
}

fn start_follower(stack: &Stack, binary: PathBuf, master: &Master, agent: u16) -> Result<Daemon> {
    let (config, template) = (stack.home().join("consul-template.hcl"), stack.home().join("haproxy.ctmpl"));
    fs::write(&template, master.fill(TEMPLATE))?;
    let (pid, agent) = (master.daemon().process()?.pid().to_string(), agent.to_string());
    let names = [("CONSUL_HTTP", &*agent), ("MASTER", &pid), ("TEMPLATE", &template.to_string_lossy())];
    fs::write(&config, fill(&master.fill(FOLLOWER), &names))?;
    let args = vec!["-config".into(), config.into_os_string()];
    let follower = Daemon::new(stack.home(), BACKEND, binary, args);
    follower.start()?;
    Ok(follower)
}
