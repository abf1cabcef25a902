//! Leasehold: records in etcd, and lb-sync does the rest.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use testkit::load::{Load, Report};
use testkit::{Clock, Stack, Tick, wait};

use super::change::{Changes, Hand, WEIGHT, WEIGHT_FIRST};
use super::crowd::{Crowd, EXTRA};
use super::{SERVICE, Shape, rate};
use crate::process::{Cost, processor};
use crate::registrant::Registrant;
use crate::socket::Socket;
use crate::table::Times;

/// Records in one transaction; etcd takes 128.
const TOGETHER: usize = 100;
/// Longest until all are there: some 30 times what 10,000 take.
const READY_MAX: Duration = Duration::from_mins(5);
/// Pause between two looks at whether they are.
const LOOK_EVERY: Duration = Duration::from_micros(500);
/// Longest until the first is.
const SEEN_MAX: Duration = Duration::from_secs(20);

/// What was measured.
#[derive(Debug)]
pub(super) struct Registered {
    /// From the first put on, until all were in rotation.
    pub(super) ready: Times,
    /// From the start of lb-sync beside a HAProxy without servers, the records being in etcd, until all were in rotation.
    pub(super) cold: Times,
    /// From the first put on: until the last was answered, until all acks stood.
    pub(super) puts: Duration,
    pub(super) acked: Duration,
    /// What lb-sync used for that.
    pub(super) processor: Duration,
    pub(super) cost: Cost,
    pub(super) changes: Changes,
    pub(super) load: Report,
}

/// A stack in which all are in rotation, under load.
struct Filled {
    stack: Stack,
    shape: Shape,
    names: Vec<String>,
    crowd: Crowd,
    registrant: Registrant,
    haproxy: Socket,
    load: Load,
    /// What lb-sync had used before.
    before: Duration,
    start: Tick,
    puts: Duration,
    ready: Duration,
}

/// The one that comes and goes, as a bare client.
struct Extra<'r> {
    registrant: &'r Registrant,
    port: u16,
    /// Of the present life, or of the next: granted beforehand.
    lease: i64,
    /// Each has an owner of its own: its acks are told from the last one's.
    life: u32,
    weight: u32,
}

pub(super) async fn measure(shape: Shape) -> Result<Registered> {
    let mut filled = Filled::start(shape).await?;
    let (registrant, count) = (filled.registrant.clone(), u64::from(shape.count));
    let acks = async || Ok((registrant.ack_count().await? > count).then_some(()));
    wait::until(READY_MAX, format!("{count} acks"), acks).await?;
    let pid = filled.stack.lb_sync().daemon().process()?.pid();
    let acked = Clock.now().since(filled.start);
    let processor = processor(pid)?.saturating_sub(filled.before);
    let cost = Cost::of_idle(pid).await?;
    let mut extra = Extra {
        registrant: &registrant,
        port: filled.crowd.extra_port(),
        lease: registrant.lease().await?,
        life: 0,
        weight: WEIGHT_FIRST,
    };
    let port = filled.stack.haproxy().layout().traffic_port;
    let changes = Changes::measure(&mut extra, &mut filled.haproxy, port).await?;
    let (mut ready, mut cold) = (Times::default(), Times::default());
    ready.push(filled.ready);
    let (puts, (load, colds)) = (filled.puts, filled.end().await?);
    cold.push(colds);
    Ok(Registered { ready, cold, puts, acked, processor, cost, changes, load })
}

/// The first of it once more, with everything new: until all were in rotation, from the first put on, and from the start of
/// lb-sync.
pub(super) async fn run(shape: Shape) -> Result<(Duration, Duration)> {
    let filled = Filled::start(shape).await?;
    Ok((filled.ready, filled.end().await?.1))
}

