//! The limit: a watch and a socket, and nothing between. It knows one server, trusts every record, survives nothing;
//! whatever follows the registry has to do at least this.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use etcd_client::{Client, EventType, KeyValue, WatchOptions};
use serde_json::Value;
use testkit::Stack;
use tokio::sync::oneshot;

use crate::socket::Socket;

/// Where its records stand.
pub(super) const PREFIX: &str = "/limit/v1";
/// Its backend and its one server.
const SERVER: &str = "limit/one";
/// The same options that lb-sync gives a server; the id is below lb-sync's, so that it leaves this one alone.
const OPTIONS: &str = "id 1 weight 100 check inter 2s rise 1 fall 2 pool-purge-delay 5s pool-max-conn -1";

/// The running watcher, in a thread of its own.
#[derive(Debug)]
pub(super) struct Limit {
    failure: Arc<Mutex<Option<String>>>,
}

impl Limit {
    /// Starts it, and waits until it watches.
    pub(super) async fn start(stack: &Stack) -> Result<Self> {
        let failure = Arc::new(Mutex::new(None));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (endpoint, socket) = (stack.etcd().endpoint(), stack.haproxy().socket().to_owned());
        let (ready, watching) = oneshot::channel();
        let note = Arc::clone(&failure);
        let run = move || {
            if let Err(error) = runtime.block_on(follow(endpoint, socket, ready)) {
                *note.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{error:#}"));
            }
        };
        std::thread::Builder::new().name("limit".into()).spawn(run)?;
        let limit = Self { failure };
        match watching.await {
            Ok(()) => Ok(limit),
            Err(_) => bail!("the limit's watcher did not start: {}", limit.failure().unwrap_or_default()),
        }
    }

    /// Why it has ended, if it has.
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn follow(endpoint: String, socket: PathBuf, ready: oneshot::Sender<()>) -> Result<()> {
    let mut etcd = Box::pin(Client::connect([endpoint], None)).await?;
    let mut changes = etcd.watch(PREFIX, Some(WatchOptions::new().with_prefix())).await?;
    let mut haproxy = Socket::connect(&socket).await?;
    // Without a receiver the bench has ended.
    let _ = ready.send(());
    while let Some(answer) = changes.message().await? {
        for event in answer.events() {
            match event.event_type() {
                EventType::Put => add(&mut haproxy, event.kv().context("a put without a key")?).await?,
                EventType::Delete => haproxy.delete(SERVER).await?,
            }
        }
    }
    Ok(())
}

async fn add(haproxy: &mut Socket, kv: &KeyValue) -> Result<()> {
    let record: Value = serde_json::from_slice(kv.value())?;
    let (address, port) = (record["address"].as_str(), record["port"].as_u64());
    let (address, port) = (address.context("no address")?, port.context("no port")?);
    let commands = [
        format!("add server {SERVER} {address}:{port} {OPTIONS}"),
        format!("enable health {SERVER}"),
        format!("set server {SERVER} state ready"),
    ];
    haproxy.send(&commands).await?;
    Ok(())
}
