//! The lab's way, which is confd's and consul-template's: at each event the whole configuration is made from what stands in
//! etcd, checked by `haproxy -c`, and taken in by a reload. A stand-in for them, with a HAProxy of its own in master-worker
//! mode, which hands its sockets on (`expose-fd listeners`), as their documentation has it.

mod master;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use etcd_client::{Client, GetOptions, KeyValue, WatchOptions};
use serde_json::Value;
use testkit::process::Process;
use testkit::{Clock, Stack};
use tokio::sync::{oneshot, watch};

use crate::process::signal;
use crate::socket::Socket;
pub(crate) use master::{Master, TEMPLATE};

/// Longest that a reload may take before it is asked for again, how often, and the pause between two looks.
const RELOADED_MAX: Duration = Duration::from_secs(1);
const SIGNALS_MAX: u32 = 5;
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Where its records stand.
pub(crate) const PREFIX: &str = "/reloading/v1";
/// Its backend.
pub(crate) const BACKEND: &str = "reloading";

/// The running stand-in; its HAProxy ends with it.
#[derive(Debug)]
pub(crate) struct Reloading {
    haproxy: Arc<Master>,
    reloads: Arc<AtomicU32>,
    failure: watch::Receiver<Option<String>>,
}

impl Reloading {
    /// Starts it, and waits until it watches.
    pub(crate) async fn start(stack: &Stack) -> Result<Self> {
        let haproxy = Arc::new(Master::start(stack, BACKEND).await?);
        let (endpoint, its) = (stack.etcd().endpoint(), Arc::clone(&haproxy));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (ready, watching) = oneshot::channel();
        let (tell, failure) = watch::channel(None);
        let master = haproxy.daemon().process()?.pid();
        let reloads = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&reloads);
        let run = move || {
            if let Err(error) = runtime.block_on(follow(endpoint, &its, (master, &count), ready)) {
                tell.send_replace(Some(format!("{error:#}")));
            }
        };
        std::thread::Builder::new().name("reloading".into()).spawn(run)?;
        let reloading = Self { haproxy, reloads, failure };
        match watching.await {
            Ok(()) => Ok(reloading),
            Err(_) => {
                bail!("the reloading stand-in did not start: {}", reloading.failure().unwrap_or_default())
            }
        }
    }

    /// How often it has reloaded.
    pub(crate) fn reloads(&self) -> u32 {
        self.reloads.load(Relaxed)
    }

    /// Its HAProxy's master.
    pub(crate) fn master(&self) -> Result<Arc<Process>> {
        self.haproxy.daemon().process()
    }

    /// How many servers its HAProxy has in its present worker; the one that answers may be about to end.
    pub(crate) async fn servers(&self) -> Result<BTreeSet<(String, u16, u32)>> {
        let text =
            Socket::connect(&self.haproxy.socket).await?.ask(format!("show servers state {BACKEND}")).await?;
        let row = |line: &str| {
            let fields: Vec<&str> = line.split(' ').collect();
            // srv_name, srv_port, srv_uweight
            Some((fields.get(3)?.to_string(), fields.get(18)?.parse().ok()?, fields.get(7)?.parse().ok()?))
        };
        Ok(text.lines().skip(2).filter_map(row).collect())
    }

    /// Where its HAProxy takes traffic.
    pub(crate) fn port(&self) -> u16 {
        self.haproxy.port
    }

    /// Why it has ended, if it has.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.borrow().clone().or_else(|| self.haproxy.daemon().surprise())
    }
}

async fn follow(
    endpoint: String,
    haproxy: &Master,
    (master, reloads): (u32, &AtomicU32),
    ready: oneshot::Sender<()>,
) -> Result<()> {
    let mut etcd = Box::pin(Client::connect([endpoint], None)).await?;
    let mut changes = etcd.watch(PREFIX, Some(WatchOptions::new().with_prefix())).await?;
    // Without a receiver the bench has ended.
    let _ = ready.send(());
    let next = haproxy.config.with_extension("cfg.next");
    while let Some(answer) = changes.message().await? {
        if answer.events().is_empty() {
            continue;
        }
        let listed = etcd.get(PREFIX, Some(GetOptions::new().with_prefix())).await?;
        let text = render(haproxy, listed.kvs())?;
        // As confd does: an event that was seen with the last one is none.
        if fs::read_to_string(&haproxy.config)? == text {
            continue;
        }
        fs::write(&next, text)?;
        let checked = Command::new(&haproxy.program).args(["-c", "-q", "-f"]).arg(&next).status()?;
        ensure!(checked.success(), "haproxy -c refuses what the template made");
        fs::rename(&next, &haproxy.config)?;
        reload(haproxy, master).await?;
        reloads.fetch_add(1, Relaxed);
    }
    Ok(())
}

/// Returns once another worker answers. A signal that comes while the last reload is about to begin can be lost: a script that does
/// not look, as most do not, is left with the configuration before.
async fn reload(haproxy: &Master, master: u32) -> Result<()> {
    let before = haproxy.worker().await?;
    for _ in 0..SIGNALS_MAX {
        signal(master, "USR2")?;
        let sent = Clock.now();
        while Clock.now().since(sent) < RELOADED_MAX {
            if haproxy.worker().await.is_ok_and(|worker| worker != before) {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    bail!("{SIGNALS_MAX} signals to reload, and the same worker answers")
}

/// The template, with a server for each record.
fn render(haproxy: &Master, records: &[KeyValue]) -> Result<String> {
    let mut text = haproxy.head()?;
    for kv in records {
        let name = kv.key_str()?.rsplit('/').next().context("no name")?;
        let record: Value = serde_json::from_slice(kv.value())?;
        let (address, port) = (record["address"].as_str(), record["port"].as_u64());
        let (address, port) = (address.context("no address")?, port.context("no port")?);
        let weight = record["weight"].as_u64().unwrap_or(100);
        let options = format!("weight {weight} check inter 2s rise 1 fall 2 cookie {name}");
        writeln!(text, "    server {name} {address}:{port} {options}")?;
    }
    Ok(text)
}
