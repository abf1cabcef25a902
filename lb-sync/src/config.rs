//! What the options of `run` come to: values, checked.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use daemon::port::PortTlsOptions;
use registry::name::BalancerName;
use registry::session::EtcdConfig;

use crate::balancer::BalancerConfig;
use crate::files::FilesOptions;
use crate::options::{FirstCheckOption, RunOptions};
use crate::plan::{FirstCheck, Policy};
use haproxy::{Check, CheckInterval, ServerId};

/// HAProxy's own check of a new server: one passed check makes it up, two failed ones down.
const CHECK_RISE: u16 = 1;
const CHECK_FALL: u16 = 2;
/// An option that cannot be used: what was seen, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// The options, checked.
#[derive(Clone, Debug)]
pub struct RunConfig {
    pub(crate) etcd: EtcdConfig,
    pub(crate) pass: BalancerConfig,
    pub(crate) balancer: BalancerName,
    pub(crate) listen: SocketAddr,
    pub(crate) ttl: Duration,
    pub(crate) state_dir: Option<PathBuf>,
    /// HAProxy's master socket.
    pub(crate) master_socket: Option<PathBuf>,
    pub(crate) files: FilesOptions,
    pub(crate) audit_file: Option<PathBuf>,
    pub(crate) listen_tls: PortTlsOptions,
}

impl RunConfig {
    /// Checks `options`. Touches neither disk nor network. `host` is the host's name, for a balancer that was given none.
    pub fn new(options: RunOptions, host: &str) -> Result<Self, ConfigError> {
        let config = ConfigError;
        let etcd = options.etcd.checked().map_err(|error| config(error.to_string()))?;
        let balancer = match options.balancer {
            Some(balancer) => balancer,
            None => host.parse().map_err(|error| {
                config(format!(
                    "the host's name cannot be the balancer's: {error}\n  give one with --balancer"
                ))
            })?,
        };
        let first_check = match options.first_check {
            FirstCheckOption::Skip => FirstCheck::Skip,
            FirstCheckOption::Wait => FirstCheck::Wait,
        };
        let check = if options.check_interval.is_zero() {
            None
        } else {
            let interval =
                |time: Duration| CheckInterval::try_from(time).map_err(|error| config(error.to_string()));
            let inter = interval(options.check_interval)?;
            let count = |n: u16| n.try_into().map_err(|_| config("no checks at all".into()));
            let down_inter = match first_check {
                FirstCheck::Skip => None,
                FirstCheck::Wait => Some(interval(options.first_check_after)?),
            };
            Some(Check { inter, rise: count(CHECK_RISE)?, fall: count(CHECK_FALL)?, down_inter })
        };
        let id_base = ServerId::try_from(options.id_base).map_err(|error| config(error.to_string()))?;
        let pass = BalancerConfig {
            socket: options.haproxy_socket,
            prefix: etcd.prefix().clone(),
            policy: Policy {
                check,
                id_base,
                first_check,
                init_state: false,
                restart_gap: options.restart_gap,
            },
            guard: options.guard.policy(),
            backend_defaults: options.files.backend_defaults.clone(),
            snapshot: None,
            has_master: options.files.master_socket.is_some(),
        };
        let (listen, ttl, state_dir, files) = (options.listen, options.ttl, options.state_dir, options.files);
        let (audit_file, listen_tls) = (options.audit_file, options.listen_tls);
        let master_socket = files.master_socket.clone();
        Ok(Self {
            etcd,
            pass,
            balancer,
            listen,
            ttl,
            state_dir,
            master_socket,
            files,
            audit_file,
            listen_tls,
        })
    }
}
