//! The options of one instance: where it is, what it is called, how it is checked.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use registry::name::{InstanceName, NameError};
use registry::record::Weight;

use crate::probe::{BodyText, Check, Header, Statuses};
use leasehold::member::AddressChoice;

/// What an instance is to be called: as `--instance` says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamingOption {
    /// `auto`: `<service>-<n>`.
    Auto,
    /// This.
    Is(InstanceName),
}

impl FromStr for NamingOption {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text == "auto" { Ok(Self::Auto) } else { text.parse().map(Self::Is) }
    }
}

impl fmt::Display for NamingOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Is(name) => name.fmt(f),
        }
    }
}

/// Of one instance.
#[derive(Args, Clone, Debug)]
pub struct ServiceOptions {
    /// Where balancers reach the app: an IP address, an interface whose address it is, a network that it is in, or `auto`
    /// for the local address of the route to etcd.
    #[arg(long, env = "LEASEHOLD_ADDRESS", default_value = "auto", value_name = "auto|IP|INTERFACE|CIDR")]
    pub address: AddressChoice,
    /// The instance's name within the service; `auto` for the lowest free one of `<service>-1`, `<service>-2`, … [default:
    /// the host's name, which is not taken from a living instance at another address].
    #[arg(long, env = "LEASEHOLD_INSTANCE", value_name = "NAME|auto")]
    pub instance: Option<NamingOption>,
    /// How to find out whether the app is healthy: a GET, a TCP connect, the standard gRPC health service (of the whole, or
    /// of SERVICE), a shell command that ends with 0, or nothing.
    #[arg(
        long,
        env = "LEASEHOLD_CHECK",
        default_value = "tcp",
        value_name = "http[s]:/PATH|tcp|grpc[s][:SERVICE]|exec:COMMAND|none"
    )]
    pub check: Check,
    /// Statuses that a GET is to be answered with, for example `200-299,401`.
    #[arg(long, env = "LEASEHOLD_CHECK_STATUS", default_value = "200-399", value_name = "STATUSES")]
    pub check_status: Statuses,
    /// A header that is sent with the GET; may be given several times.
    #[arg(long = "check-header", env = "LEASEHOLD_CHECK_HEADER", value_name = "NAME: VALUE")]
    pub check_headers: Vec<Header>,
    /// A text that the first 64 KiB of the answer's body are to hold.
    #[arg(long, env = "LEASEHOLD_CHECK_BODY", value_name = "TEXT")]
    pub check_body: Option<BodyText>,
    /// The CA (PEM) of the app's certificate. Without it, https checks take every certificate; grpcs checks need it.
    #[arg(long, env = "LEASEHOLD_CHECK_CACERT", value_name = "FILE")]
    pub check_cacert: Option<PathBuf>,
    /// The name in the app's certificate, where it is not its address.
    #[arg(long, env = "LEASEHOLD_CHECK_NAME", value_name = "NAME")]
    pub check_name: Option<String>,
    /// Time between two checks. Until the app is first healthy, it is checked every 100 ms.
    #[arg(long, env = "LEASEHOLD_INTERVAL", default_value = "2s", value_name = "TIME", value_parser = daemon::duration::parse)]
    pub interval: Duration,
    /// Longest a check may take; longer is a failure.
    #[arg(long, env = "LEASEHOLD_CHECK_TIMEOUT", default_value = "1s", value_name = "TIME", value_parser = daemon::duration::parse)]
    pub check_timeout: Duration,
    /// Checks in a row that must pass before the app is taken for healthy.
    #[arg(long, env = "LEASEHOLD_RISE", default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rise: u32,
    /// Checks in a row that must fail before the app is taken for unhealthy.
    #[arg(long, env = "LEASEHOLD_FALL", default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub fall: u32,
    /// Time that the app may take to start before its failing checks are worth a word.
    #[arg(long, env = "LEASEHOLD_START_GRACE", default_value = "0s", value_name = "TIME", value_parser = daemon::duration::parse)]
    pub start_grace: Duration,
    /// Share of the traffic, 1 to 256.
    #[arg(long, env = "LEASEHOLD_WEIGHT", default_value = "100", value_name = "N")]
    pub weight: Weight,
    /// A label such as `version=1.2` or `zone=a`; may be given several times, or separated by commas.
    #[arg(long = "label", env = "LEASEHOLD_LABEL", value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// When leaving: how long sticky clients may stay.
    #[arg(long, env = "LEASEHOLD_STICKY", default_value = "0s", value_name = "TIME", value_parser = daemon::duration::parse)]
    pub sticky: Duration,
    /// When leaving: how long requests in flight may take, after the sticky time.
    #[arg(long, env = "LEASEHOLD_INFLIGHT", default_value = "30s", value_name = "TIME", value_parser = daemon::duration::parse)]
    pub inflight: Duration,
    /// When joining: how long the traffic takes to ramp up.
    #[arg(long, env = "LEASEHOLD_SLOW_START", default_value = "0s", value_name = "TIME", value_parser = daemon::duration::parse)]
    pub slow_start: Duration,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("write KEY=VALUE, for example zone=a".into()),
    }
}
