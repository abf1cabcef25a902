//! What beats cost etcd: many instances with a lease each, and the same with one lease for each ten of them, as a process
//! with several services or a host with one agent would have it.
//!
//! Keepers of the registry's own crate, each with its own connection, in this process: five thousand registrars would keep
//! the machine busy with themselves. What registrars cost is in `beats`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::value_parser;
use registry::lease::{self, Fence, LeaseHandle, LeaseMetrics};
use registry::session::{EtcdOptions, Session};
use serde_json::{Value, json};
use testkit::etcd::Etcd;
use testkit::home::Home;
use testkit::port::Ports;
use testkit::{Clock, PREFIX, wait};
use tokio_util::sync::CancellationToken;

use crate::beats::{received, registered};
use crate::machine;
use crate::process::{loopback_bytes, processor};
use crate::screen::say;
use crate::table::Rows;

/// Longest until all are registered.
const REGISTERED_MAX: Duration = Duration::from_mins(3);
/// How many are started at once.
const TOGETHER: usize = 100;
/// What the table is continued to.
const EXTRAPOLATED: f64 = 100_000.0;
/// From the last registration to the first look: connections and elections of the start are over.
const REST: Duration = Duration::from_secs(5);

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Plan {
    /// How many instances; several numbers are measured one after the other.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1_000, 5_000],
          value_parser = value_parser!(u32).range(10..=8_000))]
    instances: Vec<u32>,
    /// How many have one lease together, in the second form.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(2..=100))]
    together: u32,
    /// How long each is looked at, in seconds.
    #[arg(long, default_value_t = 60, value_parser = value_parser!(u64).range(10..=3_600))]
    seconds: u64,
    /// The ttl, in seconds.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u64).range(2..=3_600))]
    ttl: u64,
}

/// One form at one size.
#[derive(Clone, Copy, Debug)]
struct Seen {
    instances: u32,
    leases: u32,
    beats_per_s: f64,
    etcd_share: f64,
    bytes_per_beat: f64,
    late: u64,
    lost: u64,
}

/// Measures and prints; fails if a lease was lost.
pub(crate) async fn run(plan: Plan) -> Result<Value> {
    let about = machine::describe()?;
    say(&about);
    let mut seen = Vec::new();
    for instances in &plan.instances {
        for together in [1, plan.together] {
            seen.push(Box::pin(measure(&plan, *instances, together)).await?);
        }
    }
    let mut rows = Rows::new(
        &format!("ttl {} s, {} s each", plan.ttl, plan.seconds),
        &["leases", "beats/s", "etcd, a core", "per beat", "bytes, a beat", "late", "lost"],
    );
    for one in &seen {
        let per_beat = format!("{:.2} ms", 1_000.0 * one.etcd_share / one.beats_per_s);
        let name = format!("{} instances", one.instances);
        let cells = [
            one.leases.to_string(),
            format!("{:.1}", one.beats_per_s),
            format!("{:.1} %", 100.0 * one.etcd_share),
            per_beat,
            format!("{:.0}", one.bytes_per_beat),
            one.late.to_string(),
            one.lost.to_string(),
        ];
        rows.push(&name, cells);
    }
    for one in seen.iter().rev().take(2).rev() {
        let factor = EXTRAPOLATED / f64::from(one.instances);
        let cells = [
            format!("{:.0}", factor * f64::from(one.leases)),
            format!("{:.0}", factor * one.beats_per_s),
            format!("{:.0} %", 100.0 * factor * one.etcd_share),
        ];
        rows.push(&format!("{EXTRAPOLATED} (extrapolated)"), cells);
    }
    say("");
    say(rows);
    ensure!(seen.iter().all(|one| one.lost == 0), "a lease was lost");
    Ok(json!({ "on": machine::lines(&about), "ttl_s": plan.ttl,
        "seen": seen.iter().map(Seen::json).collect::<Vec<_>>() }))
}

async fn measure(plan: &Plan, instances: u32, together: u32) -> Result<Seen> {
    let home = Arc::new(Home::new()?);
    let ports = Ports::claim()?;
    let etcd = Etcd::launch(&home, &ports).await?;
    let pid = etcd.daemon().process()?.pid();
    let mut keepers = Vec::new();
    for first in (0..instances).step_by(usize::try_from(together)?) {
        let members = first..instances.min(first + together);
        keepers.push(hold_leases(&etcd.endpoint(), plan.ttl, members).await?);
        if keepers.len().is_multiple_of(TOGETHER) {
            settled(&keepers).await?;
        }
    }
    settled(&keepers).await?;
    registered(&etcd, usize::try_from(instances)?).await?;
    tokio::time::sleep(REST).await;

    let metrics: Vec<Arc<LeaseMetrics>> = keepers.iter().map(LeaseHandle::metrics).collect();
    let sum = |of: fn(&LeaseMetrics) -> u64| metrics.iter().map(|one| of(one)).sum::<u64>();
    let (start, used, beats) = (Clock.now(), processor(pid)?, received(&etcd).await?);
    let (bytes, late, lost) =
        (loopback_bytes()?, sum(LeaseMetrics::keep_alives_late), sum(LeaseMetrics::leases_lost));
    tokio::time::sleep(Duration::from_secs(plan.seconds)).await;
    let bytes = loopback_bytes()? - bytes;
    let seconds = Clock.now().since(start).as_secs_f64();
    let used = processor(pid)?.saturating_sub(used);
    let beats = received(&etcd).await? - beats;
    Ok(Seen {
        instances,
        leases: u32::try_from(keepers.len())?,
        beats_per_s: beats / seconds,
        etcd_share: used.as_secs_f64() / seconds,
        bytes_per_beat: bytes / beats,
        late: sum(LeaseMetrics::keep_alives_late) - late,
        lost: sum(LeaseMetrics::leases_lost) - lost,
    })
}

/// One lease, with the keys of these instances.
async fn hold_leases(endpoint: &str, ttl_s: u64, members: std::ops::Range<u32>) -> Result<LeaseHandle> {
    let options = EtcdOptions {
        etcd_endpoints: vec![endpoint.to_owned()],
        etcd_cacert: None,
        etcd_cert: None,
        etcd_key: None,
        etcd_user: None,
        etcd_password_file: None,
        prefix: PREFIX.parse()?,
    };
    let session = Session::new(options.checked()?);
    let (mut handle, task) = lease::lease_task(session, Duration::from_secs(ttl_s), CancellationToken::new());
    // Ends with the handle.
    tokio::spawn(task);
    for n in members {
        let address = format!("127.1.{}.{}", n / 250, n % 250 + 1);
        let record = json!({ "address": address, "port": 9, "owner": format!("o-{n}") });
        let key = format!("{PREFIX}/instances/beats/beats-{n}");
        handle.put(key, record.to_string().into(), Fence::Owner(format!("o-{n}"))).await;
    }
    Ok(handle)
}

async fn settled(keepers: &[LeaseHandle]) -> Result<()> {
    let all = async || Ok(keepers.iter().all(|one| one.status().borrow().settled).then_some(()));
    wait::until(REGISTERED_MAX, "all leases granted", all).await?;
    Ok(())
}

impl Seen {
    fn json(&self) -> Value {
        json!({ "instances": self.instances, "leases": self.leases, "beats_per_s": self.beats_per_s,
            "etcd_share": self.etcd_share, "bytes_per_beat": self.bytes_per_beat, "late": self.late, "lost": self.lost })
    }
}
