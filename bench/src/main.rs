//! Leasehold beside the limit, measured in one run on real processes.

mod app;
mod beats;
mod churn;
mod crash;
mod latency;
mod machine;
mod poller;
mod process;
mod registrant;
mod scale;
mod screen;
mod socket;
mod status;
mod table;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::screen::say_error;

/// How fast Leasehold is beside the least that could do the same.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Args {
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
    /// What clients notice while instances are replaced, moved and weighed; fails if it is anything.
    Churn(churn::Plan),
    /// What thousands of instances cost, beside the same commands on HAProxy alone.
    Scale(scale::Plan),
    /// What it costs to look: the status page, watchers, and questions while instances come and go.
    Status(status::Plan),
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
    match args.measure {
        Measure::Latency(plan) => Box::pin(latency::run(plan)).await,
        Measure::Crash(plan) => Box::pin(crash::run(plan)).await,
        Measure::Beats(plan) => Box::pin(beats::run(plan)).await,
        Measure::Churn(plan) => Box::pin(churn::run(plan)).await,
        Measure::Scale(plan) => Box::pin(scale::run(plan)).await,
        Measure::Status(plan) => Box::pin(status::run(plan)).await,
    }
}
