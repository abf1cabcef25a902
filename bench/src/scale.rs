//! Thousands of instances in one service: what they cost, beside what the same commands cost HAProxy alone.

mod alone;
mod change;
mod crowd;
mod registered;

use std::time::Duration;

use anyhow::Result;
use clap::value_parser;
use serde_json::{Value, json};
use testkit::PerSecond as _;
use testkit::load::{Rate, Report};

use crate::machine;
use crate::screen::say;
use crate::table::{Rows, ms, ratio};
use alone::Alone;
pub(crate) use alone::add_all;
use change::Changes;
pub(crate) use crowd::Crowd;
use registered::Registered;

/// The service.
const SERVICE: &str = "web";

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Plan {
    /// How many instances are registered at once, beside one that is there; several numbers are measured one after the other.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100, 1_000, 10_000],
          value_parser = value_parser!(u32).range(1..=crowd::SIZE_MAX))]
    instances: Vec<u32>,
    /// Over how many services they are spread; the changes are made in one of them.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u32).range(1..=5_000))]
    services: u32,
    /// How often all are registered, each time with everything new.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Without HAProxy's own checks, which are every 2 s by default: those of 10,000 servers take much of two cores.
    #[arg(long)]
    no_checks: bool,
}

/// Over what, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Instances.
    count: u32,
    services: u32,
    /// Whether HAProxy checks them.
    checks: bool,
}

/// Measures and prints.
pub(crate) async fn run(plan: Plan) -> Result<Value> {
    let about = machine::describe()?;
    say(&about);
    let mut sizes = Vec::new();
    for count in plan.instances {
        let shape = Shape { count, services: plan.services, checks: !plan.no_checks };
        let mut alone = Box::pin(alone::measure(shape)).await?;
        let mut registered = Box::pin(registered::measure(shape)).await?;
        for _ in 1..plan.rounds {
            alone.ready.push(Box::pin(alone::run(shape)).await?);
            let (ready, cold) = Box::pin(registered::run(shape)).await?;
            registered.ready.push(ready);
            registered.cold.push(cold);
        }
        say("");
        say(table(count, plan.services, &registered, &alone));
        say(costs(&registered, &alone));
        sizes.push((count, registered, alone));
    }
    say("");
    say(growth(&sizes));
    let json = |(count, ours, alone): &(u32, Registered, Alone)| {
        let changes = |Changes { join, weigh, leave }: &Changes| json!({ "join": join.json(), "weigh": weigh.json(), "leave": leave.json() });
        json!({
            "instances": count,
            "leasehold": {
                "ready_ms": ours.ready.json(), "cold_ms": ours.cold.json(), "puts_ms": millis(ours.puts), "acked_ms": millis(ours.acked),
                "processor_ms": millis(ours.processor), "changes_ms": changes(&ours.changes),
                "slowest_ms": millis(ours.load.max), "failed": ours.load.failed,
                "resident_mb": ours.cost.resident_kb / 1_024.0, "peak_mb": ours.cost.peak_kb / 1_024.0,
                "idle_share": ours.cost.idle_share, "audit_ms": millis(ours.cost.audit),
            },
            "alone": {
                "ready_ms": alone.ready.json(), "changes_ms": changes(&alone.changes),
                "slowest_ms": millis(alone.load.max), "failed": alone.load.failed,
            },
        })
    };
    let sizes: Vec<Value> = sizes.iter().map(json).collect();
    Ok(
        json!({ "on": machine::lines(&about), "services": plan.services, "checks": !plan.no_checks, "sizes": sizes }),
    )
}

/// All sizes side by side.
fn growth(sizes: &[(u32, Registered, Alone)]) -> Rows {
    let columns = [
        "all serve",
        "raw commands",
        "ratio",
        "cold sync",
        "its ratio",
        "one more",
        "one weight",
        "one less",
        "processor",
        "memory",
    ];
    let mut rows = Rows::new("registered at once", &columns);
    for (count, ours, alone) in sizes {
        let Changes { join, weigh, leave } = &ours.changes;
        let (ready, cold, raw) = (ours.ready.median_ms(), ours.cold.median_ms(), alone.ready.median_ms());
        let cells = [
            ms(ready),
            ms(raw),
            ratio(ready, raw),
            ms(cold),
            ratio(cold, raw),
            ms(join.median_ms()),
            ms(weigh.median_ms()),
            ms(leave.median_ms()),
            ms(millis(ours.processor)),
            format!("{:.1} MB", ours.cost.resident_kb / 1_024.0),
        ];
        rows.push(&count.to_string(), cells);
    }
    rows
}

/// The load during all of it.
fn rate() -> Rate {
    200.per_second()
}

fn table(count: u32, services: u32, ours: &Registered, alone: &Alone) -> Rows {
    let mut rows = Rows::new(
        &format!("{count} instances, {services} service(s)"),
        &["Leasehold", "HAProxy alone", "ratio"],
    );
    let mut both = |name: &str, ours: f64, alone: f64| {
        rows.push(name, [ms(ours), ms(alone), ratio(ours, alone)]);
    };
    let median = |changes: &Changes| {
        let Changes { join, weigh, leave } = changes;
        [join, weigh, leave].map(crate::table::Times::median_ms)
    };
    let ([join, weigh, leave], [join_alone, weigh_alone, leave_alone]) =
        (median(&ours.changes), median(&alone.changes));
    both("first put → all in rotation", ours.ready.median_ms(), alone.ready.median_ms());
    both("lb-sync's start → all in rotation", ours.cold.median_ms(), alone.ready.median_ms());
    both("one more: put → first request", join, join_alone);
    both("one weight: put → in HAProxy", weigh, weigh_alone);
    both("one less: draining → acknowledged", leave, leave_alone);
    both("slowest request of all that time", millis(ours.load.max), millis(alone.load.max));
    let failed = |load: &Report| format!("{} of {}", load.failed, load.sent);
    rows.push("failed requests", [failed(&ours.load), failed(&alone.load)]);
    rows
}

/// What has nothing to stand beside.
fn costs(ours: &Registered, alone: &Alone) -> Rows {
    let mut rows = Rows::new("", &["lb-sync"]);
    let mut one = |name: &str, cell: String| rows.push(name, [cell]);
    one("first put → last put", ms(millis(ours.puts)));
    one("first put → all acks written", ms(millis(ours.acked)));
    one("processor for all that", ms(millis(ours.processor)));
    let memory = [ours.cost.resident_kb, ours.cost.peak_kb].map(|kb| format!("{:.1} MB", kb / 1_024.0));
    let [resident, peak] = memory;
    one("memory", resident);
    one("memory at most", peak);
    one("idle, of one core", format!("{:.2} %", 100.0 * ours.cost.idle_share));
    one("a pass with nothing to do, processor", ms(millis(ours.cost.audit)));
    one("(HAProxy alone: `show servers state`)", ms(millis(alone.show)));
    rows
}

fn millis(time: Duration) -> f64 {
    1_000.0 * time.as_secs_f64()
}
