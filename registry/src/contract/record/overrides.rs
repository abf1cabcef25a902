//! `overrides/<service>/<instance>`: an operator's wish, stronger than the instance's own record.

use serde::{Deserialize, Serialize};

use super::Weight;

/// An operator's wish for one instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OverrideRecord {
    /// Takes it out of rotation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<OverrideMode>,
    /// Replaces its weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<Weight>,
    /// Why, for people.
    pub reason: String,
    /// Who, for people.
    pub by: String,
    /// RFC 3339, for people.
    pub at: String,
}

/// How an operator takes an instance out of rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OverrideMode {
    /// As if it were leaving: sticky clients stay their time, requests in flight finish.
    Drain,
    /// No traffic at once; requests in flight finish.
    Maintenance,
}
