//! The tour of the lab in containers: its questions, answered under load. `docs/lab.md` tells the same story in words.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use testkit::haproxy::Seen;
use testkit::load::{self, Load, Report};
use testkit::{Clock, PerSecond as _};

use crate::compose::{Compose, SERVICE, Webapp, run, webapps};
use crate::screen::say;

/// Requests a second, from this many clients that keep their cookies.
const RATE: u32 = 200;
const CLIENTS: usize = 40;
/// How long a step's load goes on after its deed, so that what it did to clients is seen.
const AFTER: Duration = Duration::from_secs(3);
/// Where the picture of the stats page goes.
const PICTURE: &str = "target/lab-stats.png";

/// The tour under way.
struct Tour {
    lab: Compose,
    load: Load,
    /// What was not as it should be.
    broken: Vec<String>,
}

/// What a step may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Price {
    /// Nothing.
    Nothing,
    /// The only balancer is away for a moment.
    NoBalancer,
}

/// Plays it. An error says what did not go as it should.
pub(crate) async fn play(file: &str) -> Result<()> {
    let lab = Compose::find(file)?;
    say("starting etcd, a balancer and three webapps\n");
    lab.scale(3)?;
    lab.until("three webapps", |seen| up(seen) == 3).await?;
    let plan = load::Plan {
        target: lab.traffic()?,
        path: "/".into(),
        service: SERVICE.into(),
        rate: RATE.per_second(),
        sticky_clients: CLIENTS,
    };
    let mut tour = Tour { lab, load: Load::start(plan)?, broken: vec![] };
    say(format_args!("{RATE} requests a second by {CLIENTS} clients with sessions, from here on"));
    tour.settle().await;
    tour.play().await?;
    let report = tour.load.stop().await;
    say(format_args!("\n{} requests in all", report.sent));
    if tour.broken.is_empty() { Ok(()) } else { bail!("not as it should be: {}", tour.broken.join("; ")) }
}

impl Tour {
    async fn play(&mut self) -> Result<()> {
        self.grows().await?;
        self.shows()?;
        self.crashes().await?;
        self.drains().await?;
        self.is_replaced().await?;
        self.slows_down().await?;
        self.grows_and_shrinks().await?;
        self.loses_its_balancer().await?;
        self.forwards_its_logs()
    }

    /// M2, M3, M4, M6.
    async fn grows(&mut self) -> Result<()> {
        begins("M2, M3, M4, M6", "add two nodes: --scale webapp=5, and nothing else");
        let (before, start) = (self.load.so_far(), Clock.now());
        let pid = self.lab.seen().await?.pid;
        self.lab.scale(5)?;
        let seen = self.lab.until("five webapps", |seen| up(seen) == 5).await?;
        ensure!(seen.pid == pid, "HAProxy was restarted");
        say(format_args!(
            "   {}, by the same HAProxy process, {:.1?} after the command",
            names(&seen),
            Clock.now().since(start)
        ));
        self.ends(&before, Price::Nothing, &[]).await;
        Ok(())
    }

    /// M1.
    async fn crashes(&mut self) -> Result<()> {
        begins("M1", "a node is killed, and started again");
        let (before, victim) = (self.load.so_far(), victim()?);
        run(&["docker", "kill", &victim.id])?;
        self.lab.until("four webapps", |seen| up(seen) == 4).await?;
        run(&["docker", "start", &victim.id])?;
        let seen = self.lab.until("five webapps", |seen| up(seen) == 5).await?;
        say(format_args!("   {}: it has its name, and its clients their cookie", names(&seen)));
        self.ends(&before, Price::Nothing, &[victim]).await;
        Ok(())
    }