impl Filled {
    async fn start(shape: Shape) -> Result<Self> {
        let Shape { count, services, checks } = shape;
        let names = Crowd::services(services);
        let backends: Vec<&str> = names.iter().map(String::as_str).collect();
        let stack = Stack::native().with_services(&backends).with_affinity();
        let stack = if checks { stack } else { stack.with_lb_sync_flag("--check-interval", "0s") };
        let stack = stack.start().await?;
        let crowd = Crowd::start(stack.ports(), services).await?;
        let registrant = Registrant::connect(&stack, SERVICE).await?;
        let mut haproxy = Socket::connect(stack.haproxy().socket()).await?;
        let lease = registrant.lease().await?;

        // One is there from the beginning: there has to be a server for the load.
        registrant.put(&Crowd::name(0), &crowd.record(0), lease).await?;
        stack.wait_until(SEEN_MAX, "the first instance up", |seen| !seen.up(SERVICE).is_empty()).await?;
        let load = stack.start_load(SERVICE, rate(), 0)?;
        let before = processor(stack.lb_sync().daemon().process()?.pid())?;
        let start = Clock.now();
        let (puts, ready) = tokio::try_join!(
            put_all(&registrant, &crowd, lease, count),
            all_ready(&stack, &mut haproxy, count + 1, &names),
        )?;
        let [puts, ready] = [puts, ready].map(|tick| tick.since(start));
        Ok(Self { stack, shape, names, crowd, registrant, haproxy, load, before, start, puts, ready })
    }

    /// Ends the load, and says last how long lb-sync takes from its start on to give a new HAProxy what is in etcd.
    async fn end(self) -> Result<(Report, Duration)> {
        let load = self.load.stop().await;
        let stack = self.stack;
        stack.lb_sync().kill().await;
        stack.haproxy().restart().await;
        let mut haproxy = Socket::connect(stack.haproxy().socket()).await?;
        let start = Clock.now();
        stack.lb_sync().start_blind();
        let ready = all_ready(&stack, &mut haproxy, self.shape.count + 1, &self.names).await?;
        stack.end().await?;
        Ok((load, ready.since(start)))
    }
}

/// Puts all but the first; when the last was answered.
async fn put_all(registrant: &Registrant, crowd: &Crowd, lease: i64, count: u32) -> Result<Tick> {
    let records: Vec<(String, Value)> = (1..=count).map(|n| (crowd.id(n), crowd.record(n))).collect();
    for some in records.chunks(TOGETHER) {
        registrant.put_together(some, lease).await?;
    }
    Ok(Clock.now())
}

/// When HAProxy has `count` servers in rotation, by the backends' own counts of them, which are cheap at any size.
async fn all_ready(stack: &Stack, haproxy: &mut Socket, count: u32, names: &[String]) -> Result<Tick> {
    let start = Clock.now();
    loop {
        let asked = Clock.now();
        if haproxy.active_in(names).await? >= count {
            return Ok(Clock.now());
        }
        if let Some(surprise) = stack.surprises().pop() {
            bail!(surprise);
        }
        ensure!(Clock.now().since(start) < READY_MAX, "not {count} servers in rotation within {READY_MAX:?}");
        // How exactly the time is known. Looking costs HAProxy something, and with a thousand services much: then it is looked
        // a tenth of the time at most.
        let share = 1 + u32::try_from(names.len() / 100).unwrap_or(u32::MAX);
        tokio::time::sleep(LOOK_EVERY.max(share * Clock.now().since(asked))).await;
    }
}

impl Extra<'_> {
    fn owner(&self) -> String {
        format!("life-{}", self.life)
    }

    async fn put(&self, state: &str) -> Result<()> {
        let (port, owner, weight) = (self.port, self.owner(), self.weight);
        let record =
            json!({ "address": "127.0.0.1", "port": port, "owner": owner, "weight": weight, "state": state });
        self.registrant.put(EXTRA, &record, self.lease).await
    }
}

impl Hand for Extra<'_> {
    async fn join(&mut self) -> Result<()> {
        self.life += 1;
        self.weight = WEIGHT_FIRST;
        self.put("up").await
    }

    async fn rested(&mut self) -> Result<()> {
        // An ack to a new owner is written by the pass after the one that made the last change and read it back.
        self.life += 1;
        self.put("up").await?;
        self.registrant.acked(EXTRA, &self.owner(), "serving").await
    }

    async fn weigh(&mut self) -> Result<()> {
        self.weight = WEIGHT;
        self.put("up").await
    }

    async fn leave(&mut self) -> Result<()> {
        self.put("draining").await?;
        self.registrant.acked(EXTRA, &self.owner(), "drained").await
    }

    async fn delete(&mut self) -> Result<()> {
        self.registrant.revoke(self.lease).await?;
        self.registrant.unacked(EXTRA).await?;
        self.lease = self.registrant.lease().await?;
        Ok(())
    }
}
