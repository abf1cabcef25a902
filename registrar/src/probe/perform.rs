//! Performs one check.

use std::net::SocketAddr;

use super::{Check, CheckTls, ProbeConfig, exec, grpc, http, tcp};
use crate::supervise::Processes;

/// Checks `target` once, within the timeout of `config`. A failure says what was seen. `tls` is for checks over TLS,
/// `processes` runs the command of an exec check.
pub async fn perform(
    config: &ProbeConfig,
    tls: Option<&CheckTls>,
    target: SocketAddr,
    processes: &Processes,
) -> Result<(), String> {
    match &config.check {
        Check::Exec(script) => exec::perform(processes, script, target, config.timeout).await,
        _ => over_network(config, tls, target).await,
    }
}

async fn over_network(
    config: &ProbeConfig,
    tls: Option<&CheckTls>,
    target: SocketAddr,
) -> Result<(), String> {
    let check = async {
        match &config.check {
            Check::Http { path, tls: over_tls } => {
                http::perform(target, path, &config.expected, tls.filter(|_| *over_tls)).await
            }
            Check::Tcp => tcp::perform(target).await,
            Check::Grpc { service, tls: over_tls } => {
                grpc::perform(target, service, tls.filter(|_| *over_tls), config.timeout).await
            }
            Check::None | Check::Exec(_) => Ok(()),
        }
    };
    let outcome = tokio::time::timeout(config.timeout, check).await;
    outcome.unwrap_or_else(|_| {
        let max = humantime::format_duration(config.timeout);
        Err(format!("{} at {target} did not answer within {max}", config.check))
    })
}

#[cfg(test)]
#[path = "perform_tests.rs"]
mod tests;
