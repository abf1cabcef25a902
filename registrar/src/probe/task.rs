//! Checks the app again and again, one check at a time.

use std::net::SocketAddr;

use registry::backoff::Backoff;
use registry::time::Clock;
use tokio::sync::watch;

use super::health::{Health, Verdict};
use super::{AppHealth, Check, ProbeConfig, exec, grpc, http, tcp};
use crate::supervise::Processes;

/// Watches the app at `target` for as long as it is polled; the first check is made at once, and the next one
/// waits for the one before: they cannot pile up. `seed` spreads the checks of many registrars.
pub async fn watch(
    config: ProbeConfig,
    target: SocketAddr,
    seed: u64,
    processes: Processes,
    publish: watch::Sender<AppHealth>,
) {
    if config.check == Check::None {
        publish.send_replace(AppHealth::Up(target));
        return std::future::pending().await;
    }
    let clock = Clock;
    let mut health = Health::new(config.rise, config.fall);
    let mut spread = Backoff::new(config.interval, config.interval, seed);
    loop {
        let begun = clock.now();
        let outcome = match &config.check {
            Check::Exec(script) => exec::perform(&processes, script, target, config.timeout).await,
            _ => performed(&config, target).await,
        };
        match health.step(outcome) {
            Some(Verdict::NotYet(cause)) => {
                publish.send_replace(AppHealth::NotYet(cause));
            }
            Some(Verdict::Up) => {
                publish.send_replace(AppHealth::Up(target));
            }
            Some(Verdict::Down(cause)) => {
                publish.send_replace(AppHealth::Down(cause));
            }
            None => {}
        }
        // Counted from the beginning, so that slow checks are not also rare ones; a check that took longer than
        // the pause is followed by the next at once.
        let pause = spread.jittered(health.pause(config.interval));
        clock.until(Some(begun.plus(pause))).await;
    }
}

/// One check of `target` over the network, within its time; a failure says what was seen. (A command is a process, and run
/// by [`watch`], which has somebody to wait for it.)
pub async fn performed(config: &ProbeConfig, target: SocketAddr) -> Result<(), String> {
    let check = async {
        match &config.check {
            Check::Http(path) => http::perform(target, path).await,
            Check::Tcp => tcp::perform(target).await,
            Check::Grpc(service) => grpc::perform(target, service, config.timeout).await,
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
#[path = "task_tests.rs"]
mod tests;
