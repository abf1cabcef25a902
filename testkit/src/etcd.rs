//! A real etcd of one member, with everything that can happen to it; and the barest client there can be.

use std::fmt::Display;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use etcd_client::{Client, ConnectOptions, GetOptions, KeyValue, PutOptions};
use nix::sys::signal::Signal;

use crate::fail::OrFail as _;
use crate::home::Home;
use crate::port::{Ports, loopback};
use crate::process::{Daemon, END_MAX};
use crate::wait::{self, within};

/// Longest a call may take: well above a disk that is slow for a moment.
const CALL_MAX: Duration = Duration::from_secs(5);
/// Longest a start may take; an election alone is 1 to 2 s.
const START_MAX: Duration = Duration::from_secs(30);
/// For a lease that is never kept alive: longer than any scenario.
const LEASE_TTL_S: i64 = 300;

/// An etcd server.
#[derive(Debug)]
pub struct Etcd {
    daemon: Daemon,
    port: u16,
    data: PathBuf,
}

/// A key put by a bare client under a lease of its own, as `etcdctl put --lease` does.
#[derive(Debug)]
pub struct Registration<'s> {
    etcd: &'s Etcd,
    key: String,
    lease: i64,
}

impl Etcd {
    /// Starts one on free ports, with its data in `home`.
    pub async fn launch(home: &Arc<Home>, ports: &Ports) -> Result<Self> {
        let program = crate::program::system("etcd")?;
        let (port, peer_port) = (ports.free()?, ports.free()?);
        let data = home.join("etcd");
        let (client, peer) =
            (format!("http://{}", loopback(port)), format!("http://{}", loopback(peer_port)));
        let flags = [
            ("--name", "etcd".into()),
            ("--data-dir", data.display().to_string()),
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer.clone()),
            ("--initial-advertise-peer-urls", peer.clone()),
            ("--initial-cluster", format!("etcd={peer}")),
            ("--logger", "zap".into()),
            ("--log-level", "warn".into()),
        ];
        let args = flags.into_iter().flat_map(|(flag, value)| [flag.into(), value.into()]);
        let daemon = Daemon::new(home, "etcd", program, args.collect());
        daemon.start()?;
        let etcd = Self { daemon, port, data };
        etcd.answers().await?;
        Ok(etcd)
    }

    /// Where its clients find it.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", loopback(self.port))
    }

    /// The process and its log.
    #[must_use]
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// One call on a new connection: no call of ours depends on what an earlier one lived through.
    pub async fn call<T>(
        &self,
        what: impl Display,
        call: impl AsyncFnOnce(Client) -> Result<T, etcd_client::Error>,
    ) -> Result<T> {
        let options = ConnectOptions::new().with_connect_timeout(CALL_MAX);
        // Boxed: a future of etcd-client is some 20 kB, too much to be a part of every caller's.
        let called = Box::pin(async {
            let client = Client::connect([self.endpoint()], Some(options)).await?;
            call(client).await
        });
        within(CALL_MAX, what, called).await
    }

    /// The value of `key`.
    pub async fn get(&self, key: &str) -> Result<Option<String>> {
        let what = format_args!("get {key}");
        let answer = self.call(what, async |mut etcd| etcd.get(key, None).await).await?;
        let value = answer.kvs().first().map(|kv| kv.value_str().map(Into::into));
        value.transpose().context("a value that is not text")
    }

    /// The lease that `key` stands under.
    pub async fn lease_of(&self, key: &str) -> Result<i64> {
        let what = format_args!("get {key}");
        let answer = self.call(what, async |mut etcd| etcd.get(key, None).await).await?;
        let lease = answer.kvs().first().map(KeyValue::lease);
        lease.with_context(|| format!("there is no key {key}"))
    }

    /// All keys below `prefix`, in order.
    pub async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let options = GetOptions::new().with_prefix().with_keys_only();
        let what = format_args!("list {prefix}");
        let answer = self.call(what, async |mut etcd| etcd.get(prefix, Some(options)).await).await?;
        let key = |kv: &KeyValue| String::from_utf8_lossy(kv.key()).into_owned();
        Ok(answer.kvs().iter().map(key).collect())
    }

    /// Puts `key`; without a lease (0), as an operator does.
    pub async fn put(&self, key: &str, value: impl Into<Vec<u8>>, lease: i64) -> Result<()> {
        let options = PutOptions::new().with_lease(lease);
        let what = format_args!("put {key}");
        self.call(what, async |mut etcd| etcd.put(key, value, Some(options)).await).await?;
        Ok(())
    }

    /// Deletes `key`.
    pub async fn delete(&self, key: &str) -> Result<()> {
        let what = format_args!("delete {key}");
        self.call(what, async |mut etcd| etcd.delete(key, None).await).await?;
        Ok(())
    }

    /// A new lease that is not kept alive.
    pub async fn grant(&self) -> Result<i64> {
        let granted = self.call("get a lease", async |mut etcd| etcd.lease_grant(LEASE_TTL_S, None).await);
        Ok(granted.await?.id())
    }

    /// Puts `key` under a new lease that is not kept alive.
    pub async fn register(&self, key: String, value: impl Into<Vec<u8>>) -> Result<Registration<'_>> {
        let lease = self.grant().await?;
        self.put(&key, value, lease).await?;
        Ok(Registration { etcd: self, key, lease })
    }

    async fn answers(&self) -> Result<()> {
        let what = "an answer of etcd";
        wait::until(START_MAX, what, async || match self.daemon.surprise() {
            Some(surprise) => Err(anyhow::Error::msg(surprise)),
            None => Ok(self.get("/").await.ok()),
        })
        .await?;
        Ok(())
    }
}

