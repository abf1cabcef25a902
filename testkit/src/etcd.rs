//! A real etcd of one member or more, with everything that can happen to it; and the barest client there can be.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use etcd_client::{Client, ConnectOptions, GetOptions, KeyValue, PutOptions};
use nix::sys::signal::Signal;

use crate::fail::OrFail as _;
use crate::home::Home;
use crate::port::{Ports, loopback};
use crate::process::{Daemon, END_MAX};
use crate::program;
use crate::wait::{self, within};

/// Longest a call may take: well above a disk that is slow for a moment.
const CALL_MAX: Duration = Duration::from_secs(5);
/// Longest a start may take; an election alone is 1 to 2 s.
const START_MAX: Duration = Duration::from_secs(30);
/// For a lease that is never kept alive: longer than any scenario.
const LEASE_TTL_S: i64 = 300;

/// An etcd server. What is done to it is done to its first member.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    /// As each member was told.
    initial_cluster: String,
    also_at: Option<IpAddr>,
}

/// A process of it.
#[derive(Debug)]
struct Member {
    name: String,
    daemon: Daemon,
    port: u16,
    /// Where the other members find it.
    peer: String,
    data: PathBuf,
}

/// etcd's own proxy: it answers many clients, and joins their watches to few.
#[derive(Debug)]
pub struct Proxy {
    daemon: Daemon,
    port: u16,
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
        Self::launch_with(home, ports, 1, None).await
    }

    /// Starts one of `count` members, which listen for clients at `also_at` too.
    pub async fn launch_with(
        home: &Arc<Home>,
        ports: &Ports,
        count: usize,
        also_at: Option<IpAddr>,
    ) -> Result<Self> {
        let program = program::system("etcd")?;
        let mut places = Vec::with_capacity(count);
        for n in 1..=count {
            let name = if count == 1 { "etcd".to_owned() } else { format!("etcd-{n}") };
            let (port, peer) = (ports.free()?, format!("http://{}", loopback(ports.free()?)));
            places.push((name, port, peer));
        }
        let cluster: Vec<String> = places.iter().map(|(name, _, peer)| format!("{name}={peer}")).collect();
        let initial_cluster = cluster.join(",");
        let member = |(name, port, peer): (String, u16, String)| {
            let data = home.join(&name);
            let mut clients = format!("http://{}", loopback(port));
            if let Some(addr) = also_at {
                clients = format!("{clients},http://{addr}:{port}");
            }
            let flags = [
                ("--name", name.clone()),
                ("--data-dir", data.display().to_string()),
                ("--listen-client-urls", clients.clone()),
                ("--advertise-client-urls", clients),
                ("--listen-peer-urls", peer.clone()),
                ("--initial-advertise-peer-urls", peer.clone()),
                ("--initial-cluster", initial_cluster.clone()),
                ("--logger", "zap".into()),
                ("--log-level", "warn".into()),
            ];
            let args = flags.into_iter().flat_map(|(flag, value)| [flag.into(), value.into()]);
            let daemon = Daemon::new(home, &name, program.clone(), args.collect());
            Member { name, daemon, port, peer, data }
        };
        let members: Vec<Member> = places.into_iter().map(member).collect();
        let etcd = Self { members, initial_cluster, also_at };
        for member in &etcd.members {
            member.daemon.start()?;
        }
        etcd.answers().await?;
        Ok(etcd)
    }

    /// Where clients find its first member.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.first().endpoint()
    }

    /// Where clients find its members, with commas in between.
    #[must_use]
    pub fn endpoints(&self) -> String {
        let all: Vec<String> = self.members.iter().map(Member::endpoint).collect();
        all.join(",")
    }

    /// The same for clients that cannot reach our loopback; there are some if it listens at another address.
    #[must_use]
    pub fn endpoints_from_afar(&self) -> Option<String> {
        let addr = self.also_at?;
        let all: Vec<String> =
            self.members.iter().map(|member| format!("http://{addr}:{}", member.port)).collect();
        Some(all.join(","))
    }

    /// The process of its first member and its log.
    #[must_use]
    pub fn daemon(&self) -> &Daemon {
        &self.first().daemon
    }

    /// The processes of all members.
    pub fn daemons(&self) -> impl Iterator<Item = &Daemon> {
        self.members.iter().map(|member| &member.daemon)
    }

    #[expect(clippy::indexing_slicing, reason = "an etcd has a member at least: `launch_with` starts them")]
    fn first(&self) -> &Member {
        &self.members[0]
    }

    /// One call on a new connection: no call of ours depends on what an earlier one lived through.
    pub async fn call<T>(
        &self,
        what: impl Display,
        call: impl AsyncFnOnce(Client) -> Result<T, etcd_client::Error>,
    ) -> Result<T> {
        self.first().call(what, call).await
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
        wait::until(START_MAX, what, async || match self.daemons().find_map(Daemon::surprise) {
            Some(surprise) => Err(anyhow::Error::msg(surprise)),
            None => Ok(self.get("/").await.ok()),
        })
        .await?;
        Ok(())
    }
}

impl Member {
    fn endpoint(&self) -> String {
        format!("http://{}", loopback(self.port))
    }

