//! The tour: everything that happens to a node in the lab, under load, unattended.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use testkit::haproxy::Seen;
use testkit::load::{Load, Report};
use testkit::stack::SEEN_MAX;
use testkit::{Clock, PerSecond as _, wait};

use crate::lab::{APPS, Lab, SERVICE, name_of};
use crate::screen::say;

/// Requests a second: what two cores serve with ease beside everything else.
const RATE: u32 = 200;
/// Longest the tour may take.
const TOUR_MAX: Duration = Duration::from_mins(1);
/// Requests that each app serves between two steps: HAProxy's word is one thing, traffic another.
const SERVED_EACH: u64 = 25;

/// A step that has been taken, as it is counted.
struct Tour<'l> {
    lab: &'l Lab,
    load: Load,
    steps: u32,
}

/// Plays it. An error says what did not go as it should.
pub(crate) async fn play(lab: &Lab) -> Result<()> {
    let played = tokio::time::timeout(TOUR_MAX, Box::pin(steps(lab))).await;
    played.with_context(|| format!("the tour was not over within {TOUR_MAX:?}"))?
}

async fn steps(lab: &Lab) -> Result<()> {
    let before = lab.stack.haproxy().seen().await?;
    say(format_args!(
        "{APPS} apps serve at http://127.0.0.1:{}/, {RATE} requests a second from here on",
        lab.stack.haproxy().layout().traffic_port
    ));
    let mut tour = Tour { lab, load: lab.stack.start_load(SERVICE, RATE.per_second(), 0)?, steps: 0 };
    tour.all_serve(&[1, 2, 3]).await?;
    tour.step("a fourth app starts: web-4", joins(lab), &[1, 2, 3, 4]).await?;
    tour.step("web-2 is restarted at another port, under its name", moves(lab), &[1, 2, 3, 4]).await?;
    tour.step("web-3 is told to stop (TERM) and drains", leaves(lab), &[1, 2, 4]).await?;
    tour.step("web-1 dies with its registrar (kill -9)", dies(lab), &[2, 4]).await?;
    let report = tour.load.stop().await;
    conclude(&before, &lab.stack.haproxy().seen().await?, &report)
}

async fn joins(lab: &Lab) -> Result<()> {
    lab.launch(4, 4)?;
    let name = name_of(4);
    lab.until("web-4 up in HAProxy", |seen| seen.up(SERVICE).contains(&&*name)).await?;
    Ok(())
}

async fn moves(lab: &Lab) -> Result<()> {
    lab.app(2)?.terminate().await?;
    lab.launch(2, 5)?;
    let (name, port) = (name_of(2), lab.app_port(5));
    let there = |seen: &Seen| seen.server(SERVICE, &name).is_some_and(|it| it.is_up() && it.port() == port);
    lab.until("web-2 up in HAProxy at its new port", there).await?;
    Ok(())
}

async fn leaves(lab: &Lab) -> Result<()> {
    lab.app(3)?.terminate().await?;
    is_gone(lab, 3).await
}

async fn dies(lab: &Lab) -> Result<()> {
    lab.app(1)?.kill_hard().await?;
    is_gone(lab, 1).await
}

async fn is_gone(lab: &Lab, n: u16) -> Result<()> {
    let name = name_of(n);
    let gone = |seen: &Seen| seen.server(SERVICE, &name).is_none();
    lab.until(&format!("{name} gone from HAProxy"), gone).await?;
    Ok(())
}

impl Tour<'_> {
    /// Takes a step, waits until the apps `then` serve, and says what was seen.
    async fn step(
        &mut self,
        title: &str,
        deed: impl Future<Output = Result<()>>,
        then: &[u16],
    ) -> Result<()> {
        self.steps += 1;
        say(format_args!("\n{}. {title}", self.steps));
        let (count, servers) = (self.load.so_far(), self.servers().await?);
        say(format_args!("   before   {servers}"));
        let start = Clock.now();
        deed.await?;
        let took = Clock.now().since(start);
        self.all_serve(then).await?;
        say(format_args!("   after    {}", self.servers().await?));
        let now = self.load.so_far();
        let (sent, failed) = (now.sent - count.sent, now.failed - count.failed);
        say(format_args!("   done in {took:.2?}; {failed} failed of {sent} requests in this step"));
        Ok(())
    }

    /// Waits until each of `apps`, and no other, has got its share of the traffic.
    async fn all_serve(&self, apps: &[u16]) -> Result<()> {
        let names: Vec<String> = apps.iter().map(|n| name_of(*n)).collect();
        self.lab.until("the right servers up in HAProxy", |seen| seen.up(SERVICE) == names).await?;
        let before: Vec<u64> = names.iter().map(|name| self.load.served(name)).collect();
        let enough =
            || names.iter().zip(&before).all(|(name, served)| self.load.served(name) >= served + SERVED_EACH);
        let what = format!("requests served by each of {names:?}");
        wait::until(SEEN_MAX, what, async || Ok(enough().then_some(()))).await?;
        Ok(())
    }

    /// All servers as HAProxy reports them at this moment.
    async fn servers(&self) -> Result<String> {
        let seen = self.lab.stack.haproxy().seen().await?;
        let word = |name: &str| {
            let server = seen.server(SERVICE, name)?;
            let state = if server.is_up() { String::new() } else { format!(" {}", server.status) };
            Some(format!("{name}:{}{state}", server.port()))
        };
        let words: Vec<String> = seen.servers(SERVICE).into_iter().filter_map(word).collect();
        Ok(words.join("  "))
    }
}

/// The last lines: what failed, and whether HAProxy is still the process that it was.
fn conclude(before: &Seen, after: &Seen, report: &Report) -> Result<()> {
    let Report { served_by, p50, p99, max, .. } = report;
    say(format_args!(
        "\nserved by {served_by:?}\nhalf within {p50:.1?}, 99 of 100 within {p99:.1?}, all within {max:.1?}"
    ));
    if after.pid != before.pid {
        bail!("HAProxy was process {} and is now {}: it has been reloaded", before.pid, after.pid);
    }
    if report.failed > 0 {
        bail!("{report}");
    }
    say(format_args!(
        "\n0 failed of {} requests\n0 reloads (HAProxy is process {} as before)",
        report.sent, after.pid
    ));
    Ok(())
}
