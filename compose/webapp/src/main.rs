//! The demo app of the lab: says who served the request, how often the visitor has been there, and can be slowed down.

mod app;
mod delay;
mod host;
mod serve;
mod session;
#[cfg(test)]
mod tests;

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::serve::{Ended, FINISH_MAX};

/// The demo app of the lab: `GET /` says who served it, `POST /delay {"delay": MS}` slows it down, `HEAD /` is its health check.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Args {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, value_name = "ADDR:PORT", env = "WEBAPP_LISTEN", default_value = "0.0.0.0:3000")]
    listen: SocketAddr,
    /// What to answer in the field `tag`.
    #[arg(long, env = "TAG", default_value = "")]
    tag: String,
    /// Print a line for each request.
    #[arg(long, env = "WEBAPP_LOG_REQUESTS")]
    log_requests: bool,
}

/// One thread: the app is as small as its work, and a host runs many of it.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let (text, code) = match start(Args::parse()).await {
        Ok(Ended::Finished) => return ExitCode::SUCCESS,
        Ok(Ended::CutOff) => {
            let text = format!("warning: requests still in flight after {FINISH_MAX:?} were cut off");
            (text, ExitCode::SUCCESS)
        }
        Err(error) => (format!("error: {error:#}"), ExitCode::FAILURE),
    };
    // With standard error closed there is no reader; the exit code says it too.
    let _ = writeln!(io::stderr(), "{text}");
    code
}

async fn start(args: Args) -> Result<Ended> {
    // Before anything else: as PID 1 there are no default actions, and an early TERM would be lost.
    let shutdown = shutdown()?;
    let listener = serve::listen(args.listen).await?;
    let addr = listener.local_addr().context("the listening socket has no address")?;
    // As above: an app without a reader of its output still serves.
    let _ = writeln!(io::stdout(), "webapp listens on {addr}");
    serve::run(listener, app::router(host::name(), args.tag, args.log_requests), shutdown, FINISH_MAX).await
}

/// Ends with the first TERM or INT.
fn shutdown() -> Result<impl Future<Output = ()> + Send + 'static> {
    let mut term = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}
