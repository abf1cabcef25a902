//! A steady load over HTTP that counts what its clients would have noticed.
//!
//! The rate is held whatever the answers do (an open loop), so that a stall is seen in full. The generator has a
//! thread of its own: what a scenario does at the same time does not slow it down.

mod client;
mod report;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use registry::time::{Clock, Tick};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use report::{Failure, Hit, Move, Report};

use client::Client;
use report::Log;

/// Most requests in flight at a time; one that comes due above that fails, for its client would not wait for us.
const IN_FLIGHT_MAX: usize = 1_000;
/// Longest wait for the requests in flight when the load stops: they have their own bound, and this is above it.
const STOP_MAX: Duration = Duration::from_secs(30);

/// Requests in a span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    per_second: u32,
}

/// `500.per_second()`
pub trait PerSecond {
    /// So many requests a second.
    fn per_second(self) -> Rate;
}

impl PerSecond for u32 {
    fn per_second(self) -> Rate {
        Rate { per_second: self }
    }
}

/// What load to make.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where HAProxy takes traffic.
    pub target: SocketAddr,
    /// The service that is asked for.
    pub service: String,
    /// What of it.
    pub path: String,
    /// How often.
    pub rate: Rate,
    /// How many clients take turns, each with its own cookies; 0 for one that keeps none.
    pub sticky_clients: usize,
}

/// A running load. Dropped, it stops without a report.
#[derive(Debug)]
pub struct Load {
    log: Arc<Mutex<Log>>,
    stop: CancellationToken,
    ended: oneshot::Receiver<()>,
}

impl Load {
    /// Starts it.
    pub fn start(plan: Plan) -> Result<Self> {
        let log = Arc::new(Mutex::new(Log::new(plan.sticky_clients)));
        let stop = CancellationToken::new();
        let (end, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start a runtime for the load")?;
        let (its_log, its_stop) = (Arc::clone(&log), stop.clone());
        let run = move || {
            runtime.block_on(run(plan, its_log, its_stop));
            // There is no receiver when the load was dropped.
            let _ = end.send(());
        };
        let thread = std::thread::Builder::new().name("load".into());
        thread.spawn(run).context("cannot start a thread for the load")?;
        Ok(Self { log, stop, ended })
    }

    /// What has been counted up to now.
    #[must_use]
    pub fn so_far(&self) -> Report {
        lock(&self.log).report()
    }

    /// How many `instance` has served up to now.
    #[must_use]
    pub fn served(&self, instance: &str) -> u64 {
        lock(&self.log).served_by(instance)
    }

    /// Stops it, waits for the requests in flight, and says how it went.
    pub async fn stop(mut self) -> Report {
        self.stop.cancel();
        // Its thread sends at its end or drops the other side; a request that hangs has failed by its own bound.
        let _ = tokio::time::timeout(STOP_MAX, &mut self.ended).await;
        self.so_far()
    }
}

impl Drop for Load {
    #[expect(
        clippy::print_stderr,
        reason = "a failed test shows its load, and libtest captures this way only"
    )]
    fn drop(&mut self) {
        self.stop.cancel();
        if std::thread::panicking() {
            eprintln!("---- the load: {}", self.so_far());
        }
    }
}

async fn run(plan: Plan, log: Arc<Mutex<Log>>, stop: CancellationToken) {
    let client = Arc::new(Client::new(&plan));
    let start = Clock.now();
    let mut in_flight = JoinSet::new();
    for n in 0_u64.. {
        let due = start.plus(due_after(plan.rate, n));
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = Clock.until(Some(due)) => {}
        }
        while in_flight.try_join_next().is_some() {}
        lock(&log).sent += 1;
        if in_flight.len() >= IN_FLIGHT_MAX {
            let what = format!("not sent: {IN_FLIGHT_MAX} requests wait for an answer");
            lock(&log).failed(Failure { due, at: Clock.now(), what });
            continue;
        }
        in_flight.spawn(request(n, due, Arc::clone(&client), Arc::clone(&log)));
    }
    while in_flight.join_next().await.is_some() {}
}

async fn request(n: u64, due: Tick, client: Arc<Client>, log: Arc<Mutex<Log>>) {
    let who = client.turn_of(n);
    let answer = client.ask(who).await;
    let at = Clock.now();
    match answer {
        Ok(by) => lock(&log).served(due, at, &by, who),
        Err(what) => lock(&log).failed(Failure { due, at, what }),
    }
}

fn due_after(rate: Rate, n: u64) -> Duration {
    let rate = u64::from(rate.per_second.max(1));
    Duration::from_micros(n.saturating_mul(1_000_000) / rate)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counters: a panic between two of them leaves nothing that a report could not be made of.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_due_at_the_rate_without_drift() {
        assert_eq!(due_after(300.per_second(), 1), Duration::from_micros(3_333));
        assert_eq!(due_after(300.per_second(), 900), Duration::from_secs(3));
    }
}
