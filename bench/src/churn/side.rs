//! One of the two that are looked at: who serves, and how the churn is done to its instances.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use testkit::load::{self, Load};
use testkit::port::loopback;
use testkit::process::Process;
use testkit::{Clock, PerSecond as _, Stack, Tick, wait};
use tokio::task::JoinSet;

use super::Plan;
use super::fleet::{Deed, Farewell, Fleet};
use super::footprint::Footprint;
use super::verdict::{Loads, Outcome, lost};
use crate::app;
use crate::registrant::Registrant;
use crate::reloading::{self, Reloading};

/// Leasehold's service.
const SERVICE: &str = "web";
/// How many instances it has at a time.
const INSTANCES: u32 = 32;
/// How long it is looked at before anything is done to it.
const CALM: Duration = Duration::from_secs(10);
/// Longest that the deeds may go on after they should all be done: one leave may take 30 s.
const OVERTIME_MAX: Duration = Duration::from_mins(2);
/// Longest until HAProxy shows the fleet as it is.
const SEEN_MAX: Duration = Duration::from_secs(20);
/// So long no reload: it is over.
const QUIET: Duration = Duration::from_secs(1);
/// How long an app goes on after its key was deleted, where nothing says that HAProxy has heard of it: ten reloads.
const PAUSE: Duration = Duration::from_secs(1);

/// One of the two.
pub(super) trait Side {
    /// Its instances.
    fn fleet(&self) -> &Arc<Fleet>;
    /// Where traffic comes in, and for which service.
    fn target(&self) -> (u16, &'static str);
    /// The processes that it takes, each with all below it.
    fn processes(&self) -> Result<Vec<Arc<Process>>>;
    /// Whether HAProxy shows exactly the fleet.
    async fn is_shown(&self) -> Result<bool>;
    /// How many workers have served, up to now.
    async fn workers(&self) -> Result<u32>;

    /// A calm time, and then the churn.
    async fn measure(plan: &Plan, side: &Self) -> Result<Outcome>
    where
        Self: Sized,
    {
        shown(side).await?;
        let before = side.workers().await?;
        let load = start(plan, side.target())?;
        Clock.until(Some(Clock.now().plus(CALM))).await;
        let calm = load.stop().await;
        let load = start(plan, side.target())?;
        let footprint = Footprint::watch(side.processes()?);
        let begun = Clock.now();
        let done = perform(plan, side.fleet(), begun).await;
        Clock.until(Some(begun.plus(plan.length()))).await;
        let footprint = footprint.stop().await?;
        let busy = load.stop().await;
        done?;
        let took = Clock.now().since(begun);
        shown(side).await?;
        let reloads = side.workers().await? - before;
        let lost = lost(&busy.short.moves, &side.fleet().farewells());
        Ok(Outcome { calm, busy, took, lost, reloads, footprint })
    }
}

/// Leasehold.
pub(super) struct Ours<'s> {
    stack: &'s Stack,
    fleet: Arc<Fleet>,
    pid: u32,
}

/// The stand-in.
pub(super) struct Theirs {
    reloading: Reloading,
    fleet: Arc<Fleet>,
}

/// The loads of one time.
struct Running {
    short: Load,
    long: Option<Load>,
}

impl<'s> Ours<'s> {
    pub(super) async fn new(stack: &'s Stack) -> Result<Self> {
        let registrant = Registrant::connect(stack, SERVICE).await?;
        let fleet: Arc<Fleet> = Box::pin(Fleet::launch(registrant, Farewell::Acked, INSTANCES)).await?.into();
        Ok(Self { stack, fleet, pid: stack.haproxy().seen().await?.pid })
    }
}

impl Theirs {
    pub(super) async fn new(stack: &Stack) -> Result<Self> {
        let reloading = Reloading::start(stack).await?;
        let registrant = Registrant::connect(stack, reloading::BACKEND).await?.under(reloading::PREFIX);
        let fleet: Arc<Fleet> =
            Box::pin(Fleet::launch(registrant, Farewell::Pause(PAUSE), INSTANCES)).await?.into();
        Ok(Self { reloading, fleet })
    }
}

