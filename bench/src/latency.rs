//! From a put to the first request served, and from the end of its lease to the last one: Leasehold and the limit in
//! turns, on the same etcd and the same HAProxy; and in some of the turns, a reload on each event, and each peer that is installed.

mod limit;
pub(crate) mod measured;
pub(crate) mod register;
pub(crate) mod way;

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};
use testkit::Stack;

use crate::machine;
use crate::peers::{self, Peer};
use crate::reloading::{self, Reloading};
use crate::screen::say;
use crate::table;
use limit::Limit;
use measured::Measured;
use register::{Leave, Register};
use way::Way;

/// Rounds before the first that counts: connections are made, code is loaded.
const WARM_UP: u32 = 5;
/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Plan {
    /// How many joins and leaves of each.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: u32,
    /// How many of a reload on each event, and of each peer that is on PATH, which take longer; 0 leaves them out.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    reloads: u32,
    /// How the instance leaves.
    #[arg(long, value_enum, default_value_t = Leave::Revoke)]
    leave: Leave,
}

/// Measures and prints.
pub(crate) async fn run(plan: Plan) -> Result<Value> {
    // The guard would keep the last instance of a service, which passes HAProxy's check, when its lease is revoked.
    let stack = Stack::native().with_services(&["leasehold", "limit"]);
    let stack = stack.with_lb_sync_flag("--guard-share", "100").start().await?;
    let way = async |service, prefix| {
        let register = Register::record(&stack, service, prefix).await?;
        Way::new(&stack, service, register).await
    };
    let mut ours = Measured::new("Leasehold", way("leasehold", testkit::PREFIX).await?);
    let mut limit = Measured::new("the limit", way("limit", limit::PREFIX).await?);
    let watcher = Limit::start(&stack).await?;
    let reloading = Reloading::start(&stack).await?;
    let reloads = way(reloading::BACKEND, reloading::PREFIX).await?.at(reloading.port());
    let mut others = vec![Measured::new("a reload on each event", reloads)];
    let peers = if plan.reloads > 0 { Box::pin(peers::start(&stack)).await? } else { vec![] };
    let (peers, ways): (Vec<_>, Vec<_>) = peers.into_iter().unzip();
    others.extend(ways);
    let about = machine::describe()?;
    say(&about);
    say(format_args!("{} rounds of each, in turns\n", plan.rounds));

    let every = (WARM_UP + plan.rounds).checked_div(plan.reloads).map(|every| every.max(1));
    for round in 0..WARM_UP + plan.rounds {
        let counts = round >= WARM_UP;
        // The second finds warmer caches: they change places.
        let turns = if round % 2 == 0 { [&mut ours, &mut limit] } else { [&mut limit, &mut ours] };
        for measured in turns {
            measured.take(plan.leave, counts).await?;
        }
        if every.is_some_and(|every| round.is_multiple_of(every)) {
            for measured in &mut others {
                measured.take(plan.leave, counts).await?;
            }
        }
        let ended = || peers.iter().find_map(Peer::failure);
        if let Some(error) = watcher.failure().or_else(|| reloading.failure()).or_else(ended) {
            bail!("who follows beside us has ended: {error}");
        }
    }
    let end = match plan.leave {
        Leave::Revoke => "revoke → last hit",
        Leave::Delete => "delete → last hit",
    };
    tell(end, &ours, &limit);
    others.retain(|other| !other.join.is_empty());
    for other in &others {
        say("");
        tell(end, other, &ours);
    }
    let names = ["reloading"].into_iter().chain(others.iter().skip(1).map(|other| other.name));
    let by_name: Vec<_> = names.zip(&others).collect();
    let ratios = by_name.iter().map(|(name, other)| (format!("{name}_to_leasehold"), other.ratios(&ours)));
    let ratios = [("leasehold_to_limit".to_owned(), ours.ratios(&limit))].into_iter().chain(ratios);
    let by_others = by_name.iter().map(|(name, other)| ((*name).to_owned(), other.json()));
    let figures = json!({ "on": machine::lines(&about), "leave": format!("{:?}", plan.leave),
        "leasehold": ours.json(), "limit": limit.json(), "others": by_others.collect::<Map<_, _>>(),
        "ratios": ratios.collect::<Map<_, _>>() });
    drop((ours, limit, others, peers));
    stack.end().await?;
    Ok(figures)
}

/// The tables of one beside another.
fn tell(end: &str, one: &Measured<'_>, other: &Measured<'_>) {
    say(table::of("put → first request served", (one.name, &one.join), (other.name, &other.join)));
    say("");
    say(table::of(end, (one.name, &one.leave), (other.name, &other.leave)));
}
