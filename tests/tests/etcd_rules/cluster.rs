//! Real etcds of one or three members, with everything that may happen to them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use etcd_client::{Client, Error, Permission, PermissionType, TxnOp};
use nix::sys::signal::Signal;
use registry::session::{EtcdOptions, Session};
use testkit::home::Home;
use testkit::port::Ports;
use testkit::process::Daemon;
use testkit::{program, wait};
use tonic::Code;

/// Longest that a member may take to answer: an election is 1 to 2 s.
const START_MAX: Duration = Duration::from_secs(30);

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    etcd: EtcdOptions,
}

/// A session with these flags.
pub(crate) fn session(flags: &[&str]) -> Session {
    let line = Line::try_parse_from(std::iter::once("x").chain(flags.iter().copied())).unwrap();
    Session::new(line.etcd.checked().unwrap())
}

/// Some members, each a process.
pub(crate) struct Cluster {
    home: Arc<Home>,
    members: Vec<Member>,
    _ports: Ports,
}

struct Member {
    daemon: Daemon,
    port: u16,
    data: PathBuf,
}

impl Cluster {
    pub(crate) async fn single() -> Self {
        Self::of(1).await
    }

    pub(crate) async fn of(count: usize) -> Self {
        let cluster = Self::build(count, "http", &[]);
        for member in &cluster.members {
            member.daemon.start().unwrap();
        }
        for member in &cluster.members {
            member.answers().await;
        }
        cluster
    }

    /// One member with more flags, started and not waited for.
    pub(crate) fn with_flags(scheme: &str, flags: &[(&str, String)]) -> Self {
        let cluster = Self::build(1, scheme, flags);
        cluster.members[0].daemon.start().unwrap();
        cluster
    }

    fn build(count: usize, scheme: &str, more: &[(&str, String)]) -> Self {
        let home = Arc::new(Home::new().unwrap());
        let ports = Ports::claim().unwrap();
        let etcd = program::system("etcd").unwrap();
        let numbers: Vec<(u16, u16)> =
            (0..count).map(|_| (ports.free().unwrap(), ports.free().unwrap())).collect();
        let peer = |n: usize| format!("http://127.0.0.1:{}", numbers[n].1);
        let all: Vec<String> = (0..count).map(|n| format!("m{n}={}", peer(n))).collect();
        let member = |n: usize| {
            let (name, port) = (format!("m{n}"), numbers[n].0);
            let (client, data) = (format!("{scheme}://127.0.0.1:{port}"), home.join(format!("data-{n}")));
            let mut flags = vec![
                ("--name", name.clone()),
                ("--data-dir", data.display().to_string()),
                ("--listen-client-urls", client.clone()),
                ("--advertise-client-urls", client),
                ("--listen-peer-urls", peer(n)),
                ("--initial-advertise-peer-urls", peer(n)),
                ("--initial-cluster", all.join(",")),
                ("--logger", "zap".into()),
                ("--log-level", "error".into()),
            ];
            flags.extend_from_slice(more);
            let args = flags.into_iter().map(|(flag, value)| format!("{flag}={value}").into()).collect();
            Member { daemon: Daemon::new(&home, &name, etcd.clone(), args), port, data }
        };
        let members = (0..count).map(member).collect();
        Self { home, members, _ports: ports }
    }

    pub(crate) fn port(&self, n: usize) -> u16 {
        self.members[n].port
    }

    pub(crate) fn endpoint(&self, n: usize) -> String {
        format!("http://127.0.0.1:{}", self.port(n))
    }

    /// A session over all members, without a login.
    pub(crate) fn session(&self) -> Session {
        let all: Vec<String> = (0..self.members.len()).map(|n| self.endpoint(n)).collect();
        session(&["--etcd-endpoints", &all.join(",")])
    }

    pub(crate) fn pause(&self, n: usize) {
        self.members[n].daemon.process().unwrap().signal(Signal::SIGSTOP).unwrap();
    }

