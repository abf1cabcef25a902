//! The configuration of `registrar run`, in three steps. [`File::read`] and clap parse, [`Config::resolve`] makes values of
//! both, [`open`] reads the certificates and keys that they name.

mod error;
pub mod file;
mod open;
mod programs;
mod service;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use leasehold::host::{HostNameError, host_name};
use leasehold::member::{MemberConfig, Naming};
use registry::lease::{TTL_S_MAX, TTL_S_MIN};
use registry::name::InstanceName;
use registry::session::EtcdOptions;

use crate::cli::RunOptions;
use crate::probe::{Check, ProbeConfig};
use crate::supervise::ProgramConfig;
use crate::supervise::output::{LineFormat, OutputConfig};
use error::{whole_seconds, within};
use file::File;

pub use error::ConfigError;
pub use open::{OpenConfig, open};

/// Longest wait for acks, and longest grace of a program.
const WAIT_MAX: Duration = Duration::from_hours(24);
/// Most services of one registrar.
const SERVICES_MAX: usize = 100;

/// What `registrar run` does.
#[derive(Clone, Debug)]
pub struct Config {
    /// The services that the app is an instance of. Empty: only programs are supervised.
    pub services: Vec<ServiceConfig>,
    /// How long the registration outlives this process.
    pub ttl: Duration,
    /// The app and the sidecars, in the order of their start.
    pub programs: Vec<ProgramConfig>,
    /// The number of the app. `None`: the registrar is a plain sidecar of an app started elsewhere.
    pub app: Option<usize>,
    /// How the programs' output is forwarded.
    pub output: OutputConfig,
    /// The address of the port for health and metrics.
    pub listen: SocketAddr,
    /// TLS on that port.
    pub listen_tls: daemon::port::PortTlsOptions,
    /// How to reach etcd.
    pub etcd: EtcdOptions,
}

/// The app as an instance of one service.
#[derive(Clone, Debug)]
pub struct ServiceConfig {
    /// Its membership.
    pub member: MemberConfig,
    /// How its health is checked.
    pub probe: ProbeConfig,
}

/// The configuration that `options` ask for, ready to run: all three steps.
pub fn load(options: &RunOptions) -> Result<OpenConfig, ConfigError> {
    let file = options.config.as_deref().map(File::read).transpose()?.unwrap_or_default();
    open(Config::resolve(options, file, host_name)?)
}

impl Config {
    /// Makes values of `options` and `file`, and checks their bounds. `host_name` is called only for an instance without a
    /// name.
    pub fn resolve(
        options: &RunOptions,
        file: File,
        host_name: impl Fn() -> Result<InstanceName, HostNameError>,
    ) -> Result<Self, ConfigError> {
        for (flag, given) in
            [("--leave-timeout", options.leave_timeout), ("--stop-grace", options.stop_grace)]
        {
            within(flag, given, Duration::ZERO, WAIT_MAX)?;
        }
        let linger = options.linger.unwrap_or(options.ttl * 3 / 2);
        within("--linger", linger, Duration::ZERO, WAIT_MAX)?;
        whole_seconds("--ttl", options.ttl)?;
        within("--ttl", options.ttl, Duration::from_secs(TTL_S_MIN), Duration::from_secs(TTL_S_MAX))?;
        let (programs, app) = programs::programs(options, file.sidecars)?;
        let flags = options
            .service
            .clone()
            .zip(options.port)
            .map(|(name, port)| (name, port, options.instance.clone()));
        let tables = file.services.into_iter().map(|table| {
            let (name, port) = (table.name.clone(), table.port);
            (name, port, table.over(&options.instance))
        });
        let services: Vec<_> = flags.into_iter().chain(tables).collect();
        let services = services
            .into_iter()
            .map(|(name, port, of)| {
                service::service(name, port, &of, (options.leave_timeout, linger), &host_name)
            })
            .collect::<Result<Vec<_>, _>>()?;
        once_each(&services)?;
        if services.is_empty() && programs.is_empty() {
            return Err(ConfigError::Nothing);
        }
        let default = if programs.len() > 1 { LineFormat::Lines } else { LineFormat::Inherit };
        Ok(Self {
            services,
            ttl: options.ttl,
            app,
            output: OutputConfig {
                format: options.app_output.unwrap_or(default),
                copy: options.app_output_copy.clone(),
            },
            programs,
            listen: options.listen,
            listen_tls: options.listen_tls.clone(),
            etcd: options.etcd.clone(),
        })
    }

    /// Settings that can be used but are hardly intended. Logged once at start.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = vec![];
        for ServiceConfig { member, probe } in &self.services {
            let drain = member.record.drain.sticky().saturating_add(member.record.drain.inflight());
            if member.leave_max < drain {
                warnings.push(format!(
                    "--leave-timeout ({}) is shorter than --sticky and --inflight together ({}): the app may be stopped while it still serves",
                    humantime::format_duration(member.leave_max),
                    humantime::format_duration(drain),
                ));
            }
            if self.app.is_none() && probe.check == Check::None {
                warnings
                    .push("--check none without a command: nothing will notice when the app is gone".into());
            }
        }
        warnings
    }
}

fn once_each(services: &[ServiceConfig]) -> Result<(), ConfigError> {
    if services.len() > SERVICES_MAX {
        return Err(ConfigError::Table(format!("there are more than {SERVICES_MAX} services")));
    }
    let mut seen = BTreeSet::new();
    for ServiceConfig { member, .. } in services {
        if let Naming::Is(name) | Naming::Host(name) = &member.naming
            && !seen.insert((&member.service, name))
        {
            return Err(ConfigError::Twice(format!("{}/{name}", member.service)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
