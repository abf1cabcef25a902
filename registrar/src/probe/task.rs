//! Checks the app again and again, one check at a time.

use std::net::SocketAddr;
use std::pin::pin;

use registry::backoff::Backoff;
use registry::time::{Clock, Tick};
use tokio::sync::watch;

use super::health::{Health, Verdict};
use super::{Check, ProbeConfig, exec, grpc, http, tcp};
use crate::supervise::{AppLife, Processes};
use leasehold::AppHealth;

/// What a watch works with.
struct Watch {
    config: ProbeConfig,
    target: SocketAddr,
    processes: Processes,
    health: Health,
    /// What is known of the app's process.
    life: watch::Receiver<AppLife>,
    starts: u32,
    publish: watch::Sender<AppHealth>,
}

/// Watches the app at `target` for as long as it is polled; the first check is made at once, and the next one
/// waits for the one before: they cannot pile up. That the app has ended is told by `life`, and no check needed for it.
/// `seed` spreads the checks of many registrars.
pub async fn watch(
    config: ProbeConfig,
    target: SocketAddr,
    seed: u64,
    processes: Processes,
    life: watch::Receiver<AppLife>,
    publish: watch::Sender<AppHealth>,
) {
    let clock = Clock;
    let mut spread = Backoff::new(config.interval, config.interval, seed);
    // Without a check the app is well as soon as it is there.
    let rise = if config.check == Check::None { 1 } else { config.rise };
    let health = Health::new(rise, config.fall, clock.now().plus(config.start_grace));
    let starts = life.borrow().starts;
    let mut watch = Watch { config, target, processes, health, life, starts, publish };
    loop {
        let begun = clock.now();
        if watch.has_ended() {
            changed(&mut watch.life).await;
            continue;
        }
        watch.check().await;
        // Counted from the beginning, so that slow checks are not also rare ones; a check that took longer than
        // the pause is followed by the next at once.
        let pause = spread.jittered(watch.health.pause(watch.config.interval));
        watch.pause(begun.plus(pause)).await;
    }
}

impl Watch {
    /// Takes in how the app's process is: whether it has ended and was not started again.
    fn has_ended(&mut self) -> bool {
        let life = *self.life.borrow_and_update();
        let news = life.ended.is_some() || life.starts != self.starts;
        self.starts = life.starts;
        if news {
            let cause = life.ended.map_or_else(|| "it was started again".into(), |exit| exit.to_string());
            self.tell(|health| health.ended(format!("the app {cause}")));
        }
        life.ended.is_some()
    }

    /// One check. If the app ends meanwhile that is told at once; the check is waited for all the same, and not counted.
    async fn check(&mut self) {
        let (config, target, processes) = (self.config.clone(), self.target, self.processes.clone());
        let mut check = pin!(async move {
            match &config.check {
                Check::Exec(script) => exec::perform(&processes, script, target, config.timeout).await,
                _ => performed(&config, target).await,
            }
        });
        tokio::select! {
            biased;
            () = changed(&mut self.life) => {
                self.has_ended();
                let _ = check.await;
            }
            outcome = &mut check => self.tell(|health| health.step(Clock.now(), outcome)),
        }
    }

    /// Until the next check is due, or the app's process has news.
    async fn pause(&mut self, until: Tick) {
        tokio::select! {
            () = Clock.until(Some(until)) => {}
            () = changed(&mut self.life) => self.life.mark_changed(),
        }
    }

    fn tell(&mut self, step: impl FnOnce(&mut Health) -> Option<Verdict>) {
        let Some(verdict) = step(&mut self.health) else { return };
        self.publish.send_replace(match verdict {
            Verdict::NotYet(cause) => AppHealth::NotYet(cause),
            Verdict::Up => AppHealth::Up(self.target),
            Verdict::Down(cause) => AppHealth::Down(cause),
        });
    }
}

/// Returns when there is news of the app's process; never, where nobody tells any.
async fn changed(life: &mut watch::Receiver<AppLife>) {
    if life.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// One check of `target` over the network, within its time; a failure says what was seen. (A command is a process, and run
/// by [`watch`], which has somebody to wait for it.)
pub async fn performed(config: &ProbeConfig, target: SocketAddr) -> Result<(), String> {
    let check = async {
        match &config.check {
            Check::Http { path, tls } => {
                let tls = config.tls.as_ref().filter(|_| *tls);
                http::perform(target, path, &config.expected, tls).await
            }
            Check::Tcp => tcp::perform(target).await,
            Check::Grpc { service, tls } => {
                let tls = config.tls.as_ref().filter(|_| *tls);
                grpc::perform(target, service, tls, config.timeout).await
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
#[path = "task_tests.rs"]
mod tests;
