//! The binary `registrar`: arguments, log, run, exit code. The only place that prints or exits.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use daemon::output::{CommandOutput, failed, usage};
use daemon::{exit, help};
use registrar::cli::{Cli, Command, ProbeOptions, RunOptions};
use registrar::command::{self, CommandError};
use registrar::config;
use registrar::supervise;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    // One thread: a registrar is as small as its work, and a host runs many of it.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(exit::FAILED, &format!("cannot start: {error}")),
    };
    let code = runtime.block_on(async {
        match cli.command {
            Command::Run(options) => run(&options).await,
            Command::Probe(options) => probe(&options).await,
            Command::Completions { shell } => help::print_completions::<Cli>(shell, "registrar"),
            Command::Man { command } => help::print_manual::<Cli>(command.as_deref(), "registrar"),
            Command::List(options) => print(command::list(options).await),
            Command::Watch(options) => print(command::watch(options, print_line).await),
            Command::Show(options) => print(command::show(options).await),
            Command::Explain(options) => print(command::explain(options).await),
            Command::Drain(options) => print(command::drain(options).await),
            Command::Resume(options) => print(command::resume(options).await),
            Command::Weight(options) => print(command::weight(options).await),
            Command::Wait(options) => print(command::wait(options).await),
        }
    });
    // A name that is still being looked up must not hold up the end.
    runtime.shutdown_background();
    code
}

async fn run(options: &RunOptions) -> ExitCode {
    let config = match config::load(options) {
        Ok(config) => config,
        Err(error) => return failed(exit::CONFIG, &error),
    };
    if let Err(error) = options.log.start() {
        return failed(exit::CONFIG, &error);
    }
    // Before anything is started: as process 1 there are no default actions, and an early TERM would be lost.
    let requests = match supervise::requests() {
        Ok(requests) => requests,
        Err(error) => return failed(exit::FAILED, &format!("cannot take over the signals: {error}")),
    };
    match registrar::run(config, requests).await {
        Ok(code) => code.into(),
        Err(error) => failed(error.exit_code(), &error),
    }
}

async fn probe(options: &ProbeOptions) -> ExitCode {
    let outcome = proto::health::probe(&options.addr, &options.service, options.timeout, &options.tls).await;
    let code = outcome.exit_code();
    if code == 0 {
        return CommandOutput::done(format!("{outcome}\n")).print();
    }
    let _ = writeln!(io::stderr(), "{outcome}");
    code.into()
}

fn print(output: Result<CommandOutput, CommandError>) -> ExitCode {
    match output {
        Ok(output) => output.print(),
        Err(error) => failed(error.exit_code(), &error),
    }
}

/// Returns false once the reader has gone.
fn print_line(line: &str) -> bool {
    writeln!(io::stdout(), "{line}").is_ok()
}
