//! What a thousand registrars and a few balancers cost at rest: their memory, their beats, all that etcd is asked, and what
//! that costs it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::value_parser;
use etcd_client::{Client, GetOptions};
use serde_json::{Value, json};
use testkit::etcd::Etcd;
use testkit::haproxy::{HaProxy, Layout};
use testkit::home::Home;
use testkit::port::Ports;
use testkit::process::Daemon;
use testkit::{Clock, PREFIX, http, program, wait};

use crate::machine;
use crate::process::{processor, share_kb, status_kb};
use crate::screen::say;
use crate::table::Rows;

/// The method of a beat.
const BEAT: &str = "LeaseKeepAlive";
/// The service.
const SERVICE: &str = "beats";
/// Registrars that are started at once: all at once, the machine would be busy with nothing but starting.
const TOGETHER: usize = 25;
/// Longest until all are registered.
const REGISTERED_MAX: Duration = Duration::from_mins(5);
/// Asked for in one request.
const KEYS_MAX: i64 = 10_000;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Plan {
    /// How many registrars, each with one lease.
    #[arg(long, default_value_t = 1_000, value_parser = value_parser!(u16).range(1..=5_000))]
    registrars: u16,
    /// How many balancers, each with a HAProxy that checks nothing.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u8).range(0..=20))]
    balancers: u8,
    /// How long, in seconds.
    #[arg(long, default_value_t = 600, value_parser = value_parser!(u64).range(10..=86_400))]
    seconds: u64,
    /// Their ttl, in seconds.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u64).range(2..=3_600))]
    ttl: u64,
}

/// Measures and prints; fails if a lease was lost.
pub(crate) async fn run(plan: Plan) -> Result<Value> {
    let about = machine::describe()?;
    say(&about);
    let home = Arc::new(Home::new()?);
    let ports = Ports::claim()?;
    let etcd = Etcd::launch(&home, &ports).await?;
    let begun = Clock.now();
    let registrars = start(&home, &etcd, &plan).await?;
    let balancers = Balancer::start_all(&ports, &etcd, &plan).await?;
    let leases = leases(&etcd, &plan).await?;
    say(format_args!(
        "{} registrars with a ttl of {} s, {} balancers, one etcd; all stood {:.1} s after the first was started",
        registrars.len(),
        plan.ttl,
        balancers.len(),
        Clock.now().since(begun).as_secs_f64(),
    ));
    let etcd_pid = etcd.daemon().process()?.pid();
    let before = (Clock.now(), processor(etcd_pid)?, asked(&etcd).await?, busy(&registrars)?);
    tokio::time::sleep(Duration::from_secs(plan.seconds)).await;
    let seconds = Clock.now().since(before.0).as_secs_f64();
    let of_etcd = processor(etcd_pid)?.saturating_sub(before.1).as_secs_f64() / seconds;
    let of_registrars = busy(&registrars)?.saturating_sub(before.3).as_secs_f64() / seconds;
    let asked = asked_since(&before.2, &asked(&etcd).await?, seconds);
    let (beats, all) = (asked.get(BEAT).copied().unwrap_or(0.0), asked.values().sum::<f64>());

    let after = self::leases(&etcd, &plan).await?;
    let replaced = leases.iter().filter(|(key, lease)| after.get(*key) != Some(lease)).count();
    let by_registrars = counted(&registrars, &home).await?;
    let mut rows = Rows::new(&format!("{seconds:.0} s"), &["figure"]);
    rows.push("asked of etcd a second, by its count", [format!("{all:.1}")]);
    for (method, per_s) in &asked {
        rows.push(&format!("  {method}"), [format!("{per_s:.1}")]);
    }
    rows.push("etcd: of one core", [format!("{:.1} %", 100.0 * of_etcd)]);
    rows.push("all registrars: of one core", [format!("{:.1} %", 100.0 * of_registrars)]);
    rows.push("late beats (half of the ttl gone)", [by_registrars.late.to_string()]);
    rows.push("leases lost, as told by the registrars", [by_registrars.lost.to_string()]);
    rows.push("leases replaced, as seen in etcd", [replaced.to_string()]);
    let memory = memory(&registrars, &mut rows)?;
    say(rows);
    ensure!(replaced == 0 && by_registrars.lost == 0, "a lease was lost");
    Ok(
        json!({ "on": machine::lines(&about), "registrars": registrars.len(), "ttl_s": plan.ttl, "seconds": seconds,
        "balancers": balancers.len(), "beats_per_s": beats, "asked_per_s": asked, "etcd_share": of_etcd, "registrars_share": of_registrars,
        "late": by_registrars.late, "lost": by_registrars.lost, "replaced": replaced, "memory_mb": memory }),
    )
}

