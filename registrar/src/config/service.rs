//! Resolves the options of one service: its membership, its record, its checks.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;
use std::time::Duration;

use leasehold::host::HostNameError;
use leasehold::member::claim::DIGITS_MAX;
use leasehold::member::{AddressChoice, MemberConfig, Naming};
use registry::name::{InstanceName, NAME_LEN_MAX, ServiceName};
use registry::record::{DrainTimes, InstanceRecord, parse, to_value};

use super::error::{ConfigError, whole_seconds, within};
use super::{ServiceConfig, WAIT_MAX};
use crate::cli::{NamingOption, ServiceOptions};
use crate::probe::{Check, CheckTlsOptions, Expected, ProbeConfig};

/// Bounds of a check's interval and timeout. Below, the checks are the load.
const CHECK_TIME_MIN: Duration = Duration::from_millis(10);
const CHECK_TIME_MAX: Duration = Duration::from_hours(1);
/// Most checks in a row that may be required.
const CHECKS_MAX: u32 = 1_000;

/// The membership and the checks of one service.
pub(super) fn service(
    service: ServiceName,
    port: NonZeroU16,
    of: &ServiceOptions,
    (leave_max, linger): (Duration, Duration),
    host_name: &impl Fn() -> Result<InstanceName, HostNameError>,
) -> Result<ServiceConfig, ConfigError> {
    let naming = match &of.instance {
        Some(NamingOption::Is(name)) => Naming::Is(name.clone()),
        Some(NamingOption::Auto) if service.as_str().len() + 1 + DIGITS_MAX > NAME_LEN_MAX => {
            return Err(ConfigError::NoRoomForNumber(service));
        }
        Some(NamingOption::Auto) => Naming::Auto,
        None => Naming::Host(host_name()?),
    };
    let record = record(port, of)?;
    let member = MemberConfig { service, naming, record, address: of.address.clone(), leave_max, linger };
    Ok(ServiceConfig { member, probe: probe(of)? })
}

fn probe(of: &ServiceOptions) -> Result<ProbeConfig, ConfigError> {
    for (flag, given) in [("--interval", of.interval), ("--check-timeout", of.check_timeout)] {
        within(flag, given, CHECK_TIME_MIN, CHECK_TIME_MAX)?;
    }
    within("--start-grace", of.start_grace, Duration::ZERO, WAIT_MAX)?;
    for (flag, given) in [("rise", of.rise), ("fall", of.fall)] {
        if !(1..=CHECKS_MAX).contains(&given) {
            return Err(ConfigError::Table(format!("{flag} is {given}; from 1 to {CHECKS_MAX} is taken")));
        }
    }
    let tls = match &of.check {
        Check::Grpc { tls: true, .. } if of.check_cacert.is_none() => {
            return Err(ConfigError::CheckWithoutCa(of.check.clone()));
        }
        Check::Http { tls: true, .. } | Check::Grpc { tls: true, .. } => {
            Some(CheckTlsOptions { cacert: of.check_cacert.clone(), name: of.check_name.clone() })
        }
        _ => None,
    };
    Ok(ProbeConfig {
        check: of.check.clone(),
        expected: Expected {
            statuses: of.check_status.clone(),
            headers: of.check_headers.clone(),
            body: of.check_body.clone(),
        },
        tls,
        start_grace: of.start_grace,
        interval: of.interval,
        timeout: of.check_timeout,
        rise: of.rise,
        fall: of.fall,
    })
}

/// The record without what is known only later. It is parsed as a balancer parses it: what a balancer refuses is refused
/// here.
fn record(port: NonZeroU16, of: &ServiceOptions) -> Result<InstanceRecord, ConfigError> {
    let address = match of.address {
        AddressChoice::Is(address) => address,
        _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let mut labels = BTreeMap::new();
    for (key, value) in &of.labels {
        if labels.insert(key.clone(), value.clone()).is_some() {
            return Err(ConfigError::LabelTwice(key.clone()));
        }
    }
    let mut record = InstanceRecord::new(address, port);
    record.weight = of.weight;
    record.labels = labels;
    record.slow_start_s = whole_seconds("--slow-start", of.slow_start)?;
    record.drain = DrainTimes {
        sticky_s: whole_seconds("--sticky", of.sticky)?,
        inflight_s: whole_seconds("--inflight", of.inflight)?,
    };
    parse(&to_value(&record)).map_err(ConfigError::Record)
}