impl Side for Ours<'_> {
    fn fleet(&self) -> &Arc<Fleet> {
        &self.fleet
    }

    fn target(&self) -> (u16, &'static str) {
        (self.stack.haproxy().layout().traffic_port, SERVICE)
    }

    fn processes(&self) -> Result<Vec<Arc<Process>>> {
        Ok(vec![self.stack.haproxy().daemon().process()?, self.stack.lb_sync().daemon().process()?])
    }

    async fn is_shown(&self) -> Result<bool> {
        if let Some(surprise) = self.stack.surprises().pop() {
            bail!(surprise);
        }
        let (seen, members) = (self.stack.haproxy().seen().await?, self.fleet.members());
        let right = |(name, port, weight): &(String, u16, u32)| {
            let server = seen.server(SERVICE, name);
            server.is_some_and(|it| it.is_up() && it.port() == *port && it.weight == *weight)
        };
        Ok(seen.servers(SERVICE).len() == members.len() && members.iter().all(right))
    }

    async fn workers(&self) -> Result<u32> {
        let seen = self.stack.haproxy().seen().await?;
        Ok(u32::from(seen.pid != self.pid))
    }
}

impl Side for Theirs {
    fn fleet(&self) -> &Arc<Fleet> {
        &self.fleet
    }

    fn target(&self) -> (u16, &'static str) {
        (self.reloading.port(), reloading::BACKEND)
    }

    fn processes(&self) -> Result<Vec<Arc<Process>>> {
        Ok(vec![self.reloading.master()?])
    }

    async fn is_shown(&self) -> Result<bool> {
        if let Some(failure) = self.reloading.failure() {
            bail!("the reloading stand-in has ended: {failure}");
        }
        // What is still to be reloaded for is not over.
        let reloads = self.reloading.reloads();
        tokio::time::sleep(QUIET).await;
        if self.reloading.reloads() != reloads {
            return Ok(false);
        }
        // Between two workers there may be no answer.
        let servers = self.reloading.servers().await.unwrap_or_default();
        Ok(servers == self.fleet.members().into_iter().collect())
    }

    async fn workers(&self) -> Result<u32> {
        Ok(self.reloading.reloads())
    }
}

impl Running {
    async fn stop(self) -> Loads {
        let long = match self.long {
            Some(long) => Some(long.stop().await),
            None => None,
        };
        Loads { short: self.short.stop().await, long: long.unwrap_or_default() }
    }
}

fn start(plan: &Plan, (port, service): (u16, &str)) -> Result<Running> {
    let one = |path: &str, rate: u32, clients: u32| {
        Load::start(load::Plan {
            target: loopback(port),
            service: service.into(),
            path: path.into(),
            rate: rate.per_second(),
            sticky_clients: usize::try_from(clients)?,
        })
    };
    let long = plan.rate * plan.streams / 100;
    Ok(Running {
        short: one("/", plan.rate - long, plan.clients)?,
        long: (long > 0).then(|| one(app::STREAM, long, plan.clients)).transpose()?,
    })
}

/// All deeds, each kind evenly over the time; the kinds are out of step with each other.
async fn perform(plan: &Plan, fleet: &Arc<Fleet>, start: Tick) -> Result<()> {
    let deeds = async {
        tokio::try_join!(
            evenly(plan, fleet, start, (Deed::Replace, plan.replacements, 1)),
            evenly(plan, fleet, start, (Deed::Move, plan.moves, 3)),
            evenly(plan, fleet, start, (Deed::Weigh, plan.weights, 5)),
        )
    };
    let bound = plan.length() + OVERTIME_MAX;
    let done = tokio::time::timeout(bound, Box::pin(deeds)).await;
    done.with_context(|| format!("not all was done within {bound:?}"))??;
    Ok(())
}

/// One deed `count` times, the first after so many sixths of a step. Each takes as long as it takes, beside the next: a leave
/// waits for the long answers.
async fn evenly(plan: &Plan, fleet: &Arc<Fleet>, start: Tick, deeds: (Deed, u32, u32)) -> Result<()> {
    let (deed, count, sixths) = deeds;
    let mut under_way = JoinSet::new();
    for n in 0..count {
        let due = plan.length() * (6 * n + sixths) / (6 * count);
        Clock.until(Some(start.plus(due))).await;
        let fleet = Arc::clone(fleet);
        under_way.spawn(async move {
            fleet.perform(deed).await.with_context(|| format!("{deed:?} number {}", n + 1))
        });
        while let Some(done) = under_way.try_join_next() {
            done??;
        }
    }
    while let Some(done) = under_way.join_next().await {
        done??;
    }
    Ok(())
}

/// Waits until HAProxy shows the fleet as it is, no more and no less.
async fn shown(side: &impl Side) -> Result<()> {
    let seen = async || Ok(side.is_shown().await?.then_some(()));
    wait::until(SEEN_MAX, "every instance as registered", seen).await?;
    Ok(())
}