    /// The lab before: drain, maint, ready.
    async fn drains(&mut self) -> Result<()> {
        begins("drain", "an operator drains webapp-2, and takes that back");
        let before = self.load.so_far();
        let drained = self.address_of("webapp-2").await?;
        self.registrar(&["drain", "webapp/webapp-2", "--reason", "the tour"])?;
        self.registrar(&["wait", "webapp/webapp-2", "--for", "drained", "--timeout", "60s"])?;
        say(format_args!("   {}", names(&self.lab.seen().await?)));
        self.registrar(&["resume", "webapp/webapp-2"])?;
        self.registrar(&["wait", "webapp/webapp-2", "--for", "serving", "--timeout", "60s"])?;
        say(format_args!("   {}", names(&self.lab.seen().await?)));
        self.ends(&before, Price::Nothing, &[drained]).await;
        Ok(())
    }

    /// M1.
    async fn is_replaced(&mut self) -> Result<()> {
        begins("M1", "a node is replaced: docker stop, docker rm, a new container");
        let (before, victim) = (self.load.so_far(), victim()?);
        run(&["docker", "stop", "-t", "60", &victim.id])?;
        run(&["docker", "rm", &victim.id])?;
        self.lab.until("four webapps", |seen| up(seen) == 4).await?;
        self.lab.scale(5)?;
        let seen = self.lab.until("five webapps", |seen| up(seen) == 5).await?;
        say(format_args!("   {}: the new one has the name that was free", names(&seen)));
        self.ends(&before, Price::Nothing, &[victim]).await;
        Ok(())
    }

    /// The lab before: a node that is slow.
    async fn slows_down(&mut self) -> Result<()> {
        begins("delay", "webapp-1 answers after 250 ms: new clients go elsewhere (leastconn)");
        let before = self.load.so_far();
        let slow = self.address_of("webapp-1").await?;
        delay(&slow, 250)?;
        tokio::time::sleep(AFTER).await;
        let now = self.load.so_far();
        let served = |ip: &str| now.served(ip) - before.served(ip);
        say(format_args!("   it served {} of {} requests", served(&slow.ip), now.ok - before.ok));
        delay(&slow, 0)?;
        self.ends(&before, Price::Nothing, &[]).await;
        Ok(())
    }

    /// M3, M4.
    async fn grows_and_shrinks(&mut self) -> Result<()> {
        begins("M3, M4", "many nodes: --scale webapp=20, then --scale webapp=3");
        let (before, had) = (self.load.so_far(), webapps()?);
        self.lab.scale(20)?;
        let seen = self.lab.until("twenty webapps", |seen| up(seen) == 20).await?;
        say(format_args!("   {}", names(&seen)));
        self.settle().await;
        let many = webapps()?;
        self.lab.scale(3)?;
        let seen = self.lab.until("three webapps", |seen| up(seen) == 3).await?;
        let have = webapps()?;
        let stays = |one: &Webapp| have.iter().any(|other| other.ip == one.ip);
        let left: Vec<_> = had.into_iter().chain(many).filter(|one| !stays(one)).collect();
        say(format_args!("   {}", names(&seen)));
        self.ends(&before, Price::Nothing, &left).await;
        Ok(())
    }

    /// The balancer, which the lab has only one of.
    async fn loses_its_balancer(&mut self) -> Result<()> {
        begins("balancer", "the only balancer is stopped and started");
        let before = self.load.so_far();
        self.lab.compose(&["stop", "-t", "20", "ha"])?;
        self.lab.compose(&["start", "ha"])?;
        let seen = self.lab.until("three webapps", |seen| up(seen) == 3).await?;
        say(format_args!("   {}: it started with its members, from its files", names(&seen)));
        self.ends(&before, Price::NoBalancer, &[]).await;
        Ok(())
    }

    /// M5.
    fn forwards_its_logs(&self) -> Result<()> {
        begins(
            "M5",
            "each webapp's log forwarder, a process beside the app, has brought its lines to a central place",
        );
        let central =
            "wc -l /var/log/central/*.log | tail -n 1; tail -q -n 1 /var/log/central/*.log | tail -n 2";
        let told = self.lab.compose(&["exec", "-T", "ha", "sh", "-c", central])?;
        ensure!(told.contains("\"process\":\"app\""), "no lines in the central place: {told}");
        told.lines().for_each(|line| say(format_args!("   {}", line.trim())));
        Ok(())
    }