/// A balancer of its own home.
struct Balancer {
    _haproxy: HaProxy,
    _lb_sync: Daemon,
}

impl Balancer {
    async fn start_all(ports: &Ports, etcd: &Etcd, plan: &Plan) -> Result<Vec<Self>> {
        let mut balancers = vec![];
        for n in 0..plan.balancers {
            balancers.push(Self::start(ports, etcd, n).await?);
        }
        let mut client = Box::pin(Client::connect([etcd.endpoint()], None)).await?;
        let wanted = usize::from(plan.balancers) * usize::from(plan.registrars);
        let all = async || {
            let options = GetOptions::new().with_prefix().with_count_only();
            let answer = client.get(format!("{PREFIX}/acks/"), Some(options)).await?;
            Ok((usize::try_from(answer.count())? == wanted).then_some(()))
        };
        wait::until(REGISTERED_MAX, format!("{wanted} acks"), all).await?;
        Ok(balancers)
    }

    async fn start(ports: &Ports, etcd: &Etcd, n: u8) -> Result<Self> {
        let home = Arc::new(Home::new()?);
        let layout = Layout {
            socket: home.join("haproxy.sock"),
            traffic_port: ports.free()?,
            stats_port: ports.free()?,
            services: vec![SERVICE.into()],
            affinity: false,
            balance: "roundrobin",
            sections: None,
            master: None,
        };
        let haproxy = HaProxy::launch(&home, layout).await?;
        let flags: [(&str, OsString); 7] = [
            ("--balancer", format!("lb-{n}").into()),
            ("--haproxy-socket", haproxy.socket().into()),
            ("--check-interval", "0s".into()),
            ("--state-dir", home.join("state").into()),
            ("--listen", "127.0.0.1:0".into()),
            ("--prefix", PREFIX.into()),
            ("--etcd-endpoints", etcd.endpoint().into()),
        ];
        let flags = flags.into_iter().flat_map(|(flag, value)| [OsString::from(flag), value]);
        let args = [OsString::from("run")].into_iter().chain(flags).collect();
        let lb_sync = Daemon::new(&home, "lb-sync", program::ours("lb-sync")?, args);
        lb_sync.start()?;
        Ok(Self { _haproxy: haproxy, _lb_sync: lb_sync })
    }
}

async fn start(home: &Arc<Home>, etcd: &Etcd, plan: &Plan) -> Result<Vec<Daemon>> {
    let binary = program::ours("registrar")?;
    let mut registrars = vec![];
    for n in 0..plan.registrars {
        let flags = [
            ("--service", SERVICE.to_owned()),
            ("--instance", format!("beats-{n}")),
            ("--port", "9".into()),
            // Each at its own address: two at one would be a conflict.
            ("--address", format!("127.1.{}.{}", n / 250, n % 250 + 1)),
            ("--check", "none".into()),
            ("--ttl", format!("{}s", plan.ttl)),
            ("--listen", "127.0.0.1:0".into()),
            ("--prefix", PREFIX.into()),
            ("--etcd-endpoints", etcd.endpoint()),
        ];
        let flags = flags.into_iter().flat_map(|(flag, value)| [OsString::from(flag), value.into()]);
        let args = [OsString::from("run")].into_iter().chain(flags).collect();
        let daemon = Daemon::new(home, &format!("beats-{n}"), binary.clone(), args);
        daemon.start()?;
        registrars.push(daemon);
        if registrars.len().is_multiple_of(TOGETHER) {
            registered(etcd, registrars.len()).await?;
        }
    }
    registered(etcd, registrars.len()).await?;
    Ok(registrars)
}

pub(crate) async fn registered(etcd: &Etcd, count: usize) -> Result<()> {
    let mut client = Box::pin(Client::connect([etcd.endpoint()], None)).await?;
    let all = async || {
        let options = GetOptions::new().with_prefix().with_count_only();
        let answer = client.get(format!("{PREFIX}/instances/"), Some(options)).await?;
        Ok((usize::try_from(answer.count())? == count).then_some(()))
    };
    wait::until(REGISTERED_MAX, format!("{count} registered"), all).await?;
    Ok(())
}

