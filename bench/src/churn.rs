//! Replacements, moves to another port and weight changes under load: what the clients notice of it, of Leasehold, and of
//! a reload on each event, the one after the other.

mod fleet;
mod footprint;
mod side;
mod verdict;

use std::time::Duration;

use anyhow::{Result, bail};
use clap::value_parser;
use serde_json::{Value, json};
use testkit::Stack;

use crate::machine;
use crate::screen::say;
use side::{Ours, Side, Theirs};
use verdict::Outcome;

/// What to do.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Plan {
    /// How long.
    #[arg(long, default_value_t = 60, value_parser = value_parser!(u32).range(1..=3_600))]
    pub(super) seconds: u32,
    /// Requests a second.
    #[arg(long, default_value_t = 2_000, value_parser = value_parser!(u32).range(1..=20_000))]
    pub(super) rate: u32,
    /// Which share of them is for an answer that takes 3 s, in percent.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(0..=50))]
    pub(super) streams: u32,
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
    /// Leaves out the reload on each event.
    #[arg(long)]
    alone: bool,
}

/// Does it, prints what came of it, and fails if a client of Leasehold noticed anything.
pub(crate) async fn run(plan: Plan) -> Result<Value> {
    let stack = Stack::native().with_affinity().start().await?;
    let about = machine::describe()?;
    say(&about);
    say("");
    let ours = Side::measure(&plan, &Ours::new(&stack).await?).await?;
    say(ours.table("Leasehold", &plan));
    let mut json = json!({ "on": machine::lines(&about), "rate": plan.rate, "streams_percent": plan.streams,
        "clients": plan.clients, "replacements": plan.replacements, "moves": plan.moves, "weights": plan.weights,
        "leasehold": ours.json() });
    if !plan.alone {
        let theirs = Side::measure(&plan, &Theirs::new(&stack).await?).await?;
        say("");
        say(theirs.table("a reload on each event", &plan));
        json["reloading"] = theirs.json();
    }
    stack.end().await?;
    if !Outcome::is_clean(&ours) {
        bail!("a client of Leasehold noticed: {json:#}");
    }
    Ok(json)
}

impl Plan {
    fn length(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }
}
