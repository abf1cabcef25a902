//! The instances, and what is done to them: as bare clients of the registry, each with an app of its own.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use testkit::port::{Ports, loopback};
use testkit::{Clock, Tick};

use crate::app::App;
use crate::registrant::Registrant;

/// Weights go through this many values from the least one up, in steps that have no common divisor with it.
const WEIGHTS: u32 = 151;
const WEIGHT_MIN: u32 = 50;
const WEIGHT_STEP: u32 = 37;

/// What can be done to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// It leaves, acknowledged; one of another name joins.
    Replace,
    /// It goes on at another port.
    Move,
    /// Its weight changes.
    Weigh,
}

/// How it is known that nothing more will come to an app, before it is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Farewell {
    /// By the balancer's ack.
    Acked,
    /// By waiting, as operators do without an ack: the key is deleted, and the app goes on for so long.
    Pause(Duration),
}

/// All instances of the service.
pub(super) struct Fleet {
    registrant: Registrant,
    farewell: Farewell,
    service: &'static str,
    /// Those to which nothing is being done.
    members: Mutex<Vec<Member>>,
    ports: Mutex<Vec<Ports>>,
    /// How many names and owners have been given.
    names: Mutex<u32>,
    owners: Mutex<u32>,
    /// When each that left was told to.
    farewells: Mutex<BTreeMap<String, Tick>>,
}

/// One instance.
struct Member {
    name: String,
    owner: String,
    weight: u32,
    lease: i64,
    app: App,
}

impl Fleet {
    /// Starts `count` of them.
    pub(super) async fn launch(registrant: Registrant, farewell: Farewell, count: u32) -> Result<Self> {
        let fleet = Self {
            service: registrant.service(),
            registrant,
            farewell,
            members: Mutex::default(),
            ports: Mutex::default(),
            names: Mutex::default(),
            owners: Mutex::default(),
            farewells: Mutex::default(),
        };
        for _ in 0..count {
            let member = fleet.join().await?;
            lock(&fleet.members).push(member);
        }
        Ok(fleet)
    }

    /// Does `deed` to any one: in turns, deeds that come in turns themselves would meet the same ones again and again.
    pub(super) async fn perform(&self, deed: Deed) -> Result<()> {
        let member = self.any_member().context("every instance is busy")?;
        let name = member.name.clone();
        let member = match deed {
            Deed::Replace => self.replace(member).await,
            Deed::Move => self.relocate(member).await,
            Deed::Weigh => self.weigh(member).await,
        };
        let member = member.with_context(|| format!("the instance {name}"))?;
        lock(&self.members).push(member);
        Ok(())
    }

    /// When each that left was told to.
    pub(super) fn farewells(&self) -> BTreeMap<String, Tick> {
        lock(&self.farewells).clone()
    }

    /// Name, port and weight of each.
    pub(super) fn members(&self) -> Vec<(String, u16, u32)> {
        lock(&self.members).iter().map(|it| (it.name.clone(), it.app.port(), it.weight)).collect()
    }

    fn any_member(&self) -> Option<Member> {
        let mut members = lock(&self.members);
        let count = members.len();
        (count > 0).then(|| members.swap_remove(fastrand::usize(..count)))
    }

    async fn join(&self) -> Result<Member> {
        let name = format!("{}-{}", self.service, next(&self.names));
        let member = Member {
            app: App::start(loopback(self.port()?), &name).await?,
            name,
            owner: self.owner(),
            weight: 100,
            lease: self.registrant.lease().await?,
        };
        self.put(&member, "up").await?;
        Ok(member)
    }

    async fn replace(&self, member: Member) -> Result<Member> {
        lock(&self.farewells).insert(member.name.clone(), Clock.now());
        match self.farewell {
            Farewell::Acked => {
                self.put(&member, "draining").await?;
                self.registrant.acked(&member.name, &member.owner, "drained").await?;
                // At once: the ack says that nothing is in flight and nothing will come.
                member.app.stop().await;
                self.registrant.revoke(member.lease).await?;
            }
            Farewell::Pause(pause) => {
                self.registrant.revoke(member.lease).await?;
                tokio::time::sleep(pause).await;
                // What is in flight is answered.
                member.app.stop().await;
            }
        }
        self.join().await
    }

    async fn relocate(&self, member: Member) -> Result<Member> {
        let app = App::start(loopback(self.port()?), &member.name).await?;
        let Member { app: old, name, weight, lease, .. } = member;
        // By the new owner's ack it is known that HAProxy has the new port.
        let member = Member { name, owner: self.owner(), weight, lease, app };
        self.put(&member, "up").await?;
        match self.farewell {
            Farewell::Acked => self.registrant.acked(&member.name, &member.owner, "serving").await?,
            Farewell::Pause(pause) => tokio::time::sleep(pause).await,
        }
        old.idle().await?;
        old.stop().await;
        Ok(member)
    }

    async fn weigh(&self, mut member: Member) -> Result<Member> {
        member.weight = WEIGHT_MIN + (member.weight - WEIGHT_MIN + WEIGHT_STEP) % WEIGHTS;
        self.put(&member, "up").await?;
        Ok(member)
    }

    async fn put(&self, member: &Member, state: &str) -> Result<()> {
        self.registrant.put(&member.name, &member.record(state), member.lease).await
    }

    fn owner(&self) -> String {
        format!("owner-{}", next(&self.owners))
    }

    /// A port that was never used before: a client that is still on its way to the last holder must not meet the next one.
    fn port(&self) -> Result<u16> {
        let mut blocks = lock(&self.ports);
        if let Some(port) = blocks.last().and_then(|block| block.free().ok()) {
            return Ok(port);
        }
        let block = Ports::claim()?;
        let port = block.free();
        blocks.push(block);
        port
    }
}

impl Member {
    fn record(&self, state: &str) -> Value {
        let Self { owner, weight, app, .. } = self;
        json!({ "address": "127.0.0.1", "port": app.port(), "owner": owner, "weight": weight, "state": state })
    }
}

fn next(counter: &Mutex<u32>) -> u32 {
    let mut count = lock(counter);
    *count += 1;
    *count
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Held for single statements: a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
