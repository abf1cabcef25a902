//! The lab on loopback: etcd, HAProxy, lb-sync and three apps, to play with; or a tour through it that plays by itself.

mod compose;
mod lab;
mod lab_tour;
mod port;
mod screen;
mod table;
mod tour;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::lab::{Lab, Ports};
use crate::screen::{say, say_error};

/// Runs the lab on loopback until Ctrl-C; leaves nothing behind.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Args {
    /// Play every event of the lab unattended, under load, and say how many requests failed.
    #[arg(long)]
    tour: bool,
    /// Play the lab in containers instead, from this compose file.
    #[arg(long, value_name = "FILE")]
    compose: Option<String>,
    #[command(flatten)]
    ports: Ports,
}

/// How the demo ended.
enum Ended {
    /// As it should.
    Well,
    /// By INT or TERM, before its end.
    Interrupted,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(Ended::Well) => ExitCode::SUCCESS,
        Ok(Ended::Interrupted) => ExitCode::from(130),
        Err(error) => {
            say_error(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<Ended> {
    let mut interrupt = Interrupt::new()?;
    if let Some(file) = &args.compose {
        return tokio::select! {
            told = Box::pin(lab_tour::play(file)) => told.map(|()| Ended::Well),
            () = interrupt.came() => Ok(Ended::Interrupted),
        };
    }
    // Wherever it is interrupted: what was started is owned by the future, and ends with it.
    let started = tokio::select! {
        lab = Box::pin(Lab::start(&args.ports)) => lab?,
        () = interrupt.came() => return Ok(Ended::Interrupted),
    };
    if args.tour {
        let ended = tokio::select! {
            told = Box::pin(tour::play(&started)) => told.map(|()| Ended::Well),
            () = interrupt.came() => Ok(Ended::Interrupted),
        };
        return stop(started, interrupt).await.and(ended);
    }
    say(table::of(&started)?);
    tokio::select! {
        () = interrupt.came() => {}
        () = started.tell_who_ends() => {}
    }
    say("\nending: the apps leave, then lb-sync, HAProxy and etcd stop");
    stop(started, interrupt).await.map(|_| Ended::Well)
}

/// Ends the lab in order, or at once when it is interrupted again.
async fn stop(lab: Lab, mut interrupt: Interrupt) -> Result<Ended> {
    tokio::select! {
        ended = Box::pin(lab.end()) => ended.map(|()| Ended::Well),
        () = interrupt.came() => Ok(Ended::Interrupted),
    }
}

/// INT and TERM.
struct Interrupt {
    int: tokio::signal::unix::Signal,
    term: tokio::signal::unix::Signal,
}

impl Interrupt {
    fn new() -> Result<Self> {
        let handler = |kind| signal(kind).context("cannot handle signals");
        Ok(Self { int: handler(SignalKind::interrupt())?, term: handler(SignalKind::terminate())? })
    }

    /// Returns with the next of them.
    async fn came(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}
