//! Records: the JSON values under our keys. A record that does not hold to the contract does not parse.

mod ack;
mod balancer;
mod instance;
mod intent;
mod overrides;

pub use ack::{AckRecord, AckState};
pub use balancer::BalancerRecord;
pub use instance::{DrainTimes, InstanceRecord, InstanceState, ROUTE_LABEL, Weight, WeightError};
pub use intent::Intent;
pub use overrides::{OverrideMode, OverrideRecord};

use serde::de::DeserializeOwned;

/// Largest value that is read as a record, in bytes. A full record is some 400; etcd itself takes 1.5 MB.
pub const RECORD_LEN_MAX: usize = 16 * 1024;

/// A value that is not a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Longer than any record may be.
    #[error("the value has {len} bytes; a record has at most {RECORD_LEN_MAX}")]
    TooLong {
        /// Its length, in bytes.
        len: usize,
    },
    /// Not JSON, a field missing, or a field out of its range.
    #[error("the value is not a record: {0}")]
    Content(String),
}

/// Reads `value` as a `T`. What is refused: over [`RECORD_LEN_MAX`], not JSON, not of `T`'s form.
pub fn parse<T: DeserializeOwned>(value: &[u8]) -> Result<T, RecordError> {
    if value.len() > RECORD_LEN_MAX {
        return Err(RecordError::TooLong { len: value.len() });
    }
    serde_json::from_slice(value)
        .map_err(|error| RecordError::Content(error.to_string().chars().take(300).collect()))
}

/// Writes `record` as it stands in etcd.
pub fn to_value<T: serde::Serialize>(record: &T) -> Vec<u8> {
    // Our records are structs of strings, numbers and string-keyed maps: serde_json cannot refuse them.
    serde_json::to_vec(record).unwrap_or_default()
}
