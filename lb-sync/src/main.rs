//! lb-sync's command line: arguments, logging, build, run, exit code. The only place that prints or exits.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the command line speaks to people")]

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use lb_sync::cli::{Cli, LogFormat, ProbeOptions, RunOptions, Verb};
use lb_sync::command::{self, CommandError, CommandOutput};
use lb_sync::run::{RunConfig, RunError, run};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::layer;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Exit codes of the contract (`sysexits.h` where it has one).
const FAILED: u8 = 1;
const USAGE: u8 = 64;
const CONFIG: u8 = 78;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return failed(FAILED, &format!("cannot start: {error}")),
    };
    match cli.command {
        Verb::Run(options) => run_verb(options, runtime.handle()),
        Verb::Plan(options) => told(runtime.block_on(command::plan(options, &host_name()))),
        Verb::Check(options) => told(Ok(runtime.block_on(command::check(options, &host_name())))),
        Verb::Explain(options) => told(runtime.block_on(command::explain(options, &host_name()))),
        Verb::Completions { shell } => help(Ok(Some(lb_sync::help::completions(shell)))),
        Verb::Man { command } => help(lb_sync::help::manual(command.as_deref())),
        Verb::Probe(options) => runtime.block_on(probe(options)),
    }
}

fn run_verb(options: RunOptions, others: &Handle) -> ExitCode {
    log_to_stderr(options.log_format);
    let config = match RunConfig::new(options, &host_name()) {
        Ok(config) => config,
        Err(error) => return failed(CONFIG, &error.to_string()),
    };
    // The way from etcd to HAProxy is on this thread: no other has to be woken on it.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(FAILED, &format!("cannot start: {error}")),
    };
    let ended = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        if let Err(error) = stop_on_signals(&shutdown) {
            return Err(format!("cannot wait for signals: {error}"));
        }
        Ok(Box::pin(run(config, others, shutdown)).await)
    });
    match ended {
        Err(error) => failed(FAILED, &error),
        Ok(ended) => code_of(ended),
    }
}

fn code_of(ended: Result<(), RunError>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ RunError::Config(_)) => failed(CONFIG, &error.to_string()),
        Err(error) => failed(FAILED, &error.to_string()),
    }
}

fn host_name() -> String {
    nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned()
}

/// Prints what a command that looks has found.
fn told(told: Result<CommandOutput, CommandError>) -> ExitCode {
    match told {
        Ok(CommandOutput { text, code }) => {
            // Who has stopped reading (`| head`) wants no more of it.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::from(code)
        }
        Err(error) => failed(error.exit_code(), &error.to_string()),
    }
}

fn help(page: std::io::Result<Option<Vec<u8>>>) -> ExitCode {
    match page {
        Ok(Some(page)) => {
            // With the output closed there is nobody left to tell.
            let _ = std::io::stdout().write_all(&page);
            ExitCode::SUCCESS
        }
        Ok(None) => failed(USAGE, "there is no such command; lb-sync --help names them"),
        Err(error) => failed(FAILED, &error.to_string()),
    }
}

async fn probe(options: ProbeOptions) -> ExitCode {
    let outcome = proto::health::probe(&options.addr, &options.service, options.timeout, &options.tls).await;
    println!("{outcome}");
    ExitCode::from(outcome.exit_code())
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
        tracing::info!("told to stop; HAProxy goes on as it is");
    });
    Ok(())
}

fn log_to_stderr(format: Option<LogFormat>) {
    let terminal = std::io::stderr().is_terminal();
    let json = format.map_or(!terminal, |format| format == LogFormat::Json);
    let filter =
        std::env::var_os("LEASEHOLD_LOG").and_then(|filter| filter.to_str()?.parse::<Targets>().ok());
    let filter = filter.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    // Who cannot be written to (a closed pipe) cannot be told so either; trying to would panic.
    let layer = layer().with_writer(std::io::stderr).with_ansi(terminal).log_internal_errors(false);
    let layer = if json {
        layer.json().flatten_event(true).with_filter(filter).boxed()
    } else {
        layer.with_target(false).with_filter(filter).boxed()
    };
    tracing_subscriber::registry().with(layer).init();
}

fn usage(error: &clap::Error) -> ExitCode {
    // What cannot be printed cannot be told either.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(USAGE),
    }
}

fn failed(code: u8, error: &str) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(code)
}
