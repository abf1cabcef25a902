//! `instances/<service>/<instance>`: where an instance is, and what it wants of its balancers.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::LeaseId;
use crate::contract::name::InstanceId;

/// The label that holds an instance's routes, with spaces or commas between them.
pub const ROUTE_LABEL: &str = "route";

/// Longest time a record may ask for, in seconds: a week.
const TIME_S_MAX: u32 = 7 * 24 * 3600;
/// Most labels of a record, and the longest key or value, in bytes.
const LABELS_MAX: usize = 64;
const LABEL_LEN_MAX: usize = 256;
/// Longest owner id, in bytes.
const OWNER_LEN_MAX: usize = 128;

/// An instance's record. Only `address` and `port` are required; unknown fields are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Raw")]
pub struct InstanceRecord {
    /// Where it listens; never an unspecified or multicast address.
    pub address: IpAddr,
    /// The TCP port it listens on.
    pub port: NonZeroU16,
    /// Whether it should get traffic.
    pub state: InstanceState,
    /// Its share of the traffic.
    pub weight: Weight,
    /// Random id of the registrar process that wrote it: the fence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Seconds of ramp after (re)joining.
    pub slow_start_s: u32,
    /// How long it may take to leave.
    pub drain: DrainTimes,
    /// Version, zone, …: for people and for queries.
    pub labels: BTreeMap<String, String>,
    /// RFC 3339, for people only; nothing is decided from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registered_at: Option<String>,
}

/// What an instance says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InstanceState {
    /// Healthy: gets traffic.
    #[default]
    Up,
    /// The app is unhealthy: no traffic, identity kept.
    Down,
    /// On its way out.
    Draining,
}

/// How long leaving may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DrainTimes {
    /// How long sticky clients may stay, in seconds.
    pub sticky_s: u32,
    /// How long requests in flight may take after that, in seconds.
    pub inflight_s: u32,
}

/// A share of the traffic, 1 to 256 as HAProxy has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Weight(u16);

/// A weight out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a weight is a whole number from 1 to 256, not {0}")]
pub struct WeightError(pub u32);

impl InstanceRecord {
    /// A record of what is required, the rest at its default.
    #[must_use]
    pub fn new(address: IpAddr, port: NonZeroU16) -> Self {
        Self {
            address,
            port,
            state: InstanceState::default(),
            weight: Weight::default(),
            owner: None,
            slow_start_s: 0,
            drain: DrainTimes::default(),
            labels: BTreeMap::new(),
            registered_at: None,
        }
    }

    /// Who registered it, as acks name it: its `owner` field; without one its lease; without a lease its key.
    #[must_use]
    pub fn owner_under(&self, id: &InstanceId, lease: LeaseId) -> String {
        match &self.owner {
            Some(owner) => owner.clone(),
            None if lease != 0 => format!("lease-{lease:x}"),
            None => format!("key-{id}"),
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn endpoint(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port.get())
    }
}

impl DrainTimes {
    /// How long sticky clients may stay.
    #[must_use]
    pub fn sticky(self) -> Duration {
        Duration::from_secs(self.sticky_s.into())
    }

    /// How long requests in flight may take.
    #[must_use]
    pub fn inflight(self) -> Duration {
        Duration::from_secs(self.inflight_s.into())
    }
}

impl Default for DrainTimes {
    fn default() -> Self {
        Self { sticky_s: 0, inflight_s: 30 }
    }
}

impl Weight {
    /// The number, 1 to 256.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self(100)
    }
}

impl TryFrom<u32> for Weight {
    type Error = WeightError;

    fn try_from(weight: u32) -> Result<Self, WeightError> {
        match u16::try_from(weight) {
            Ok(weight @ 1..=256) => Ok(Self(weight)),
            _ => Err(WeightError(weight)),
        }
    }
}

impl From<Weight> for u32 {
    fn from(weight: Weight) -> Self {
        weight.0.into()
    }
}

impl std::str::FromStr for Weight {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number: u32 =
            text.parse().map_err(|_| format!("{text:?} is not a whole number from 1 to 256"))?;
        number.try_into().map_err(|error: WeightError| error.to_string())
    }
}

/// The record as it stands in JSON, before its ranges are checked.
#[derive(Deserialize)]
struct Raw {
    address: IpAddr,
    port: NonZeroU16,
    #[serde(default)]
    state: InstanceState,
    #[serde(default)]
    weight: Weight,
    #[serde(default)]
    owner: Option<String>,
    #[serde(default)]
    slow_start_s: u32,
    #[serde(default)]
    drain: DrainTimes,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Any JSON is taken: a client that writes a number here is still served.
    #[serde(default)]
    registered_at: serde_json::Value,
}

impl TryFrom<Raw> for InstanceRecord {
    type Error = String;

