//! What it costs HAProxy to keep clients with their instance: the same requests through one that does, by the rules of
//! docs/records.md, and through one that does not, in turns.

use std::fs;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::value_parser;
use serde_json::{Value, json};
use testkit::haproxy::{HaProxy, Layout};
use testkit::home::Home;
use testkit::port::{Ports, loopback};
use testkit::program;

use crate::machine;
use crate::process::processor;
use crate::scale::{Crowd, add_all};
use crate::screen::say;
use crate::table::{Rows, ratio};

/// The service.
const SERVICE: &str = "web";
/// Connections of the clients: enough to keep both cores busy.
const CONNECTIONS: u32 = 32;
/// Longest that a round may take beyond its time.
const OVERTIME_MAX: Duration = Duration::from_secs(30);

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Plan {
    /// How many servers; several numbers are measured one after the other.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 1_000, 10_000],
          value_parser = value_parser!(u32).range(1..=50_000))]
    servers: Vec<u32>,
    /// How often each is measured.
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each time, in seconds.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=600))]
    seconds: u32,
}

/// One of the two.
struct Way {
    home: Arc<Home>,
    haproxy: HaProxy,
    seen: Vec<Round>,
}

/// What one round has shown.
#[derive(Clone, Copy, Debug)]
struct Round {
    per_s: f64,
    /// HAProxy's processor time for each request, in microseconds.
    processor_us: f64,
}

/// Measures and prints.
pub(crate) async fn run(plan: Plan) -> Result<Value> {
    let about = machine::describe()?;
    say(&about);
    let columns = ["by name", "none", "ratio", "by name", "none", "ratio"];
    let mut rows = Rows::new("servers; HAProxy's processor each", &columns);
    let mut sizes = Vec::new();
    for servers in &plan.servers {
        let (with, without) = Box::pin(measure(&plan, *servers)).await?;
        let rates = [with.per_s, without.per_s].map(|rate| format!("{rate:.0}/s"));
        let costs = [with.processor_us, without.processor_us].map(|us| format!("{us:.1} µs"));
        let [rate, rate_without] = rates;
        let [cost, cost_without] = costs;
        let rates_ratio = ratio(with.per_s, without.per_s);
        let costs_ratio = ratio(with.processor_us, without.processor_us);
        rows.push(&servers.to_string(), [rate, rate_without, rates_ratio, cost, cost_without, costs_ratio]);
        let one = |round: Round| json!({ "per_s": round.per_s, "haproxy_us": round.processor_us });
        sizes.push(json!({ "servers": servers, "by_name": one(with), "none": one(without) }));
    }
    say("");
    say(rows);
    Ok(
        json!({ "on": machine::lines(&about), "connections": CONNECTIONS, "rounds": plan.rounds, "sizes": sizes }),
    )
}

/// The median round with the affinity, and without.
async fn measure(plan: &Plan, servers: u32) -> Result<(Round, Round)> {
    let ports = Ports::claim()?;
    let crowd = Crowd::start(&ports, 1).await?;
    let mut with = Way::start(&ports, &crowd, servers, true).await?;
    let mut without = Way::start(&ports, &crowd, servers, false).await?;
    // One that does not count: connections are made.
    with.round(plan, servers).await?;
    without.round(plan, servers).await?;
    (with.seen, without.seen) = (vec![], vec![]);
    for n in 0..plan.rounds {
        if n % 2 == 0 {
            with.round(plan, servers).await?;
            without.round(plan, servers).await?;
        } else {
            without.round(plan, servers).await?;
            with.round(plan, servers).await?;
        }
    }
    Ok((with.median(), without.median()))
}

impl Way {
    async fn start(ports: &Ports, crowd: &Crowd, servers: u32, affinity: bool) -> Result<Self> {
        let home = Arc::new(Home::new()?);
        let layout = Layout {
            socket: home.join("haproxy.sock"),
            traffic_port: ports.free()?,
            stats_port: ports.free()?,
            services: vec![SERVICE.into()],
            affinity,
            balance: "roundrobin",
            sections: None,
            master: None,
        };
        let haproxy = HaProxy::launch(&home, layout).await?;
        add_all(&haproxy, crowd, 0..servers, false).await?;
        // Each request is some server's client: of all of them in turns, in steps that leave none out.
        let script = format!(
            "local n = 0\n\
             request = function()\n  \
               n = n + 7919\n  \
               return wrk.format('GET', '/', {{['Host'] = '{SERVICE}', ['Cookie'] = 'LBI=web-' .. n % {servers}}})\n\
             end\n"
        );
        fs::write(home.join("clients.lua"), script)?;
        Ok(Self { home, haproxy, seen: vec![] })
    }

    async fn round(&mut self, plan: &Plan, servers: u32) -> Result<()> {
        let pid = self.haproxy.daemon().process()?.pid();
        let used = processor(pid)?;
        let mut wrk = tokio::process::Command::new(program::system("wrk")?);
        let target = format!("http://{}/", loopback(self.haproxy.layout().traffic_port));
        wrk.args(["-t", "1", "-c", &CONNECTIONS.to_string(), "-d", &format!("{}s", plan.seconds), "-s"]);
        wrk.arg(self.home.join("clients.lua")).arg(target).stdin(Stdio::null()).kill_on_drop(true);
        let bound = Duration::from_secs(plan.seconds.into()) + OVERTIME_MAX;
        let output = tokio::time::timeout(bound, wrk.output()).await.context("wrk does not end")??;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "wrk: {}", String::from_utf8_lossy(&output.stderr));
        let failed = text.lines().find(|line| line.contains("Non-2xx") || line.contains("Socket errors"));
        ensure!(failed.is_none(), "{servers} servers: {}", failed.unwrap_or_default().trim());
        let used = processor(pid)?.saturating_sub(used);
        let per_s = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok());
        let count =
            text.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse::<f64>().ok());
        let (per_s, count) = (per_s.context("wrk names no rate")?, count.context("wrk names no count")?);
        self.seen.push(Round { per_s, processor_us: 1e6 * used.as_secs_f64() / count });
        Ok(())
    }

    fn median(&self) -> Round {
        let of = |figure: fn(&Round) -> f64| {
            let mut figures: Vec<f64> = self.seen.iter().map(figure).collect();
            figures.sort_by(f64::total_cmp);
            figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
        };
        Round { per_s: of(|round| round.per_s), processor_us: of(|round| round.processor_us) }
    }
}
