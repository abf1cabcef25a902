//! Traefik 1.7 with etcd: a balancer of its own, which follows etcd by itself.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use testkit::port::loopback;
use testkit::process::{Daemon, END_MAX};
use testkit::{Stack, program, wait};
use tokio::net::TcpStream;

use super::{Peer, Started, fill};
use crate::latency::measured::Measured;
use crate::latency::register::Register;
use crate::latency::way::Way;
use crate::screen::say;

/// Where its keys stand.
const PREFIX: &str = "/traefik";
/// Its backend.
const BACKEND: &str = "traefik";
/// What is there before any server: everything goes to the one backend.
const FRONTEND: [(&str, &str); 2] =
    [("frontends/all/backend", BACKEND), ("frontends/all/routes/all/rule", "PathPrefix:/")];
/// It holds changes back that come sooner than `providersThrottleDuration` after the last, 2 s by default. Given that time, it
/// shows its quickest.
const REST: Duration = Duration::from_millis(2_100);

const CONFIG: &str = include_str!("../../peers/traefik/traefik.toml");

/// Starts it; `None` where there is none, or one that cannot read the configuration.
pub(super) async fn start(stack: &Stack) -> Result<Option<Started<'_>>> {
    let Ok(binary) = program::system("traefik") else { return Ok(None) };
    let mut etcd = Box::pin(etcd_client::Client::connect([stack.etcd().endpoint()], None)).await?;
    for (key, value) in FRONTEND {
        etcd.put(format!("{PREFIX}/{key}"), value, None).await?;
    }
    let port = stack.ports().free()?;
    let endpoint = stack.etcd().endpoint();
    let names = [
        ("PORT", &*port.to_string()),
        ("ETCD", endpoint.strip_prefix("http://").context("an endpoint of etcd without http://")?),
        ("PREFIX", PREFIX),
    ];
    let config = stack.home().join("traefik.toml");
    fs::write(&config, fill(CONFIG, &names))?;
    let flag = format!("--configFile={}", config.display());
    let traefik = Daemon::new(stack.home(), "traefik", binary, vec![flag.into()]);
    traefik.start()?;
    let listens = async || match traefik.surprise() {
        Some(surprise) => Ok(Some(Err(surprise))),
        None => Ok(TcpStream::connect(loopback(port)).await.ok().map(|_| Ok(()))),
    };
    if let (Err(surprise), _) = wait::until(END_MAX, "Traefik listens", listens).await? {
        say(format_args!(
            "Traefik is left out: bench/peers/traefik is for 1.7, and the one on PATH says\n{surprise}\n"
        ));
        return Ok(None);
    }
    let register = Register::url(stack, &format!("{PREFIX}/backends/{BACKEND}/servers/one/url")).await?;
    let way = Way::new(stack, BACKEND, register).await?.at(port);
    Ok(Some((Peer { daemons: vec![traefik], haproxy: None }, Measured::resting("Traefik 1.7", way, REST))))
}
