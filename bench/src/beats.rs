//! What a thousand registrars cost: their memory, their beats, and what these cost etcd.

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
use testkit::home::Home;
use testkit::port::Ports;
use testkit::process::Daemon;
use testkit::{Clock, PREFIX, http, program, wait};

use crate::machine;
use crate::process::{processor, share_kb, status_kb};
use crate::screen::say;
use crate::table::Rows;

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
    let leases = leases(&etcd, &plan).await?;
    say(format_args!(
        "{} registrars with a ttl of {} s, one etcd; all registered {:.1} s after the first was started",
        registrars.len(),
        plan.ttl,
        Clock.now().since(begun).as_secs_f64(),
    ));
    let etcd_pid = etcd.daemon().process()?.pid();
    let before = (Clock.now(), processor(etcd_pid)?, received(&etcd).await?, busy(&registrars)?);
    tokio::time::sleep(Duration::from_secs(plan.seconds)).await;
    let seconds = Clock.now().since(before.0).as_secs_f64();
    let of_etcd = processor(etcd_pid)?.saturating_sub(before.1).as_secs_f64() / seconds;
    let of_registrars = busy(&registrars)?.saturating_sub(before.3).as_secs_f64() / seconds;
    let beats = received(&etcd).await? - before.2;

    let after = self::leases(&etcd, &plan).await?;
    let replaced = leases.iter().filter(|(key, lease)| after.get(*key) != Some(lease)).count();
    let by_registrars = counted(&registrars, &home).await?;
    let mut rows = Rows::new(&format!("{seconds:.0} s"), &["figure"]);
    rows.push("beats a second, by etcd's count", [format!("{:.1}", beats / seconds)]);
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
        "beats_per_s": beats / seconds, "etcd_share": of_etcd, "registrars_share": of_registrars,
        "late": by_registrars.late, "lost": by_registrars.lost, "replaced": replaced, "memory_mb": memory }),
    )
}

async fn start(home: &Arc<Home>, etcd: &Etcd, plan: &Plan) -> Result<Vec<Daemon>> {
    let binary = program::ours("registrar")?;
    let mut registrars = vec![];
    for n in 0..plan.registrars {
        let flags = [
            ("--service", "beats".to_owned()),
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
    let port = etcd.endpoint().rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    let (_, text) = http::get(port.context("etcd has no port")?, "/metrics").await?;
    let of_beats = |line: &&str| {
        line.starts_with("grpc_server_msg_received_total") && line.contains("\"LeaseKeepAlive\"")
    };
    let line = text.lines().find(of_beats).context("etcd does not count beats")?;
    Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
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
