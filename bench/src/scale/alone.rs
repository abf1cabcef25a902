//! HAProxy alone: the same commands as lb-sync's, from a list, on one session.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use stack::haproxy::{HaProxy, Layout};
use stack::home::Home;
use stack::load::{Load, Plan, Report};
use stack::port::{Ports, loopback};
use stack::{Clock, wait};

use super::change::{Changes, Hand, WEIGHT};
use super::crowd::{Crowd, EXTRA};
use super::{SERVICE, rate};
use crate::socket::Socket;

/// Commands in one write, as many as lb-sync sends under traffic.
const TOGETHER: usize = 10;
/// What lb-sync gives a server besides.
const OPTIONS: &str = "pool-purge-delay 5s pool-max-conn -1";
/// Ids as lb-sync's.
const ID_BASE: u32 = 10_000;
/// Longest that requests in flight may take.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// What was measured.
#[derive(Debug)]
pub(super) struct Alone {
    /// From the first command to the last answer.
    pub(super) ready: Duration,
    /// One answer to `show servers state`, which is most of what an audit has to ask.
    pub(super) show: Duration,
    pub(super) changes: Changes,
    pub(super) load: Report,
}

/// The one that comes and goes, by commands.
struct Extra {
    haproxy: Socket,
    addr: String,
    id: u32,
    backend: u32,
}

pub(super) async fn measure(count: u32, services: u32) -> Result<Alone> {
    let names = Crowd::services(services);
    let (home, ports) = (Arc::new(Home::new()?), Ports::claim()?);
    let layout = Layout {
        socket: home.join("haproxy.sock"),
        traffic_port: ports.free()?,
        stats_port: ports.free()?,
        services: names.clone(),
        affinity: true,
        sections: None,
    };
    let (port, crowd) = (layout.traffic_port, Crowd::start(&ports, services).await?);
    let haproxy = HaProxy::launch(&home, layout).await?;
    add_all(&haproxy, &crowd, 0..1).await?;
    let mut socket = Socket::connect(haproxy.socket()).await?;
    let (target, service, path) = (loopback(port), SERVICE.into(), "/".into());
    let load = Load::start(Plan { target, service, path, rate: rate(), sticky_clients: 0 })?;

    let ready = add_all(&haproxy, &crowd, 1..count + 1).await?;
    let backend = socket.backend_id(SERVICE).await?;
    anyhow::ensure!(socket.active_in(&names).await? == count + 1, "not all servers are in rotation");
    let start = Clock.now();
    socket.ask("show servers state".into()).await?;
    let show = Clock.now().since(start);
    let addr = loopback(crowd.extra_port()).to_string();
    let haproxy_too = Socket::connect(haproxy.socket()).await?;
    let mut extra = Extra { haproxy: haproxy_too, addr, id: ID_BASE + count + 1, backend };
    let changes = Changes::measure(&mut extra, &mut socket, port).await?;
    Ok(Alone { ready, show, changes, load: load.stop().await })
}

/// Adds these instances of the crowd, over a session of its own; how long that took from the first command to the last answer.
pub(crate) async fn add_all(haproxy: &HaProxy, crowd: &Crowd, instances: Range<u32>) -> Result<Duration> {
    let mut socket = Socket::connect(haproxy.socket()).await?;
    let server = |n: u32| {
        let (address, port) = crowd.place(n);
        add(&crowd.id(n), &format!("{address}:{port}"), ID_BASE + n)
    };
    let commands: Vec<String> = instances.flat_map(server).collect();
    let start = Clock.now();
    for some in commands.chunks(TOGETHER) {
        let answers = socket.send(some).await?;
        if answers.matches("New server registered").count() != some.len() / 2 {
            bail!("HAProxy refused: {answers}");
        }
    }
    Ok(Clock.now().since(start))
}

/// The commands with which a server (`BACKEND/NAME`) joins.
fn add(server: &str, addr: &str, id: u32) -> [String; 2] {
    [
        format!("add server {server} {addr} id {id} weight 100 {OPTIONS}"),
        format!("set server {server} state ready"),
    ]
}

impl Hand for Extra {
    async fn join(&mut self) -> Result<()> {
        self.haproxy.send(&add(&format!("{SERVICE}/{EXTRA}"), &self.addr, self.id)).await?;
        Ok(())
    }

    async fn rested(&mut self) -> Result<()> {
        Ok(())
    }

    async fn weigh(&mut self) -> Result<()> {
        self.haproxy.ask(format!("set server {SERVICE}/{EXTRA} weight {WEIGHT}")).await?;
        Ok(())
    }

    async fn leave(&mut self) -> Result<()> {
        self.haproxy.ask(format!("set server {SERVICE}/{EXTRA} state maint")).await?;
        let (backend, id) = (self.backend, self.id);
        wait::until(IDLE_MAX, "nothing in flight", async || {
            let row = self.haproxy.ask(format!("show stat {backend} 4 {id}")).await?;
            let idle = ["scur", "qcur"].map(|name| Socket::column(&row, name));
            let [current, queued] = idle;
            Ok((current.context("no scur")? == 0 && queued.unwrap_or(0) == 0).then_some(()))
        })
        .await?;
        Ok(())
    }

    async fn delete(&mut self) -> Result<()> {
        self.haproxy.delete(&format!("{SERVICE}/{EXTRA}")).await
    }
}
