//! What the options come to, checked: what stands here can be used.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use registry::lease::{TTL_S_MAX, TTL_S_MIN};
use registry::name::{InstanceId, NameError};
use registry::record::{DrainTimes, InstanceRecord, RecordError, parse, to_value};
use registry::session::{EtcdConfig, OptionsError};

use crate::cli::RunOptions;
use crate::member::AddressChoice;
use crate::probe::{Check, ProbeConfig};

/// Where the kernel tells the host's name; in a container, the container's.
const HOST_NAME_FILE: &str = "/proc/sys/kernel/hostname";
/// Bounds of a check's interval and timeout. Below, the checks are the load.
const CHECK_TIME_MIN: Duration = Duration::from_millis(10);
const CHECK_TIME_MAX: Duration = Duration::from_hours(1);
/// Longest wait for acks, and longest grace of the app.
const WAIT_MAX: Duration = Duration::from_hours(24);

/// What `registrar run` is to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// The app's membership.
    pub member: MemberConfig,
    /// How the app's health is found out.
    pub probe: ProbeConfig,
    /// How long the registration outlives this process.
    pub ttl: Duration,
    /// How long the app has to end after TERM.
    pub stop_grace: Duration,
    /// Where health is served.
    pub listen: SocketAddr,
    /// TLS on that port.
    pub listen_tls: proto::port::PortTlsOptions,
    /// How to reach etcd.
    pub etcd: EtcdConfig,
    /// The app and its arguments; `None` in the sidecar form.
    pub command: Option<(OsString, Vec<OsString>)>,
}

/// One instance's membership.
#[derive(Clone, Debug)]
pub struct MemberConfig {
    /// Its name.
    pub id: InstanceId,
    /// Its record but for what is known only later: the address, the state, the owner, the time.
    pub record: InstanceRecord,
    /// How its address is found.
    pub address: AddressChoice,
    /// Longest wait for balancers when leaving.
    pub leave_max: Duration,
}

/// Options that can be read but not used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The host's name cannot be read.
    #[error(
        "cannot read the host's name from {HOST_NAME_FILE}: {0}\n  give the instance a name with --instance NAME"
    )]
    HostName(std::io::Error),
    /// The host's name is no name for an instance.
    #[error("the host's name cannot be the instance's: {0}\n  give the instance a name with --instance NAME")]
    HostNameIllegal(NameError),
    /// A time out of its range.
    #[error("{flag} is {}; from {} to {} is taken", humantime::format_duration(*.given), humantime::format_duration(*.least), humantime::format_duration(*.most))]
    Time {
        /// The flag.
        flag: &'static str,
        /// What was given.
        given: Duration,
        /// The shortest that is taken.
        least: Duration,
        /// The longest.
        most: Duration,
    },
    /// A time that stands in the record, or in etcd, in seconds.
    #[error("{flag} is {}; it is kept in whole seconds: round it", humantime::format_duration(*.given))]
    Fraction {
        /// The flag.
        flag: &'static str,
        /// What was given.
        given: Duration,
    },
    /// A label given twice.
    #[error("--label {0} is given twice")]
    LabelTwice(String),
    /// Balancers would refuse the record.
    #[error(
        "the record would be refused by every balancer: {0}\n  check --address, --label, --sticky, --inflight and --slow-start"
    )]
    Record(RecordError),
    /// The options for etcd.
    #[error(transparent)]
    Etcd(#[from] OptionsError),
}

/// The host's name, as the kernel has it.
pub fn host_name() -> Result<String, ConfigError> {
    let name = std::fs::read_to_string(HOST_NAME_FILE).map_err(ConfigError::HostName)?;
    Ok(name.trim().to_owned())
}

impl Config {
    /// Checks `options`; `host_name` is asked only where no instance is named.
    pub fn from_options(
        options: &RunOptions,
        host_name: impl FnOnce() -> Result<String, ConfigError>,
    ) -> Result<Self, ConfigError> {
        let instance = match &options.instance {
            Some(instance) => instance.clone(),
            None => host_name()?.parse().map_err(ConfigError::HostNameIllegal)?,
        };
        for (flag, given) in [("--interval", options.interval), ("--check-timeout", options.check_timeout)] {
            within(flag, given, CHECK_TIME_MIN, CHECK_TIME_MAX)?;
        }
        for (flag, given) in
            [("--leave-timeout", options.leave_timeout), ("--stop-grace", options.stop_grace)]
        {
            within(flag, given, Duration::ZERO, WAIT_MAX)?;
        }
        whole_seconds("--ttl", options.ttl)?;
        within("--ttl", options.ttl, Duration::from_secs(TTL_S_MIN), Duration::from_secs(TTL_S_MAX))?;
        let mut command = options.command.iter().cloned();
        Ok(Self {
            member: MemberConfig {
                id: InstanceId { service: options.service.clone(), instance },
                record: record(options)?,
                address: options.address,
                leave_max: options.leave_timeout,
            },
            probe: ProbeConfig {
                check: options.check.clone(),
                interval: options.interval,
                timeout: options.check_timeout,
                rise: options.rise,
                fall: options.fall,
            },
            ttl: options.ttl,
            stop_grace: options.stop_grace,
            listen: options.listen,
            listen_tls: options.listen_tls.clone(),
            etcd: options.etcd.checked()?,
            command: command.next().map(|program| (program, command.collect())),
        })
    }

