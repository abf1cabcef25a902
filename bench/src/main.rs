//! Leasehold beside the limit, measured in one run on real processes.

mod affinity;
mod app;
mod beats;
mod churn;
mod crash;
mod latency;
mod leases;
mod machine;
mod peers;
mod plot;
mod poller;
mod process;
mod registrant;
mod reloading;
mod scale;
mod screen;
mod socket;
mod status;
mod table;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use crate::screen::say_error;

/// How fast Leasehold is beside the least that could do the same.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Args {
    /// Writes the figures to FILE as well, as JSON.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(subcommand)]
    measure: Measure,
}

#[derive(Debug, Subcommand)]
enum Measure {
    /// From a key in etcd to the first request served, and from its end to the last one.
    Latency(latency::Plan),
    /// How long what has died still gets traffic, and what that costs.
    Crash(crash::Plan),
    /// What many registrars cost: memory, beats, etcd's processor.
    Beats(beats::Plan),
    /// What beats cost etcd with a lease for each process, and with one for all of a service.
    Leases(leases::Plan),
    /// What clients notice while instances are replaced, moved and weighed; fails if it is anything.
    Churn(churn::Plan),
    /// What thousands of instances cost, beside the same commands on HAProxy alone.
    Scale(scale::Plan),
    /// What the affinity by name costs HAProxy, in requests a second.
    Affinity(affinity::Plan),
    /// What it costs to look: the status page, watchers, and questions while instances come and go.
    Status(status::Plan),
    /// Draws what the others have written with `--json`.
    Plot(plot::Plan),
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say_error(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<()> {
    let figures = match args.measure {
        Measure::Latency(plan) => Box::pin(latency::run(plan)).await,
        Measure::Crash(plan) => Box::pin(crash::run(plan)).await,
        Measure::Beats(plan) => Box::pin(beats::run(plan)).await,
        Measure::Leases(plan) => Box::pin(leases::run(plan)).await,
        Measure::Churn(plan) => Box::pin(churn::run(plan)).await,
        Measure::Scale(plan) => Box::pin(scale::run(plan)).await,
        Measure::Affinity(plan) => Box::pin(affinity::run(plan)).await,
        Measure::Status(plan) => Box::pin(status::run(plan)).await,
        Measure::Plot(plan) => return plot::run(&plan),
    }?;
    if let Some(path) = args.json {
        fs::write(&path, format!("{figures:#}\n"))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
