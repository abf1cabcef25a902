//! What changes: records, their leases, overrides, and apps, at random.

use std::collections::BTreeMap;

use fastrand::Rng;
use serde_json::json;
use testkit::{PREFIX, Stack};

use crate::app::{App, Health};

/// The service of all instances here.
pub(crate) const SERVICE: &str = "web";
const WEIGHTS: [u16; 4] = [1, 50, 100, 256];

/// The instances, and what is known of them.
pub(crate) struct Changes<'s> {
    stack: &'s Stack,
    random: Rng,
    instances: Vec<Instance>,
}

struct Instance {
    name: String,
    /// An instance may move from one to the other.
    apps: [App; 2],
    lease: i64,
}

/// What a record says.
struct Record {
    app: usize,
    state: &'static str,
    weight: u16,
    sticky_s: u16,
    slow_start_s: u16,
}

impl Record {
    const PLAIN: Self = Self { app: 0, state: "up", weight: 100, sticky_s: 0, slow_start_s: 0 };
}

impl<'s> Changes<'s> {
    pub(crate) async fn new(stack: &'s Stack, count: usize, seed: u64) -> Self {
        let mut instances = Vec::with_capacity(count);
        for n in 0..count {
            let name = format!("any-{n}");
            let apps = [(); 2].map(|()| App::start(&name, stack.ports().free().unwrap()));
            instances.push(Instance { name, apps, lease: stack.etcd().grant().await.unwrap() });
        }
        Self { stack, random: Rng::with_seed(seed), instances }
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.instances.iter().map(|it| it.name.clone()).collect()
    }

    /// Makes one change.
    pub(crate) async fn next(&mut self) {
        let n = self.random.usize(..self.instances.len());
        match self.random.u8(..20) {
            0..=5 => {
                let record = self.any_record("up");
                self.put(n, record).await;
            }
            6..=7 => {
                let record = self.any_record("draining");
                self.put(n, record).await;
            }
            8 => {
                let record = self.any_record("down");
                self.put(n, record).await;
            }
            9..=10 => self.delete(n).await,
            11 => self.revoke(n).await,
            12..=13 => self.put_override(n).await,
            14 => self.stack.delete_override(SERVICE, &self.instances[n].name).await,
            _ => {
                let health = [Health::Well, Health::Well, Health::Ill, Health::Closed];
                let health = health[self.random.usize(..health.len())];
                self.instances[n].apps[self.random.usize(..2)].set(health);
            }
        }
    }

    /// Ends all overrides, makes all apps well, registers every second instance and deletes the others. Returns the ports of
    /// those that are to be served.
    pub(crate) async fn settle(&mut self) -> BTreeMap<String, u16> {
        let mut expected = BTreeMap::new();
        for n in 0..self.instances.len() {
            let Instance { name, apps, .. } = &self.instances[n];
            for app in apps {
                app.set(Health::Well);
            }
            self.stack.delete_override(SERVICE, name).await;
            let (name, port) = (name.clone(), apps[0].port());
            self.put(n, Record::PLAIN).await;
            if n % 2 == 0 {
                expected.insert(name, port);
            } else {
                // With its lease alive: this is no expiry.
                self.delete(n).await;
            }
        }
        expected
    }

    fn any_record(&mut self, state: &'static str) -> Record {
        Record {
            app: self.random.usize(..2),
            state,
            weight: WEIGHTS[self.random.usize(..WEIGHTS.len())],
            sticky_s: self.random.u16(..2),
            slow_start_s: self.random.u16(..2),
        }
    }

    async fn put(&mut self, n: usize, record: Record) {
        let Record { app, state, weight, sticky_s, slow_start_s } = record;
        let instance = &self.instances[n];
        let value = json!({
            "address": "127.0.0.1", "port": instance.apps[app].port(), "state": state, "weight": weight,
            "slow_start_s": slow_start_s, "drain": { "sticky_s": sticky_s, "inflight_s": 1 },
        });
        self.stack.etcd().put(&key_of(&instance.name), value.to_string(), instance.lease).await.unwrap();
    }

    async fn delete(&self, n: usize) {
        self.stack.etcd().delete(&key_of(&self.instances[n].name)).await.unwrap();
    }

    /// Its lease ends, and its key with it, as when its registrar has died.
    async fn revoke(&mut self, n: usize) {
        let lease = self.instances[n].lease;
        let revoked = self.stack.etcd().call("revoke", async |mut etcd| etcd.lease_revoke(lease).await);
        revoked.await.unwrap();
        self.instances[n].lease = self.stack.etcd().grant().await.unwrap();
    }

    async fn put_override(&mut self, n: usize) {
        let weight = WEIGHTS[self.random.usize(..WEIGHTS.len())];
        let value = match self.random.u8(..3) {
            0 => json!({ "mode": "drain" }),
            1 => json!({ "mode": "maintenance" }),
            _ => json!({ "weight": weight }),
        };
        self.stack.put_override(SERVICE, &self.instances[n].name, value.to_string()).await;
    }
}

fn key_of(name: &str) -> String {
    format!("{PREFIX}/instances/{SERVICE}/{name}")
}
