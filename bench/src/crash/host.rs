//! A host of its own for the victim: a network namespace with one cable, which is pulled.
//!
//! The namespace reaches etcd through a relay on this side of the cable, since the bench's etcd listens on loopback. Needs
//! root and `ip` of iproute2.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use testkit::port::Ports;
use testkit::process::Daemon;
use testkit::{Clock, PREFIX, Stack, program, wait};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::{SEEN_MAX, SERVICE, TTL_S, VICTIM, until_deleted, until_out};

/// Addresses of this end of the cable and of the other: of the block for benchmarks (RFC 2544), which are not routed.
const HERE: &str = "198.18.77.1";
const THERE: &str = "198.18.77.2";
const PREFIX_LEN: u32 = 30;
/// The app and its registrar's port; no other process has one there.
const APP_PORT: u16 = 3000;
const REGISTRAR_PORT: u16 = 9101;

/// The namespace and its cable; both go when it is dropped.
struct Host {
    name: String,
    cable: String,
    relay: JoinHandle<()>,
}

/// Whether a host can be made here.
pub(super) fn possible() -> bool {
    let root = std::fs::read_to_string("/proc/self/status").is_ok_and(|text| text.contains("\nUid:\t0\t0\t"));
    root && program::system("ip").is_ok()
}

/// From the cable's end until HAProxy has the victim in rotation no more.
pub(super) async fn round(stack: &Stack) -> Result<Duration> {
    let ports = Ports::claim()?;
    let relay_port = ports.free()?;
    let host = Host::new(stack, relay_port).await?;
    let registrar = program::ours("registrar")?;
    let webapp = program::ours("webapp")?;
    let words = ["netns", "exec", &host.name].map(Into::into).into_iter();
    let flags = [
        ("--service", SERVICE.to_owned()),
        ("--instance", VICTIM.into()),
        ("--address", THERE.into()),
        ("--port", APP_PORT.to_string()),
        ("--ttl", format!("{TTL_S}s")),
        ("--listen", format!("127.0.0.1:{REGISTRAR_PORT}")),
        ("--prefix", PREFIX.into()),
        ("--etcd-endpoints", format!("http://{HERE}:{relay_port}")),
    ];
    let flags = flags.into_iter().flat_map(|(flag, value)| [flag.into(), value.into()]);
    let app = ["--listen".to_owned(), format!("0.0.0.0:{APP_PORT}"), "--tag".into(), VICTIM.into()];
    let args = words
        .chain([registrar.into(), "run".into()])
        .chain(flags)
        .chain(["--".into(), webapp.into()])
        .chain(app.map(Into::into))
        .collect();
    let victim = Daemon::new(stack.home(), VICTIM, program::system("ip")?, args);
    victim.start()?;
    let up = async || Ok(stack.haproxy().seen().await?.up(SERVICE).contains(&VICTIM).then_some(()));
    wait::until(SEEN_MAX, format!("{VICTIM} in rotation"), up).await.context("it does not serve")?;
    victim.process()?.let_go();
    // Until it has its share of the connections, as a host that dies has.
    Clock.until(Some(Clock.now().plus(Duration::from_secs(1)))).await;

    let died = Clock.now();
    host.pull()?;
    let took = until_out(stack, died).await?;
    until_deleted(stack).await?;
    victim.process()?.kill().await?;
    Ok(took)
}

impl Host {
    async fn new(stack: &Stack, relay_port: u16) -> Result<Self> {
        let name = format!("leasehold-{}", std::process::id());
        // Names of interfaces have 15 bytes at most.
        let cable = format!("lh{}", std::process::id());
        let etcd = stack.etcd().endpoint().trim_start_matches("http://").to_owned();
        ip(&["netns", "add", &name])?;
        // From here on it goes with the guard.
        let mut host = Self { name, cable, relay: tokio::spawn(async {}) };
        let (name, cable) = (host.name.as_str(), host.cable.as_str());
        ip(&["link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name])?;
        ip(&["address", "add", &format!("{HERE}/{PREFIX_LEN}"), "dev", cable])?;
        ip(&["link", "set", cable, "up"])?;
        ip(&["-n", name, "address", "add", &format!("{THERE}/{PREFIX_LEN}"), "dev", "eth0"])?;
        ip(&["-n", name, "link", "set", "eth0", "up"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        let listener = TcpListener::bind((HERE, relay_port)).await.context("cannot listen for the relay")?;
        host.relay = tokio::spawn(relay(listener, etcd));
        Ok(host)
    }

    /// Nothing goes through any more, and neither end gets an error.
    fn pull(&self) -> Result<()> {
        ip(&["-n", &self.name, "link", "set", "eth0", "down"])
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.relay.abort();
        // The cable goes with its other end; what is gone already is what was wanted.
        let _ = ip(&["link", "delete", &self.cable]);
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

async fn relay(listener: TcpListener, etcd: String) {
    while let Ok((mut near, _)) = listener.accept().await {
        let etcd = etcd.clone();
        tokio::spawn(async move {
            if let Ok(mut far) = TcpStream::connect(etcd).await {
                // Ends with either side.
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            }
        });
    }
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new(program::system("ip")?).args(args).output().context("cannot run ip")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "ip {}: {}", args.join(" "), said.trim());
    Ok(())
}
