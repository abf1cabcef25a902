//! From a put to the first request served, and from the end of its lease to the last one: Leasehold and the limit in
//! turns, on the same etcd and the same HAProxy; and in some of the turns, a reload on each event.

mod limit;
mod way;

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde_json::{Value, json};
use stack::Stack;

use crate::confd::{self, Confd};
use crate::machine;
use crate::reloading::{self, Reloading};
use crate::screen::say;
use crate::table::{self, Times};
use limit::Limit;
pub(crate) use way::Way;

/// Rounds before the first that counts: connections are made, code is loaded.
const WARM_UP: u32 = 5;
/// Longest that a round may take; it is some 50 ms.
const ROUND_MAX: Duration = Duration::from_mins(1);

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Plan {
    /// How many joins and leaves of each.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: u32,
    /// How many of a reload on each event, which take longer; 0 leaves them out.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    reloads: u32,
    /// How the instance leaves.
    #[arg(long, value_enum, default_value_t = Leave::Revoke)]
    leave: Leave,
}

/// How an instance leaves that was put by a bare client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Leave {
    /// Its lease is revoked, and the key goes with it.
    Revoke,
    /// Its key is deleted, and the lease lives on.
    Delete,
}

/// What one way took in all rounds.
#[derive(Debug, Default)]
struct Taken {
    join: Times,
    leave: Times,
}

/// Measures and prints.
pub(crate) async fn run(plan: Plan) -> Result<Value> {
    let stack = Stack::native().with_services(&["leasehold", "limit"]).start().await?;
    let mut ours = Way::new(&stack, "leasehold", stack::PREFIX).await?;
    let mut limit = Way::new(&stack, "limit", limit::PREFIX).await?;
    let watcher = Limit::start(&stack).await?;
    let reloading = Reloading::start(&stack).await?;
    let mut reloads = Way::new(&stack, reloading::BACKEND, reloading::PREFIX).await?.at(reloading.port());
    let about = machine::describe()?;
    say(&about);
    say(format_args!("{} rounds of each, in turns\n", plan.rounds));

    let confd = Confd::start(&stack).await?;
    let mut confds = match &confd {
        Some(confd) => Some(Way::new(&stack, confd::BACKEND, confd::PREFIX).await?.at(confd.port())),
        None => None,
    };
    let [mut by_us, mut by_limit, mut by_reloads, mut by_confd] = <[Taken; 4]>::default();
    let every = (WARM_UP + plan.rounds).checked_div(plan.reloads).map(|every| every.max(1));
    for round in 0..WARM_UP + plan.rounds {
        let counts = round >= WARM_UP;
        // Whoever comes second finds warmer caches: they change places.
        if round % 2 == 0 {
            take(&mut ours, &mut by_us, plan.leave, counts).await?;
            take(&mut limit, &mut by_limit, plan.leave, counts).await?;
        } else {
            take(&mut limit, &mut by_limit, plan.leave, counts).await?;
            take(&mut ours, &mut by_us, plan.leave, counts).await?;
        }
        if every.is_some_and(|every| round.is_multiple_of(every)) {
            take(&mut reloads, &mut by_reloads, plan.leave, counts).await?;
            if let Some(confds) = &mut confds {
                take(confds, &mut by_confd, plan.leave, counts).await?;
            }
        }
        if let Some(error) =
            watcher.failure().or_else(|| reloading.failure()).or_else(|| confd.as_ref()?.failure())
        {
            bail!("who follows beside us has ended: {error}");
        }
    }
    let end = match plan.leave {
        Leave::Revoke => "revoke → last hit",
        Leave::Delete => "delete → last hit",
    };
    let names = ("Leasehold", "the limit");
    say(table::of("put → first request served", (names.0, &by_us.join), (names.1, &by_limit.join)));
    say("");
    say(table::of(end, (names.0, &by_us.leave), (names.1, &by_limit.leave)));
    for (reload, by_reloads) in [("a reload on each event", &by_reloads), ("confd", &by_confd)] {
        if by_reloads.join.is_empty() {
            continue;
        }
        say("");
        say(table::of("put → first request served", (reload, &by_reloads.join), (names.0, &by_us.join)));
        say("");
        say(table::of(end, (reload, &by_reloads.leave), (names.0, &by_us.leave)));
    }
    stack.end().await?;
    let ratios = |taken: &Taken, other: &Taken| {
        let (join, leave) = (taken.join.ratios(&other.join), taken.leave.ratios(&other.leave));
        json!({ "put_to_served": join, "end_to_last_hit": leave })
    };
    let one = |taken: &Taken| json!({ "put_to_served_ms": taken.join.json(), "end_to_last_hit_ms": taken.leave.json() });
    Ok(json!({ "on": machine::lines(&about), "leave": format!("{:?}", plan.leave),
        "leasehold": one(&by_us), "limit": one(&by_limit), "reloading": one(&by_reloads), "confd": one(&by_confd), "ratios": {
            "leasehold_to_limit": ratios(&by_us, &by_limit),
            "reloading_to_leasehold": ratios(&by_reloads, &by_us),
            "confd_to_leasehold": ratios(&by_confd, &by_us),
        } }))
}

async fn take(way: &mut Way<'_>, taken: &mut Taken, leave: Leave, counts: bool) -> Result<()> {
    let round = tokio::time::timeout(ROUND_MAX, Box::pin(way.round(leave))).await;
    let (join, left) = round.with_context(|| format!("a round was not over within {ROUND_MAX:?}"))??;
    if counts {
        taken.join.push(join);
        taken.leave.push(left);
    }
    Ok(())
}