    pub(crate) fn resume(&self, n: usize) {
        self.members[n].daemon.process().unwrap().signal(Signal::SIGCONT).unwrap();
    }

    pub(crate) async fn kill(&self, n: usize) {
        self.members[n].daemon.process().unwrap().kill().await.unwrap();
    }

    pub(crate) async fn start(&self, n: usize) {
        self.members[n].daemon.start().unwrap();
        self.members[n].answers().await;
    }

    /// Started where only who logs in is answered.
    pub(crate) fn start_locked(&self, n: usize) {
        self.members[n].daemon.start().unwrap();
    }

    pub(crate) async fn wipe(&self, n: usize) {
        self.kill(n).await;
        std::fs::remove_dir_all(&self.members[n].data).unwrap();
        self.start(n).await;
    }

    /// A bare client of the last member, which no test takes away.
    async fn client(&self) -> Client {
        let endpoint = self.endpoint(self.members.len() - 1);
        Box::pin(Client::connect([endpoint], None)).await.unwrap()
    }

    /// Puts, and returns etcd's revision.
    pub(crate) async fn put(&self, key: &str, value: &str) -> i64 {
        let put = self.client().await.put(key, value, None).await.unwrap();
        put.header().unwrap().revision()
    }

    pub(crate) async fn put_many(&self, prefix: &str, count: usize, value: &str) {
        let mut client = self.client().await;
        let keys: Vec<String> = (0..count).map(|n| format!("{prefix}{n}")).collect();
        for some in keys.chunks(100) {
            let ops: Vec<_> = some.iter().map(|key| TxnOp::put(key.as_str(), value, None)).collect();
            client.txn(etcd_client::Txn::new().and_then(ops)).await.unwrap();
        }
    }

    pub(crate) async fn delete(&self, key: &str) {
        self.client().await.delete(key, None).await.unwrap();
    }

    pub(crate) async fn value(&self, key: &str) -> Option<String> {
        // In the middle of an election etcd answers no call, which says nothing about the key.
        let answer = wait::until(START_MAX, "an answer of etcd", async || {
            match self.client().await.get(key, None).await {
                Err(Error::GRpcStatus(status)) if status.code() == Code::Unavailable => Ok(None),
                answer => Ok(Some(answer?)),
            }
        });
        let (answer, _) = answer.await.unwrap();
        answer.kvs().first().map(|kv| kv.value_str().unwrap().to_owned())
    }

    pub(crate) async fn revoke(&self, lease: i64) {
        self.client().await.lease_revoke(lease).await.unwrap();
    }

    pub(crate) async fn compact(&self, revision: i64) {
        self.client().await.compact(revision, None).await.unwrap();
    }

    /// Makes `user` with all rights, and has everybody log in. Returns a file with the password.
    pub(crate) async fn enable_auth(&self, user: &str, password: &str) -> PathBuf {
        let mut client = self.client().await;
        client.role_add(user).await.unwrap();
        let all = Permission::new(PermissionType::Readwrite, "/").with_prefix();
        client.role_grant_permission(user, all).await.unwrap();
        client.user_add(user, password, None).await.unwrap();
        client.user_grant_role(user, user).await.unwrap();
        client.auth_enable().await.unwrap();
        let file = self.home.join("password");
        std::fs::write(&file, format!("{password}\n")).unwrap();
        file
    }
}

impl Member {
    async fn answers(&self) {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        wait::until(START_MAX, "an answer of etcd", async || {
            anyhow::ensure!(self.daemon.surprise().is_none(), "etcd has ended");
            let got = Box::pin(async { Client::connect([&endpoint], None).await?.get("/", None).await });
            let got = tokio::time::timeout(Duration::from_secs(2), got).await;
            Ok(got.ok().and_then(Result::ok))
        })
        .await
        .unwrap();
    }
}
