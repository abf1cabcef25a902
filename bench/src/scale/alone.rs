//! HAProxy alone: the same commands as lb-sync's, from a list, on one session.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use testkit::haproxy::{HaProxy, Layout};
use testkit::home::Home;
use testkit::load::{Load, Plan, Report};
use testkit::port::{Ports, loopback};
use testkit::{Clock, wait};

use super::change::{Changes, Hand, WEIGHT};
use super::crowd::{Crowd, EXTRA};
use super::{SERVICE, Shape, rate};
use crate::socket::Socket;
use crate::table::Times;

/// Commands in one write, as many as lb-sync sends under traffic.
const TOGETHER: usize = 10;
/// What lb-sync gives a server as well, and where it is checked.
const OPTIONS: &str = "pool-purge-delay 5s pool-max-conn -1";
const CHECK: &str = "check inter 2s rise 1 fall 2";
/// Ids as lb-sync's.
const ID_BASE: u32 = 10_000;
/// Longest that requests in flight may take.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// What was measured.
#[derive(Debug)]
pub(super) struct Alone {
    /// From the first command to the last answer.
    pub(super) ready: Times,
    /// One answer to `show servers state`, which is most of what an audit has to ask.
    pub(super) show: Duration,
    pub(super) changes: Changes,
    pub(super) load: Report,
}

/// A HAProxy with all of its servers, under load.
struct Filled {
    haproxy: HaProxy,
    crowd: Crowd,
    port: u16,
    load: Load,
    ready: Duration,
}

/// The one that comes and goes, by commands.
struct Extra {
    haproxy: Socket,
    addr: String,
    id: u32,
    backend: u32,
    checks: bool,
}

pub(super) async fn measure(shape: Shape) -> Result<Alone> {
    let filled = Filled::start(shape).await?;
    let mut socket = Socket::connect(filled.haproxy.socket()).await?;
    let backend = socket.backend_id(SERVICE).await?;
    let start = Clock.now();
    socket.ask("show servers state".into()).await?;
    let show = Clock.now().since(start);
    let mut extra = Extra {
        haproxy: Socket::connect(filled.haproxy.socket()).await?,
        addr: loopback(filled.crowd.extra_port()).to_string(),
        id: ID_BASE + shape.count + 1,
        backend,
        checks: shape.checks,
    };
    let changes = Changes::measure(&mut extra, &mut socket, filled.port).await?;
    let mut ready = Times::default();
    ready.push(filled.ready);
    Ok(Alone { ready, show, changes, load: filled.load.stop().await })
}

/// The first of it once more, with everything new.
pub(super) async fn run(shape: Shape) -> Result<Duration> {
    let filled = Filled::start(shape).await?;
    filled.load.stop().await;
    Ok(filled.ready)
}

impl Filled {
    async fn start(shape: Shape) -> Result<Self> {
        let Shape { count, services, checks } = shape;
        let names = Crowd::services(services);
        let (home, ports) = (Arc::new(Home::new()?), Ports::claim()?);
        let layout = Layout {
            socket: home.join("haproxy.sock"),
            traffic_port: ports.free()?,
            stats_port: ports.free()?,
            services: names.clone(),
            affinity: true,
            balance: "roundrobin",
            sections: None,
            master: None,
        };
        let (port, crowd) = (layout.traffic_port, Crowd::start(&ports, services).await?);
        let haproxy = HaProxy::launch(&home, layout).await?;
        add_all(&haproxy, &crowd, 0..1, checks).await?;
        let (target, service, path) = (loopback(port), SERVICE.into(), "/".into());
        let load = Load::start(Plan { target, service, path, rate: rate(), sticky_clients: 0 })?;
        let ready = add_all(&haproxy, &crowd, 1..count + 1, checks).await?;
        let active = Socket::connect(haproxy.socket()).await?.active_in(&names).await?;
        ensure!(active == count + 1, "not all servers are in rotation");
        Ok(Self { haproxy, crowd, port, load, ready })
    }
}

/// Adds these instances of the crowd, over a session of its own; how long that took from the first command to the last answer.
pub(crate) async fn add_all(
    haproxy: &HaProxy,
    crowd: &Crowd,
    instances: Range<u32>,
    checks: bool,
) -> Result<Duration> {
    let mut socket = Socket::connect(haproxy.socket()).await?;
    let server = |n: u32| {
        let (address, port) = crowd.place(n);
        add(&crowd.id(n), &format!("{address}:{port}"), ID_BASE + n, checks)
    };
    let servers: Vec<Vec<String>> = instances.map(server).collect();
    let each = servers.first().map_or(1, Vec::len);
    let start = Clock.now();
    for some in servers.chunks(TOGETHER / each) {
        let answers = socket.send(&some.concat()).await?;
        if answers.matches("New server registered").count() != some.len() {
            bail!("HAProxy refused: {answers}");
        }
    }
    Ok(Clock.now().since(start))
}

/// The commands with which a server (`BACKEND/NAME`) joins.
fn add(server: &str, addr: &str, id: u32, checks: bool) -> Vec<String> {
    let made = format!("add server {server} {addr} id {id} weight 100");
    let ready = format!("set server {server} state ready");
    if checks {
        vec![format!("{made} {CHECK} {OPTIONS}"), format!("enable health {server}"), ready]
    } else {
        vec![format!("{made} {OPTIONS}"), ready]
    }
}

impl Hand for Extra {
    async fn join(&mut self) -> Result<()> {
        self.haproxy.send(&add(&format!("{SERVICE}/{EXTRA}"), &self.addr, self.id, self.checks)).await?;
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
