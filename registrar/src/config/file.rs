//! The TOML file of `run --config`: what flags cannot say.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use registry::name::ServiceName;
use registry::record::Weight;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use crate::cli::{NamingOption, ServiceOptions};
use crate::probe::{BodyText, Check, Header, Statuses};
use crate::supervise::program::Restart;
use leasehold::member::AddressChoice;

/// Longest file, in bytes.
const FILE_LEN_MAX: u64 = 1024 * 1024;

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Services that the app is an instance of.
    #[serde(default, rename = "service")]
    pub services: Vec<ServiceTable>,
    /// Processes beside the app, in the order of their start.
    #[serde(default, rename = "side")]
    pub sidecars: Vec<SidecarTable>,
}

/// `[[service]]`. What it does not say is taken from the flags.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceTable {
    /// The service.
    pub name: ServiceName,
    /// The TCP port that the app listens on for it.
    pub port: NonZeroU16,
    #[serde(default, deserialize_with = "text")]
    address: Option<AddressChoice>,
    #[serde(default, deserialize_with = "text")]
    instance: Option<NamingOption>,
    #[serde(default, deserialize_with = "text")]
    check: Option<Check>,
    #[serde(default, deserialize_with = "text")]
    check_status: Option<Statuses>,
    #[serde(default, deserialize_with = "texts")]
    check_headers: Option<Vec<Header>>,
    #[serde(default, deserialize_with = "text")]
    check_body: Option<BodyText>,
    check_cacert: Option<PathBuf>,
    check_name: Option<String>,
    #[serde(default, deserialize_with = "time")]
    interval: Option<Duration>,
    #[serde(default, deserialize_with = "time")]
    check_timeout: Option<Duration>,
    rise: Option<u32>,
    fall: Option<u32>,
    #[serde(default, deserialize_with = "time")]
    start_grace: Option<Duration>,
    weight: Option<Weight>,
    labels: Option<BTreeMap<String, String>>,
    #[serde(default, deserialize_with = "time")]
    sticky: Option<Duration>,
    #[serde(default, deserialize_with = "time")]
    inflight: Option<Duration>,
    #[serde(default, deserialize_with = "time")]
    slow_start: Option<Duration>,
}

/// `[[side]]`: a process beside the app.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SidecarTable {
    /// What it is called in logs and metrics.
    pub name: String,
    /// The program and its arguments; no shell is between.
    pub command: Vec<String>,
    /// When it is started again.
    #[serde(default, deserialize_with = "text")]
    pub restart: Option<Restart>,
    /// How many times in a row; then everything is stopped.
    pub restarts_max: Option<u32>,
    /// Before the app, or after it.
    #[serde(default)]
    pub start: SidecarStart,
    /// Time it has to end after TERM.
    #[serde(default, deserialize_with = "time")]
    pub stop_grace: Option<Duration>,
    /// What it finds in its environment beside ours.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

/// When a process beside the app is started; it is stopped in reverse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SidecarStart {
    /// Before the app.
    #[default]
    Before,
    /// After it.
    After,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("--config {path}: {cause}")]
pub struct FileError {
    path: String,
    cause: String,
}

impl File {
    /// Reads the file at `path`.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let failed = |cause: &dyn fmt::Display| FileError {
            path: path.display().to_string(),
            cause: cause.to_string().trim_end().to_owned(),
        };
        let len = std::fs::metadata(path).map_err(|error| failed(&error))?.len();
        if len > FILE_LEN_MAX {
            return Err(failed(&format!("it is longer than {FILE_LEN_MAX} bytes")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
        toml::from_str(&text).map_err(|error| failed(&error))
    }
}

impl ServiceTable {
    /// What it says, and for the rest what `flags` say. An instance's name and labels are its own.
    #[must_use]
    pub fn over(self, flags: &ServiceOptions) -> ServiceOptions {
        let flags = flags.clone();
        ServiceOptions {
            address: self.address.unwrap_or(flags.address),
            instance: self.instance.or(flags.instance),
            check: self.check.unwrap_or(flags.check),
            check_status: self.check_status.unwrap_or(flags.check_status),
            check_headers: self.check_headers.unwrap_or(flags.check_headers),
            check_body: self.check_body.or(flags.check_body),
            check_cacert: self.check_cacert.or(flags.check_cacert),
            check_name: self.check_name.or(flags.check_name),
            interval: self.interval.unwrap_or(flags.interval),
            check_timeout: self.check_timeout.unwrap_or(flags.check_timeout),
            rise: self.rise.unwrap_or(flags.rise),
            fall: self.fall.unwrap_or(flags.fall),
            start_grace: self.start_grace.unwrap_or(flags.start_grace),
            weight: self.weight.unwrap_or(flags.weight),
            labels: self.labels.map_or(flags.labels, |labels| labels.into_iter().collect()),
            sticky: self.sticky.unwrap_or(flags.sticky),
            inflight: self.inflight.unwrap_or(flags.inflight),
            slow_start: self.slow_start.unwrap_or(flags.slow_start),
        }
    }
}

/// What is written as on the command line.
fn text<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(from: D) -> Result<Option<T>, D::Error> {
    String::deserialize(from)?.parse().map(Some).map_err(D::Error::custom)
}

fn texts<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(
    from: D,
) -> Result<Option<Vec<T>>, D::Error> {
    let all = Vec::<String>::deserialize(from)?;
    let parsed: Result<Vec<T>, _> = all.iter().map(|one| one.parse()).collect();
    parsed.map(Some).map_err(D::Error::custom)
}

fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    daemon::duration::parse(&String::deserialize(from)?).map(Some).map_err(D::Error::custom)
}
