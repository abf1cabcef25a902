//! An etcd of the test's own, spoken to as any other client would: with `etcdctl`.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::until;

/// A running etcd; it ends with the test, however that ends.
pub(crate) struct Etcd {
    child: Child,
    pub(crate) endpoint: String,
    _data: TempDir,
}

impl Etcd {
    /// One that answers.
    pub(crate) fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let (endpoint, peer) = (free_url(), free_url());
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(data.path())
            .args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--logger", "zap"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd is installed");
        let etcd = Self { child, endpoint, _data: data };
        until("etcd answers", || etcd.try_ctl(&["endpoint", "health"]));
        etcd
    }

    /// The output of an `etcdctl` that is to succeed.
    pub(crate) fn ctl(&self, args: &[&str]) -> String {
        self.try_ctl(args).unwrap_or_else(|| panic!("etcdctl {args:?} failed"))
    }

    fn try_ctl(&self, args: &[&str]) -> Option<String> {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.endpoint])
            .args(args)
            .output()
            .expect("etcdctl is installed");
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// What stands at `key` below the prefix.
    pub(crate) fn record(&self, key: &str) -> Option<Value> {
        let text = self.ctl(&["get", "--print-value-only", &format!("/leasehold/v1/{key}")]);
        (!text.trim().is_empty()).then(|| serde_json::from_str(&text).unwrap())
    }

    /// The field `state` of what stands at `key`.
    pub(crate) fn state(&self, key: &str) -> Option<String> {
        Some(self.record(key)?["state"].as_str().unwrap().to_owned())
    }

    /// Waits until `key` says `state`.
    pub(crate) fn until_state(&self, key: &str, state: &str) {
        until(&format!("{key} says {state}"), || (self.state(key)? == state).then_some(()));
    }

    /// Waits until nothing stands at `key`.
    pub(crate) fn until_gone(&self, key: &str) {
        until(&format!("{key} is gone"), || self.record(key).is_none().then_some(()));
    }

    /// Writes `value` at `key` below the prefix, under no lease.
    pub(crate) fn put(&self, key: &str, value: &Value) {
        self.ctl(&["put", &format!("/leasehold/v1/{key}"), &value.to_string()]);
    }

    /// The id of the one lease there is, as etcdctl writes it.
    pub(crate) fn only_lease(&self) -> String {
        let leases = self.leases();
        assert_eq!(leases.len(), 1, "{leases:?}");
        leases.into_iter().next().unwrap()
    }

    /// All leases.
    pub(crate) fn leases(&self) -> Vec<String> {
        let text = self.ctl(&["lease", "list"]);
        text.lines().skip(1).map(str::to_owned).collect()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The URL of a port that was free a moment ago.
pub(crate) fn free_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}