    /// What can be used but is hardly meant; said once at start.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = vec![];
        let drain = self.member.record.drain.sticky().saturating_add(self.member.record.drain.inflight());
        if self.member.leave_max < drain {
            warnings.push(format!(
                "--leave-timeout ({}) is shorter than --sticky and --inflight together ({}): the app may be stopped while it still serves",
                humantime::format_duration(self.member.leave_max),
                humantime::format_duration(drain),
            ));
        }
        if self.command.is_none() && self.probe.check == Check::None {
            warnings.push("--check none without a command: nothing will notice when the app is gone".into());
        }
        warnings
    }
}

/// The record, but for what is known only later. It is read back as a balancer will: what that refuses, we refuse here.
fn record(options: &RunOptions) -> Result<InstanceRecord, ConfigError> {
    let address = match options.address {
        AddressChoice::Is(address) => address,
        AddressChoice::Auto => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let mut labels = BTreeMap::new();
    for (key, value) in &options.labels {
        if labels.insert(key.clone(), value.clone()).is_some() {
            return Err(ConfigError::LabelTwice(key.clone()));
        }
    }
    let mut record = InstanceRecord::new(address, options.port);
    record.weight = options.weight;
    record.labels = labels;
    record.slow_start_s = whole_seconds("--slow-start", options.slow_start)?;
    record.drain = DrainTimes {
        sticky_s: whole_seconds("--sticky", options.sticky)?,
        inflight_s: whole_seconds("--inflight", options.inflight)?,
    };
    parse(&to_value(&record)).map_err(ConfigError::Record)
}

fn within(flag: &'static str, given: Duration, least: Duration, most: Duration) -> Result<(), ConfigError> {
    if (least..=most).contains(&given) { Ok(()) } else { Err(ConfigError::Time { flag, given, least, most }) }
}

fn whole_seconds(flag: &'static str, given: Duration) -> Result<u32, ConfigError> {
    if given.subsec_nanos() > 0 {
        return Err(ConfigError::Fraction { flag, given });
    }
    // What is longer is over the record's bound too, and is refused there.
    Ok(u32::try_from(given.as_secs()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn config(args: &[&str], host: &str) -> Result<Config, String> {
        let line = ["registrar", "run", "--service", "web", "--port", "80"];
        let cli = Cli::try_parse_from(line.iter().chain(args)).map_err(|error| error.to_string())?;
        let Command::Run(options) = cli.command else { unreachable!("the line says run") };
        Config::from_options(&options, || Ok(host.into())).map_err(|error| error.to_string())
    }

    #[test]
    fn the_host_is_the_instance_unless_one_is_named() {
        assert_eq!(config(&[], "node-7").unwrap().member.id.to_string(), "web/node-7");
        assert_eq!(config(&["--instance", "a"], "!").unwrap().member.id.to_string(), "web/a");
        let error = config(&[], "bad name").unwrap_err();
        assert!(error.contains("--instance NAME") && error.contains("1 to 64"), "{error}");
    }

    #[test]
    fn what_cannot_be_used_is_told_with_its_flag() {
        for (bad, why) in [
            (&["--ttl", "1s"][..], "--ttl is 1s; from 2s"),
            (&["--ttl", "2500ms"], "whole seconds"),
            (&["--sticky", "100ms"], "--sticky"),
            (&["--inflight", "30days"], "a week"),
            (&["--interval", "1ms"], "--interval is 1ms; from 10ms to 1h"),
            (&["--leave-timeout", "2days"], "--leave-timeout"),
            (&["--label", "a=1", "--label", "a=2"], "--label a is given twice"),
            (&["--address", "0.0.0.0"], "reached"),
            (&["--etcd-endpoints", "etcd:2379"], "write http://"),
        ] {
            let error = config(bad, "h").unwrap_err();
            assert!(error.contains(why), "{bad:?}: {error}");
        }
    }

    #[test]
    fn the_record_carries_what_was_asked_for() {
        let config =
            config(&["--address", "10.0.0.5", "--weight", "7", "--sticky", "9s", "--label", "zone=a"], "h")
                .unwrap();
        let record = config.member.record;
        assert_eq!(record.endpoint(), "10.0.0.5:80".parse().unwrap());
        assert_eq!((record.weight.get(), record.drain.sticky_s, record.drain.inflight_s), (7, 9, 30));
        assert_eq!(record.labels["zone"], "a");
    }

    #[test]
    fn a_leave_that_is_cut_short_is_warned_of() {
        assert!(config(&[], "h").unwrap().warnings().is_empty());
        let warnings = config(&["--leave-timeout", "10s"], "h").unwrap().warnings();
        assert!(warnings[0].contains("--leave-timeout (10s) is shorter"), "{warnings:?}");
    }
}
