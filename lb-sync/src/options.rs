//! The options of `run` and `probe`, as they stand on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use daemon::log::LogOptions;
use daemon::port::PortTlsOptions;
use proto::health::ProbeTlsOptions;
use registry::name::BalancerName;
use registry::session::EtcdOptions;

use crate::files::FilesOptions;
use crate::view::GuardPolicy;

/// Options of `run`.
#[derive(Args, Debug)]
pub struct RunOptions {
    /// How to reach etcd.
    #[command(flatten)]
    pub etcd: EtcdOptions,
    /// HAProxy's runtime socket (`stats socket … level admin`).
    #[arg(
        long,
        env = "LEASEHOLD_HAPROXY_SOCKET",
        default_value = "/run/haproxy/lb-sync.sock",
        value_name = "PATH"
    )]
    pub haproxy_socket: PathBuf,
    /// Name of this balancer in the registry; the host's name unless told otherwise.
    #[arg(long, env = "LEASEHOLD_BALANCER", value_name = "NAME")]
    pub balancer: Option<BalancerName>,
    /// Where to serve health, the status page, metrics and gRPC.
    #[arg(long, env = "LEASEHOLD_LISTEN", default_value = "127.0.0.1:7100", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// TLS on that port.
    #[command(flatten)]
    pub listen_tls: PortTlsOptions,
    /// Servers that lb-sync makes have ids from here up; those below are left alone.
    #[arg(long, env = "LEASEHOLD_ID_BASE", default_value_t = 10_000, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000_000))]
    pub id_base: u32,
    /// How often HAProxy checks each server (`option httpchk` and the like in the backend say how); 0s for never.
    #[arg(long, env = "LEASEHOLD_CHECK_INTERVAL", default_value = "2s", value_name = "TIME", value_parser = daemon::duration::parse)]
    pub check_interval: Duration,
    /// Where to keep what a restart must know (the last good view of the registry, HAProxy's ids); without it, an lb-sync that starts
    /// while etcd is away knows no instance.
    #[arg(long, env = "LEASEHOLD_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Append a line of JSON to this file for each change of a server: what, why, and the commands.
    #[arg(long, env = "LEASEHOLD_AUDIT_FILE", value_name = "PATH")]
    pub audit_file: Option<PathBuf>,
    /// How backend sections are kept as files.
    #[command(flatten)]
    pub files: FilesOptions,
    /// When expiries are not believed.
    #[command(flatten)]
    pub guard: GuardOptions,
    /// Whether a new server gets traffic before HAProxy's own first check of it has passed. `skip`: at once, since the
    /// registrar has checked it; `wait`: some 100 ms later (--first-check-after).
    #[arg(long, env = "LEASEHOLD_FIRST_CHECK", default_value = "skip", value_name = "skip|wait")]
    pub first_check: FirstCheckOption,
    /// With `--first-check wait`: time to the first check, and between checks of a server that is down.
    #[arg(long, env = "LEASEHOLD_FIRST_CHECK_AFTER", default_value = "100ms", value_name = "TIME", value_parser = daemon::duration::parse)]
    pub first_check_after: Duration,
    /// How long clients of an instance that has crashed or is down keep their cookie, in case it returns; 0s for not at
    /// all. For backends with a restarting map.
    #[arg(long, env = "LEASEHOLD_RESTART_GAP", default_value = "30s", value_name = "TIME", value_parser = daemon::duration::parse)]
    pub restart_gap: Duration,
    /// Lease of this balancer's presence.
    #[arg(long, env = "LEASEHOLD_TTL", default_value = "10s", value_name = "TIME", value_parser = ttl)]
    pub ttl: Duration,
    /// How to log.
    #[command(flatten)]
    pub log: LogOptions,
}

/// When much of a service expires together, it is etcd that is in trouble: those instances are kept as suspects.
#[derive(Args, Clone, Copy, Debug)]
pub struct GuardOptions {
    /// Expiries are believed up to this share of a service, in percent; beyond it, instances stay while HAProxy's own
    /// checks pass. 100 turns this off.
    #[arg(long, env = "LEASEHOLD_GUARD_SHARE", default_value_t = 50, value_name = "PERCENT",
          value_parser = clap::value_parser!(u32).range(1..=100))]
    pub guard_share: u32,
    /// Expiries within this time count together.
    #[arg(long, env = "LEASEHOLD_GUARD_WINDOW", default_value = "30s", value_name = "TIME", value_parser = daemon::duration::parse)]
    pub guard_window: Duration,
    /// Services with fewer instances are not guarded.
    #[arg(long, env = "LEASEHOLD_GUARD_MIN", default_value_t = 3, value_name = "N")]
    pub guard_min: usize,
    /// Longest that a suspect stays beside others of its service that are in rotation.
    #[arg(long, env = "LEASEHOLD_GUARD_MAX", default_value = "10m", value_name = "TIME", value_parser = daemon::duration::parse)]
    pub guard_max: Duration,
}

impl GuardOptions {
    /// As the view takes it.
    #[must_use]
    pub fn policy(&self) -> GuardPolicy {
        GuardPolicy {
            share_percent: self.guard_share,
            window: self.guard_window,
            instances_min: self.guard_min,
            suspect_max: self.guard_max,
        }
    }
}

/// Options of `probe`.
#[derive(Args, Debug)]
pub struct ProbeOptions {
    /// The status port of a running lb-sync.
    #[arg(long, env = "LEASEHOLD_LISTEN", default_value = "127.0.0.1:7100", value_name = "ADDR:PORT")]
    pub addr: String,
    /// Which name to ask for: empty for the whole, `registry`, or a service.
    #[arg(long, default_value = "", value_name = "NAME")]
    pub service: String,
    /// How long to wait.
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = daemon::duration::parse)]
    pub timeout: Duration,
    /// TLS.
    #[command(flatten)]
    pub tls: ProbeTlsOptions,
}

/// Whether the first check is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FirstCheckOption {
    /// Traffic at once.
    Skip,
    /// Traffic after HAProxy's own first check.
    Wait,
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = daemon::duration::parse(text)?;
    let (least, most) = (registry::lease::TTL_S_MIN, registry::lease::TTL_S_MAX);
    if (least..=most).contains(&ttl.as_secs()) {
        Ok(ttl)
    } else {
        Err(format!("a ttl is {least} s to {most} s"))
    }
}