/// The lease of each key.
async fn leases(etcd: &Etcd, plan: &Plan) -> Result<BTreeMap<Vec<u8>, i64>> {
    let mut client = Box::pin(Client::connect([etcd.endpoint()], None)).await?;
    let options = GetOptions::new().with_prefix().with_limit(KEYS_MAX);
    let answer = client.get(format!("{PREFIX}/instances/"), Some(options)).await?;
    let leases: BTreeMap<_, _> = answer.kvs().iter().map(|kv| (kv.key().to_vec(), kv.lease())).collect();
    ensure!(leases.len() == usize::from(plan.registrars), "{} are registered", leases.len());
    Ok(leases)
}

/// How many messages etcd has received on keepalive streams.
pub(crate) async fn received(etcd: &Etcd) -> Result<f64> {
    asked(etcd).await?.remove(BEAT).context("etcd does not count beats")
}

/// How many messages etcd has received by each method: each call is one, and each message of a stream.
async fn asked(etcd: &Etcd) -> Result<BTreeMap<String, f64>> {
    let port = etcd.endpoint().rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    let (_, text) = http::get(port.context("etcd has no port")?, "/metrics").await?;
    let count = |line: &str| {
        let labels = line.strip_prefix("grpc_server_msg_received_total")?;
        let method = labels.split_once("grpc_method=\"")?.1.split_once('"')?.0;
        Some((method.to_owned(), labels.rsplit(' ').next()?.parse::<f64>().ok()?))
    };
    let mut asked = BTreeMap::new();
    // Several of etcd's services have a method of one name.
    for (method, count) in text.lines().filter_map(count) {
        *asked.entry(method).or_default() += count;
    }
    Ok(asked)
}

/// What was asked, a second.
fn asked_since(
    before: &BTreeMap<String, f64>,
    after: &BTreeMap<String, f64>,
    seconds: f64,
) -> BTreeMap<String, f64> {
    let since = |(method, count): (&String, &f64)| {
        let more = count - before.get(method).copied().unwrap_or(0.0);
        (more > 0.0).then(|| (method.clone(), more / seconds))
    };
    after.iter().filter_map(since).collect()
}

fn busy(registrars: &[Daemon]) -> Result<Duration> {
    registrars.iter().map(|daemon| processor(daemon.process()?.pid())).sum()
}

/// What the registrars have counted.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    late: u64,
    lost: u64,
}

async fn counted(registrars: &[Daemon], home: &Home) -> Result<Counted> {
    let mut before = Counted::default();
    for n in 0..registrars.len() {
        let log = fs::read_to_string(home.join(format!("beats-{n}.log")))?;
        let started =
            log.lines().find(|line| line.contains("registrar started")).context("it has not started")?;
        let started: Value = serde_json::from_str(started)?;
        let port = started["listen"].as_str().and_then(|listen| listen.rsplit_once(':')?.1.parse().ok());
        let (_, text) = http::get(port.context("it listens nowhere")?, "/metrics").await?;
        let value = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        before.late += value("leasehold_registrar_beats_late_total");
        before.lost += value("leasehold_registrar_leases_lost_total");
    }
    Ok(before)
}

/// Resident memory, and each one's share of what several have together (the program's own text).
fn memory(registrars: &[Daemon], rows: &mut Rows) -> Result<Value> {
    let (mut resident, mut share) = (vec![], vec![]);
    for daemon in registrars {
        let pid = daemon.process()?.pid();
        resident.push(status_kb(pid, "VmRSS:")?);
        share.push(share_kb(pid)?);
    }
    let mut figures = json!({});
    for (name, mut kb) in [("resident each", resident), ("its share of all memory", share)] {
        kb.sort_by(f64::total_cmp);
        let mb = |at: usize| kb.get(at).map_or(0.0, |kb| kb / 1_024.0);
        let (median, most) = (mb(kb.len() / 2), mb(kb.len().saturating_sub(1)));
        figures[name] = json!({ "median": median, "most": most });
        rows.push(&format!("{name}: median, most"), [format!("{median:.1}, {most:.1} MB")]);
    }
    Ok(figures)
}
