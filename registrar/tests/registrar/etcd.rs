//! What stands in a test's own etcd.

use std::ops::Deref;

use serde_json::Value;
use testkit::blocking::{self, until};

/// A running etcd; it ends with the test, however that ends.
pub(crate) struct Etcd(blocking::Etcd);

impl Deref for Etcd {
    type Target = blocking::Etcd;

    fn deref(&self) -> &blocking::Etcd {
        &self.0
    }
}

impl Etcd {
    /// One that answers.
    pub(crate) fn start() -> Self {
        Self(blocking::Etcd::start())
    }

    /// Writes `value` at `key` below the prefix, under no lease.
    pub(crate) fn put(&self, key: &str, value: &Value) {
        self.0.put(key, &value.to_string());
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
