//! Replacements, moves to another port and weight changes under load: what the clients notice of it.

mod fleet;
mod verdict;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::value_parser;
use stack::load::Report;
use stack::{Clock, PerSecond as _, Stack, Tick};

use crate::machine;
use crate::screen::say;
use fleet::{Deed, Fleet};
use verdict::{Outcome, lost};

/// The service.
const SERVICE: &str = "web";
/// How many instances it has at a time.
const INSTANCES: u32 = 16;
/// How long it is looked at before anything is done to it.
const CALM: Duration = Duration::from_secs(10);
/// Longest that the deeds may go on after they should all be done: one leave may take 30 s.
const OVERTIME_MAX: Duration = Duration::from_mins(2);
/// Longest until HAProxy shows the fleet as it is.
const SEEN_MAX: Duration = Duration::from_secs(20);

/// What to do.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Plan {
    /// How long.
    #[arg(long, default_value_t = 60, value_parser = value_parser!(u32).range(1..=3_600))]
    pub(super) seconds: u32,
    /// Requests a second.
    #[arg(long, default_value_t = 2_000, value_parser = value_parser!(u32).range(1..=20_000))]
    pub(super) rate: u32,
    /// How many instances leave, each with its ack, and are replaced by one of another name.
    #[arg(long, default_value_t = 100, value_parser = value_parser!(u32).range(..=2_000))]
    pub(super) replacements: u32,
    /// How many instances go on at another port under their name.
    #[arg(long, default_value_t = 100, value_parser = value_parser!(u32).range(..=2_000))]
    pub(super) moves: u32,
    /// How many weights change.
    #[arg(long, default_value_t = 100, value_parser = value_parser!(u32).range(..=100_000))]
    pub(super) weights: u32,
    /// How many clients take turns, each with its cookie.
    #[arg(long, default_value_t = 200, value_parser = value_parser!(u32).range(1..=10_000))]
    pub(super) clients: u32,
    /// Writes the figures to FILE as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Does it, prints what came of it, and fails if it was more than nothing.
pub(crate) async fn run(plan: Plan) -> Result<()> {
    let stack = Stack::native().with_affinity().start().await?;
    let about = machine::describe(&stack).await?;
    say(&about);
    let fleet = Fleet::launch(&stack, SERVICE, INSTANCES).await?;
    shown(&stack, &fleet).await?;
    let outcome = churn(&plan, &stack, &fleet).await?;
    say(outcome.table(&plan));
    if let Some(path) = &plan.json {
        let json = format!("{:#}\n", outcome.json(&plan, &about));
        fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    drop(fleet);
    stack.end().await?;
    if !outcome.is_clean() {
        bail!("a client noticed");
    }
    Ok(())
}

async fn churn(plan: &Plan, stack: &Stack, fleet: &Fleet) -> Result<Outcome> {
    let pid = stack.haproxy().seen().await?.pid;
    let calm = calm(plan, stack).await?;
    let load = load(plan, stack)?;
    let start = Clock.now();
    let done = perform(plan, fleet, start).await;
    Clock.until(Some(start.plus(plan.length()))).await;
    let busy = load.stop().await;
    done?;
    let took = Clock.now().since(start);
    shown(stack, fleet).await?;
    let seen = stack.haproxy().seen().await?;
    let lost = lost(&busy.moves, &fleet.farewells());
    Ok(Outcome { calm, busy, took, lost, reloads: u32::from(seen.pid != pid) })
}

/// How the same load goes while nothing is done.
async fn calm(plan: &Plan, stack: &Stack) -> Result<Report> {
    let load = load(plan, stack)?;
    Clock.until(Some(Clock.now().plus(CALM))).await;
    Ok(load.stop().await)
}

fn load(plan: &Plan, stack: &Stack) -> Result<stack::load::Load> {
    stack.start_load(SERVICE, plan.rate.per_second(), usize::try_from(plan.clients)?)
}

/// All deeds, each kind evenly over the time; the kinds are out of step with each other.
async fn perform(plan: &Plan, fleet: &Fleet, start: Tick) -> Result<()> {
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

/// One deed `count` times, the first after so many sixths of a step.
async fn evenly(plan: &Plan, fleet: &Fleet, start: Tick, deeds: (Deed, u32, u32)) -> Result<()> {
    let (deed, count, sixths) = deeds;
    for n in 0..count {
        let due = plan.length() * (6 * n + sixths) / (6 * count);
        Clock.until(Some(start.plus(due))).await;
        fleet.perform(deed).await.with_context(|| format!("{deed:?} number {}", n + 1))?;
    }
    Ok(())
}

/// Waits until HAProxy shows the fleet as it is, no more and no less.
async fn shown(stack: &Stack, fleet: &Fleet) -> Result<()> {
    let members = fleet.members();
    let whole = |seen: &stack::haproxy::Seen| {
        let right = |(name, port, weight): &(String, u16, u32)| {
            let server = seen.server(SERVICE, name);
            server.is_some_and(|it| it.is_up() && it.port() == *port && it.weight == *weight)
        };
        seen.servers(SERVICE).len() == members.len() && members.iter().all(right)
    };
    stack.wait_until(SEEN_MAX, "every instance as registered", whole).await?;
    Ok(())
}

impl Plan {
    fn length(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }
}