    fn try_from(raw: Raw) -> Result<Self, String> {
        // An address that was written as IPv4-mapped IPv6 is the IPv4 address, for HAProxy and for comparisons.
        let address = raw.address.to_canonical();
        if address.is_unspecified() || address.is_multicast() {
            return Err(format!("address {address} is not one that an instance can be reached at"));
        }
        for (field, seconds) in [
            ("slow_start_s", raw.slow_start_s),
            ("drain.sticky_s", raw.drain.sticky_s),
            ("drain.inflight_s", raw.drain.inflight_s),
        ] {
            if seconds > TIME_S_MAX {
                return Err(format!("{field} is {seconds}; at most {TIME_S_MAX} (a week) is taken"));
            }
        }
        let long = |text: &String| text.len() > LABEL_LEN_MAX;
        if raw.labels.len() > LABELS_MAX || raw.labels.iter().any(|(key, value)| long(key) || long(value)) {
            return Err(format!("at most {LABELS_MAX} labels of {LABEL_LEN_MAX} bytes are taken"));
        }
        if raw.owner.as_ref().is_some_and(|owner| owner.is_empty() || owner.len() > OWNER_LEN_MAX) {
            return Err(format!("an owner has 1 to {OWNER_LEN_MAX} bytes"));
        }
        Ok(Self {
            address,
            port: raw.port,
            state: raw.state,
            weight: raw.weight,
            owner: raw.owner,
            slow_start_s: raw.slow_start_s,
            drain: raw.drain,
            labels: raw.labels,
            registered_at: raw.registered_at.as_str().map(|at| at.chars().take(40).collect()),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::contract::record::{RECORD_LEN_MAX, RecordError, parse, to_value};

    #[test]
    fn the_shortest_record_gets_the_contracts_defaults() {
        let record: InstanceRecord = parse(br#"{"address":"10.0.0.5","port":3000}"#).unwrap();
        assert_eq!(record, InstanceRecord::new("10.0.0.5".parse().unwrap(), NonZeroU16::new(3000).unwrap()));
        assert_eq!(record.state, InstanceState::Up);
        assert_eq!(record.weight.get(), 100);
        assert_eq!((record.drain.sticky_s, record.drain.inflight_s), (0, 30));
        assert_eq!(record.endpoint(), "10.0.0.5:3000".parse().unwrap());
    }

    #[test]
    fn a_full_record_is_read_and_unknown_fields_are_ignored() {
        let text =
            br#"{"address":"::1","port":1,"state":"draining","weight":256,"owner":"ab","slow_start_s":5,
            "drain":{"sticky_s":9},"labels":{"zone":"a"},"registered_at":7,"shard":{"x":[1]}}"#;
        let record: InstanceRecord = parse(text).unwrap();
        assert_eq!(record.state, InstanceState::Draining);
        assert_eq!(record.drain, DrainTimes { sticky_s: 9, inflight_s: 30 });
        assert_eq!(record.endpoint().to_string(), "[::1]:1");
        assert_eq!(record.registered_at, None);
    }

    #[test]
    fn what_breaks_the_contract_is_refused_with_its_reason() {
        for (bad, why) in [
            ("", "EOF"),
            ("nonsense", "expected"),
            ("[]", "expected"),
            (r#"{"port":1}"#, "missing field `address`"),
            (r#"{"address":"10.0.0.5"}"#, "missing field `port`"),
            (r#"{"address":"web.example","port":1}"#, "IP address"),
            (r#"{"address":"10.0.0.5:80","port":1}"#, "IP address"),
            (r#"{"address":"0.0.0.0","port":1}"#, "reached"),
            (r#"{"address":"::","port":1}"#, "reached"),
            (r#"{"address":"::ffff:0.0.0.0","port":1}"#, "reached"),
            (r#"{"address":"224.0.0.1","port":1}"#, "reached"),
            (r#"{"address":"10.0.0.5","port":0}"#, "nonzero"),
            (r#"{"address":"10.0.0.5","port":70000}"#, "u16"),
            (r#"{"address":"10.0.0.5","port":-1}"#, "u16"),
            (r#"{"address":"10.0.0.5","port":1,"weight":0}"#, "1 to 256"),
            (r#"{"address":"10.0.0.5","port":1,"weight":257}"#, "1 to 256"),
            (r#"{"address":"10.0.0.5","port":1,"state":"on fire"}"#, "unknown variant"),
            (r#"{"address":"10.0.0.5","port":1,"slow_start_s":9999999}"#, "a week"),
            (r#"{"address":"10.0.0.5","port":1,"owner":""}"#, "owner"),
        ] {
            let error = parse::<InstanceRecord>(bad.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
        let huge = vec![b' '; RECORD_LEN_MAX + 1];
        assert_eq!(parse::<InstanceRecord>(&huge), Err(RecordError::TooLong { len: RECORD_LEN_MAX + 1 }));
    }

    proptest! {
        #[test]
        fn arbitrary_values_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse::<InstanceRecord>(&bytes);
        }

        #[test]
        fn what_is_written_reads_back(port in 1..=u16::MAX, weight in 1_u32..=256, ip in any::<[u8; 4]>()) {
            let mut record = InstanceRecord::new(ip.into(), NonZeroU16::new(port).unwrap());
            prop_assume!(!record.address.is_unspecified() && !record.address.is_multicast());
            record.weight = weight.try_into().unwrap();
            record.labels.insert("zone".into(), "a\"<b>\n".into());
            prop_assert_eq!(parse::<InstanceRecord>(&to_value(&record)), Ok(record));
        }
    }
}
