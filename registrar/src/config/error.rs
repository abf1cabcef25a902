//! Why a configuration cannot be used.

use std::time::Duration;

use daemon::port::TlsError;
use leasehold::host::HostNameError;
use registry::name::ServiceName;
use registry::record::RecordError;
use registry::session::OptionsError;

use super::file::FileError;
use crate::probe::{Check, CheckTlsError};

/// The options can be parsed but not used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The host's name cannot be the instance's.
    #[error("{0}\n  give the instance a name with --instance NAME")]
    HostName(#[from] HostNameError),
    /// A time is out of its range.
    #[error("{flag} is {}; from {} to {} is taken", humantime::format_duration(*.given), humantime::format_duration(*.least), humantime::format_duration(*.most))]
    Time {
        /// The flag.
        flag: &'static str,
        /// The value.
        given: Duration,
        /// The minimum.
        least: Duration,
        /// The maximum.
        most: Duration,
    },
    /// A time of the record, or of the lease, that is not in whole seconds.
    #[error("{flag} is {}; it is kept in whole seconds: round it", humantime::format_duration(*.given))]
    Fraction {
        /// The flag.
        flag: &'static str,
        /// The value.
        given: Duration,
    },
    /// The file of `--config` cannot be read.
    #[error("{0}\n  docs/registrar.md lists what may stand in it")]
    File(#[from] FileError),
    /// A value of the file cannot be used.
    #[error("the file of --config: {0}")]
    Table(String),
    /// There is neither a service nor a command.
    #[error(
        "there is nothing to run: name a service (--service and --port, or [[service]] in the file), or a command"
    )]
    Nothing,
    /// The TLS options of a check cannot be used.
    #[error(transparent)]
    CheckTls(#[from] CheckTlsError),
    /// A gRPC check over TLS needs a CA.
    #[error("--check {0} needs the CA of the app's certificate: give it with --check-cacert FILE")]
    CheckWithoutCa(Check),
    /// One instance is configured twice.
    #[error("{0} is given twice: an instance can be registered only once")]
    Twice(String),
    /// The service's name leaves no room for a number.
    #[error("the service {0} has too long a name for numbered instances: name this one with --instance NAME")]
    NoRoomForNumber(ServiceName),
    /// A label is given twice.
    #[error("--label {0} is given twice")]
    LabelTwice(String),
    /// Balancers would refuse the record.
    #[error(
        "the record would be refused by every balancer: {0}\n  check --address, --label, --sticky, --inflight and --slow-start"
    )]
    Record(RecordError),
    /// The options for etcd cannot be used.
    #[error(transparent)]
    Etcd(#[from] OptionsError),
    /// The TLS options of the port cannot be used.
    #[error(transparent)]
    PortTls(#[from] TlsError),
}

/// Checks that a time is within its range.
pub(super) fn within(
    flag: &'static str,
    given: Duration,
    least: Duration,
    most: Duration,
) -> Result<(), ConfigError> {
    if (least..=most).contains(&given) { Ok(()) } else { Err(ConfigError::Time { flag, given, least, most }) }
}

/// A time in whole seconds.
pub(super) fn whole_seconds(flag: &'static str, given: Duration) -> Result<u32, ConfigError> {
    if given.subsec_nanos() > 0 {
        return Err(ConfigError::Fraction { flag, given });
    }
    // A longer time is over the bound of the record too, and is refused there.
    Ok(u32::try_from(given.as_secs()).unwrap_or(u32::MAX))
}