    async fn call<T>(
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
}

impl Proxy {
    /// Starts one for `etcd`.
    pub async fn launch(home: &Arc<Home>, ports: &Ports, etcd: &Etcd) -> Result<Self> {
        let port = ports.free()?;
        let at = loopback(port).to_string();
        let flags = [
            ("--endpoints", etcd.endpoints()),
            ("--listen-addr", at.clone()),
            ("--advertise-client-url", at),
            ("--data-dir", home.join("etcd-proxy").display().to_string()),
        ];
        let args = ["grpc-proxy".into(), "start".into()].into_iter();
        let args = args.chain(flags.into_iter().flat_map(|(flag, value)| [flag.into(), value.into()]));
        let daemon = Daemon::new(home, "etcd-proxy", program::system("etcd")?, args.collect());
        daemon.start()?;
        let proxy = Self { daemon, port };
        wait::until(START_MAX, "an answer of etcd's proxy", async || match proxy.daemon.surprise() {
            Some(surprise) => Err(anyhow::Error::msg(surprise)),
            None => Ok(get(proxy.endpoint(), "/").await.ok()),
        })
        .await?;
        Ok(proxy)
    }

    /// Where clients find it.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", loopback(self.port))
    }

    /// The process and its log.
    #[must_use]
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }
}

async fn get(endpoint: String, key: &str) -> Result<()> {
    let got = Box::pin(async { Client::connect([endpoint], None).await?.get(key, None).await });
    within(CALL_MAX, format_args!("get {key}"), got).await?;
    Ok(())
}

/// Runs etcd's own tool to its end.
fn run_tool(tool: &Path, args: &[OsString]) -> Result<()> {
    let output = Command::new(tool).args(args).output().context("cannot run etcd's tool")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} {args:?}: {}", tool.display(), said.trim());
    Ok(())
}

/// What scenarios do to it. Each ends the scenario if it cannot be done.
impl Etcd {
    /// `kill -9`.
    pub async fn kill(&self) {
        self.daemon().process().or_fail().kill().await.or_fail();
    }

    /// TERM, and waits for its end.
    pub async fn stop(&self) {
        let process = self.daemon().process().or_fail();
        process.terminate(END_MAX).await.or_fail();
    }

    /// Starts it again on the same ports and data.
    pub async fn start(&self) {
        self.daemon().start().or_fail();
        self.answers().await.or_fail();
    }

    /// Ends it and starts it again.
    pub async fn restart(&self) {
        self.stop().await;
        self.start().await;
    }

    /// SIGSTOP: connections stay, answers do not come.
    pub fn pause(&self) {
        self.daemon().process().and_then(|it| it.signal(Signal::SIGSTOP)).or_fail();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.daemon().process().and_then(|it| it.signal(Signal::SIGCONT)).or_fail();
    }

    /// Kills it, loses all its data and starts it again: empty, its revision back at the beginning, its cluster id
    /// the same (etcd derives it from names and addresses).
    pub async fn wipe(&self) {
        self.kill().await;
        self.remove_data().or_fail();
        self.start().await;
    }

    /// Saves a backup, as an operator does, and returns its file.
    #[must_use]
    pub fn save(&self) -> PathBuf {
        let backup = self.first().data.with_extension("backup");
        let endpoints = format!("--endpoints={}", self.endpoint());
        let args = [endpoints.into(), "snapshot".into(), "save".into(), backup.clone().into()];
        program::system("etcdctl").and_then(|etcdctl| run_tool(&etcdctl, &args)).or_fail();
        backup
    }

    /// Kills it, and starts it again on what `backup` holds: at the same ports, and with the same cluster id.
    pub async fn restore(&self, backup: &Path) {
        self.kill().await;
        self.remove_data().or_fail();
        let Member { name, peer, data, .. } = self.first();
        let flags = [
            ("--name", name.clone()),
            ("--initial-cluster", self.initial_cluster.clone()),
            ("--initial-advertise-peer-urls", peer.clone()),
            ("--data-dir", data.display().to_string()),
        ];
        let args = ["snapshot".into(), "restore".into(), backup.into()].into_iter();
        let args: Vec<OsString> =
            args.chain(flags.into_iter().flat_map(|(flag, value)| [flag.into(), value.into()])).collect();
        // Newer ones have a tool of its own for it.
        let tool = program::system("etcdutl").or_else(|_| program::system("etcdctl"));
        tool.and_then(|tool| run_tool(&tool, &args)).or_fail();
        self.start().await;
    }

    /// Has the leader hand over to the next member.
    pub async fn move_leader(&self) {
        // In the middle of an election there is none, and nothing to hand over.
        let moved = async || Ok(self.try_to_move_leader().await.ok());
        wait::until(START_MAX, "a leader that hands over", moved).await.or_fail();
    }

    async fn try_to_move_leader(&self) -> Result<()> {
        let mut ids = Vec::with_capacity(self.members.len());
        let mut leader = 0;
        for member in &self.members {
            let status = member.call("ask for the leader", async |mut etcd| etcd.status().await).await?;
            leader = status.leader();
            ids.push(status.header().map_or(0, etcd_client::ResponseHeader::member_id));
        }
        let at = ids.iter().position(|id| *id == leader).context("etcd has no leader")?;
        let next = ids[(at + 1) % ids.len()];
        self.members[at].call("move the leader", async |mut etcd| etcd.move_leader(next).await).await?;
        Ok(())
    }

    fn remove_data(&self) -> Result<()> {
        let data = &self.first().data;
        fs::remove_dir_all(data).with_context(|| format!("cannot remove {}", data.display()))
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