    /// The stats page, as a picture where there is a browser.
    fn shows(&self) -> Result<()> {
        let url = format!("http://{}/", self.lab.stats()?);
        begins("0", &format!("the stats page: {url}"));
        let picture = Path::new(PICTURE);
        if let Some(folder) = picture.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let shot = format!("--screenshot={PICTURE}");
        let shown = run(&[
            "chromium",
            "--headless",
            "--no-sandbox",
            "--hide-scrollbars",
            "--window-size=1600,700",
            &shot,
            &url,
        ]);
        match shown {
            Ok(_) => say(format_args!("   {PICTURE}")),
            Err(_) => say("   (no chromium here: no picture)"),
        }
        Ok(())
    }

    /// Says what the step has cost; clients of `gone` may have had to go elsewhere.
    async fn ends(&mut self, before: &Report, price: Price, gone: &[Webapp]) {
        self.settle().await;
        let now = self.load.so_far();
        let (sent, failed) = (now.sent - before.sent, now.failed - before.failed);
        let moves = now.moves.get(before.moves.len()..).unwrap_or_default();
        // Where each was at home when the step began: of those that had to go, wherever they went in the meantime.
        let mut homes = BTreeMap::new();
        for moved in moves {
            homes.entry(moved.client).or_insert(&moved.from);
        }
        let excused = |ip: &str| gone.iter().any(|one| one.ip == ip);
        let lost = homes.values().filter(|ip| !excused(ip)).count();
        say(format_args!("   {failed} of {sent} requests failed, {lost} sessions lost without need"));
        if price == Price::Nothing && failed > 0 {
            let first = now.failures.get(before.failures.len()).map(|failure| failure.what.clone());
            self.broken.push(format!("{failed} requests failed ({})", first.unwrap_or_default()));
        }
        if lost > 0 {
            self.broken.push(format!("{lost} sessions were lost"));
        }
    }

    async fn settle(&self) {
        tokio::time::sleep(AFTER).await;
    }

    async fn address_of(&self, name: &str) -> Result<Webapp> {
        let seen = self.lab.seen().await?;
        let server = seen.server(SERVICE, name).with_context(|| format!("there is no {name}"))?;
        let ip = server.addr.rsplit_once(':').map_or(server.addr.as_str(), |(ip, _)| ip);
        let found = webapps()?.into_iter().find(|one| one.ip == ip);
        found.with_context(|| format!("no container has the address {ip}"))
    }

    /// An operator's command, where any registrar is.
    fn registrar(&self, args: &[&str]) -> Result<()> {
        let told = self.lab.compose(&[&["exec", "-T", "ha", "registrar"], args].concat())?;
        told.lines().for_each(|line| say(format_args!("   $ registrar {}: {line}", args.join(" "))));
        Ok(())
    }
}

fn begins(question: &str, what: &str) {
    say(format_args!("\n[{question}] {what}"));
}

/// One of the webapps.
fn victim() -> Result<Webapp> {
    webapps()?.into_iter().next_back().context("there is no webapp")
}

fn delay(webapp: &Webapp, ms: u32) -> Result<()> {
    let body = format!("{{\"delay\": {ms}}}");
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/3000; printf 'POST /delay HTTP/1.0\\r\\nContent-Length: {}\\r\\n\\r\\n{body}' >&3; head -n 1 <&3",
        body.len()
    );
    let told = run(&["docker", "exec", &webapp.id, "bash", "-c", &script])?;
    ensure!(told.contains("200"), "the app refused the delay: {told}");
    Ok(())
}

fn up(seen: &Seen) -> usize {
    seen.up(SERVICE).len()
}

fn names(seen: &Seen) -> String {
    let word = |name: &str| {
        let server = seen.server(SERVICE, name)?;
        Some(if server.is_up() { name.to_owned() } else { format!("{name} ({})", server.status) })
    };
    seen.servers(SERVICE).into_iter().filter_map(word).collect::<Vec<_>>().join(", ")
}