/// What scenarios do to it. Each ends the scenario if it cannot be done.
impl Etcd {
    /// `kill -9`.
    pub async fn kill(&self) {
        self.daemon.process().or_fail().kill().await.or_fail();
    }

    /// TERM, and waits for its end.
    pub async fn stop(&self) {
        let process = self.daemon.process().or_fail();
        process.terminate(END_MAX).await.or_fail();
    }

    /// Starts it again on the same ports and data.
    pub async fn start(&self) {
        self.daemon.start().or_fail();
        self.answers().await.or_fail();
    }

    /// Ends it and starts it again.
    pub async fn restart(&self) {
        self.stop().await;
        self.start().await;
    }

    /// SIGSTOP: connections stay, answers do not come.
    pub fn pause(&self) {
        self.daemon.process().and_then(|it| it.signal(Signal::SIGSTOP)).or_fail();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.daemon.process().and_then(|it| it.signal(Signal::SIGCONT)).or_fail();
    }

    /// Kills it, loses all its data and starts it again: empty, its revision back at the beginning, its cluster id
    /// the same (etcd derives it from names and addresses).
    pub async fn wipe(&self) {
        self.kill().await;
        fs::remove_dir_all(&self.data)
            .with_context(|| format!("cannot remove {}", self.data.display()))
            .or_fail();
        self.start().await;
    }
}

/// What scenarios do to it. Each ends the scenario if it cannot be done.
impl Registration<'_> {
    /// Puts the key again, under the same lease.
    pub async fn put(&self, value: impl Into<Vec<u8>>) {
        self.etcd.put(&self.key, value, self.lease).await.or_fail();
    }

    /// Revokes the lease: the key is gone when this returns.
    pub async fn revoke(self) {
        let revoked = self.etcd.call("revoke a lease", async |mut etcd| etcd.lease_revoke(self.lease).await);
        revoked.await.or_fail();
    }

    /// Deletes the key; its lease lives on.
    pub async fn delete(self) {
        self.etcd.delete(&self.key).await.or_fail();
    }
}
