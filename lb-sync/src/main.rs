//! The binary `lb-sync`: arguments, log, run, exit code. The only place that prints or exits.

use std::process::ExitCode;

use clap::Parser;
use daemon::output::{CommandOutput, failed, usage};
use daemon::{exit, help};
use lb_sync::cli::{Cli, Verb};
use lb_sync::command::{self, CommandError};
use lb_sync::config::RunConfig;
use lb_sync::options::{ProbeOptions, RunOptions};
use lb_sync::run::{RunError, run};
use registry::host;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return failed(exit::FAILED, &format!("cannot start: {error}")),
    };
    match cli.command {
        Verb::Run(options) => run_verb(options, runtime.handle()),
        Verb::Plan(options) => print(runtime.block_on(command::plan(options, &host::name()))),
        Verb::Check(options) => print(Ok(runtime.block_on(command::check(options, &host::name())))),
        Verb::Explain(options) => print(runtime.block_on(command::explain(options, &host::name()))),
        Verb::Completions { shell } => help::print_completions::<Cli>(shell, "lb-sync"),
        Verb::Man { command } => help::print_manual::<Cli>(command.as_deref(), "lb-sync"),
        Verb::Probe(options) => runtime.block_on(probe(options)),
    }
}

fn run_verb(options: RunOptions, others: &Handle) -> ExitCode {
    if let Err(error) = options.log.start() {
        return failed(exit::CONFIG, &error);
    }
    let config = match RunConfig::new(options, &host::name()) {
        Ok(config) => config,
        Err(error) => return failed(exit::CONFIG, &error),
    };
    // The way from etcd to HAProxy is on this thread: no other has to be woken on it.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(exit::FAILED, &format!("cannot start: {error}")),
    };
    let ended = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        if let Err(error) = stop_on_signals(&shutdown) {
            return Err(format!("cannot wait for signals: {error}"));
        }
        Ok(Box::pin(run(config, others, shutdown)).await)
    });
    match ended {
        Err(error) => failed(exit::FAILED, &error),
        Ok(ended) => code_of(ended),
    }
}

fn code_of(ended: Result<(), RunError>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ RunError::Config(_)) => failed(exit::CONFIG, &error),
        Err(error) => failed(exit::FAILED, &error),
    }
}

fn print(output: Result<CommandOutput, CommandError>) -> ExitCode {
    match output {
        Ok(output) => output.print(),
        Err(error) => failed(error.exit_code(), &error),
    }
}

async fn probe(options: ProbeOptions) -> ExitCode {
    let outcome = proto::health::probe(&options.addr, &options.service, options.timeout, &options.tls).await;
    CommandOutput { text: format!("{outcome}\n"), code: outcome.exit_code() }.print()
}

/// TERM and INT cancel `shutdown`.
fn stop_on_signals(shutdown: &CancellationToken) -> std::io::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        // First what was asked for: saying so could fail.
        shutdown.cancel();
        tracing::info!("shutting down; HAProxy keeps its current servers");
    });
    Ok(())
}
