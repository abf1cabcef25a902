//! The binary `registrar`.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use registrar::cli::{
    Cli, Command, EXIT_CONFIG, EXIT_USAGE, LogFormat, LogOptions, ProbeOptions, RunOptions,
};
use registrar::command::{self, CommandError, CommandOutput};
use registrar::config::{Config, host_name};
use registrar::supervise;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// A text for people, and the exit code.
type Ended = (Option<String>, u8);

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // With the output closed there is nobody left to tell; the exit code says it too.
            let _ = error.print();
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            return code.into();
        }
    };
    // One thread: a registrar is as small as its work, and a host runs many of it.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return say(&(Some(format!("error: cannot start: {error}")), 1)),
    };
    let ended = runtime.block_on(async {
        match cli.command {
            Command::Run(options) => run(&options).await,
            Command::Probe(options) => probe(&options).await,
            Command::List(options) => told(command::list(options).await),
            Command::Completions { shell } => help(Ok(Some(registrar::help::completions(shell)))),
            Command::Man { command } => help(registrar::help::manual(command.as_deref())),
            Command::Watch(options) => {
                told(command::watch(options, |line| writeln!(io::stdout(), "{line}").is_ok()).await)
            }
            Command::Show(options) => told(command::show(options).await),
            Command::Explain(options) => told(command::explain(options).await),
            Command::Drain(options) => told(command::drain(options).await),
            Command::Resume(options) => told(command::resume(options).await),
            Command::Weight(options) => told(command::weight(options).await),
            Command::Wait(options) => told(command::wait(options).await),
        }
    });
    // A name that is still being looked up must not hold up the end.
    runtime.shutdown_background();
    say(&ended)
}

fn say((text, code): &Ended) -> ExitCode {
    if let Some(text) = text {
        // As above.
        let _ = writeln!(io::stderr(), "{text}");
    }
    (*code).into()
}

async fn run(options: &RunOptions) -> Ended {
    let failed = |error: &dyn std::fmt::Display, code| (Some(format!("error: {error}")), code);
    let config = match Config::from_options(options, host_name) {
        Ok(config) => config,
        Err(error) => return failed(&error, EXIT_CONFIG),
    };
    if let Err(error) = log(&options.log) {
        return failed(&error, EXIT_CONFIG);
    }
    // Before anything is started: as process 1 there are no default actions, and an early TERM would be lost.
    let requests = match supervise::requests() {
        Ok(requests) => requests,
        Err(error) => return failed(&format!("cannot take over the signals: {error}"), 1),
    };
    match registrar::run(config, requests).await {
        Ok(code) => (None, code),
        Err(error) => failed(&error, error.exit_code()),
    }
}

fn help(page: io::Result<Option<Vec<u8>>>) -> Ended {
    match page {
        Ok(Some(page)) => {
            // As above.
            let _ = io::stdout().write_all(&page);
            (None, 0)
        }
        Ok(None) => (Some("error: there is no such command; registrar --help names them".into()), EXIT_USAGE),
        Err(error) => (Some(format!("error: {error}")), 1),
    }
}

fn told(told: Result<CommandOutput, CommandError>) -> Ended {
    match told {
        Ok(told) => {
            // As above.
            let _ = write!(io::stdout(), "{}", told.text);
            (None, told.code)
        }
        Err(error) => (Some(format!("error: {error}")), error.exit_code()),
    }
}

async fn probe(options: &ProbeOptions) -> Ended {
    let outcome = proto::health::probe(&options.addr, &options.service, options.timeout, &options.tls).await;
    if outcome.exit_code() == 0 {
        // As above.
        let _ = writeln!(io::stdout(), "{outcome}");
        return (None, 0);
    }
    (Some(outcome.to_string()), outcome.exit_code())
}

fn log(options: &LogOptions) -> Result<(), String> {
    // Without regular expressions, which a host with many registrars would pay for in memory.
    let filter: Targets = options
        .filter
        .parse()
        .map_err(|error| format!("--log {:?} is not a filter: {error}", options.filter))?;
    let terminal = io::stderr().is_terminal();
    let default = if terminal { LogFormat::Text } else { LogFormat::Json };
    // Who cannot be written to (a closed pipe) cannot be told so either; trying to would panic.
    let layer = layer().with_writer(io::stderr).log_internal_errors(false);
    let layer = match options.log_format.unwrap_or(default) {
        LogFormat::Text => layer.with_ansi(terminal).with_filter(filter).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_filter(filter).boxed(),
    };
    tracing_subscriber::registry().with(layer).init();
    Ok(())
}
