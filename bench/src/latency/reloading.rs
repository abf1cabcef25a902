//! The lab's way, which is confd's and consul-template's: at each event the whole configuration is made from what stands in
//! etcd, checked by `haproxy -c`, and taken in by a reload. A stand-in for them, with a HAProxy of its own in master-worker
//! mode, which hands its sockets on (`expose-fd listeners`), as their documentation has it.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use etcd_client::{Client, GetOptions, KeyValue, WatchOptions};
use serde_json::Value;
use stack::port::loopback;
use stack::process::Daemon;
use stack::{Stack, program};
use tokio::sync::{oneshot, watch};

use crate::process::signal;

/// Where its records stand.
pub(super) const PREFIX: &str = "/reloading/v1";
/// Its backend.
pub(super) const BACKEND: &str = "reloading";

/// The running stand-in; its HAProxy ends with it.
#[derive(Debug)]
pub(super) struct Reloading {
    haproxy: Arc<Daemon>,
    port: u16,
    failure: watch::Receiver<Option<String>>,
}

/// What the template and the reload need.
struct Files {
    haproxy: PathBuf,
    config: PathBuf,
    next: PathBuf,
    socket: PathBuf,
    port: u16,
}

impl Reloading {
    /// Starts it, and waits until it watches.
    pub(super) async fn start(stack: &Stack) -> Result<Self> {
        let home = stack.home();
        let files = Files {
            haproxy: program::system("haproxy")?,
            config: home.join("reloading.cfg"),
            next: home.join("reloading.cfg.next"),
            socket: home.join("reloading.sock"),
            port: stack.ports().free()?,
        };
        fs::write(&files.config, files.render(&[])?)?;
        let args = ["-W".into(), "-f".into(), files.config.clone().into()].to_vec();
        let haproxy = Arc::new(Daemon::new(home, "reloading-haproxy", files.haproxy.clone(), args));
        haproxy.start()?;
        let (endpoint, port) = (stack.etcd().endpoint(), files.port);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (ready, watching) = oneshot::channel();
        let (tell, failure) = watch::channel(None);
        let master = haproxy.process()?.pid();
        let run = move || {
            if let Err(error) = runtime.block_on(follow(endpoint, files, master, ready)) {
                tell.send_replace(Some(format!("{error:#}")));
            }
        };
        std::thread::Builder::new().name("reloading".into()).spawn(run)?;
        let reloading = Self { haproxy, port, failure };
        match watching.await {
            Ok(()) => Ok(reloading),
            Err(_) => {
                bail!("the reloading stand-in did not start: {}", reloading.failure().unwrap_or_default())
            }
        }
    }

    /// Where its HAProxy takes traffic.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Why it has ended, if it has.
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.borrow().clone().or_else(|| self.haproxy.surprise())
    }
}

async fn follow(endpoint: String, files: Files, master: u32, ready: oneshot::Sender<()>) -> Result<()> {
    let mut etcd = Box::pin(Client::connect([endpoint], None)).await?;
    let mut changes = etcd.watch(PREFIX, Some(WatchOptions::new().with_prefix())).await?;
    // The bench has ended if nobody waits.
    let _ = ready.send(());
    while let Some(answer) = changes.message().await? {
        if answer.events().is_empty() {
            continue;
        }
        let listed = etcd.get(PREFIX, Some(GetOptions::new().with_prefix())).await?;
        fs::write(&files.next, files.render(listed.kvs())?)?;
        let checked = Command::new(&files.haproxy).args(["-c", "-q", "-f"]).arg(&files.next).status()?;
        ensure!(checked.success(), "haproxy -c refuses what the template made");
        fs::rename(&files.next, &files.config)?;
        signal(master, "USR2")?;
    }
    Ok(())
}

impl Files {
    /// The template.
    fn render(&self, records: &[KeyValue]) -> Result<String> {
        let mut text = format!(
            "\
global
    stats socket {socket} mode 600 level admin expose-fd listeners
defaults
    mode http
    timeout connect 1s
    timeout client 30s
    timeout server 30s
    retries 3
    option redispatch 1
frontend traffic
    bind {traffic}
    default_backend {BACKEND}
backend {BACKEND}
",
            socket = self.socket.display(),
            traffic = loopback(self.port),
        );
        for (n, kv) in records.iter().enumerate() {
            let record: Value = serde_json::from_slice(kv.value())?;
            let (address, port) = (record["address"].as_str(), record["port"].as_u64());
            let (address, port) = (address.context("no address")?, port.context("no port")?);
            writeln!(text, "    server one-{n} {address}:{port} check inter 2s rise 1 fall 2")?;
        }
        Ok(text)
    }
}
