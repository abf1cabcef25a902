//! `acks/<balancer>/<service>/<instance>`: how far a balancer is with an instance.

use serde::{Deserialize, Serialize};

/// A balancer's word about one instance, written when it changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AckRecord {
    /// Whose record it is about: an ack for an earlier owner of the name says nothing about this one.
    pub owner: String,
    /// etcd's revision of the record that it answers; `None` from an lb-sync of 0.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// How far the balancer is.
    pub state: AckState,
    /// RFC 3339, for people only.
    pub at: String,
}

/// How far a balancer is with an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AckState {
    /// It gets traffic here, and this HAProxy's check of it, if there is one, has passed.
    Serving,
    /// It is to get traffic here, and this HAProxy's check of it fails.
    Failing,
    /// It gets no new clients here; some requests may still be in flight.
    Draining,
    /// Nothing of it is in flight here, and nothing will come.
    Drained,
}

impl AckState {
    /// It answers a record that says that its instance is to get no new clients.
    #[must_use]
    pub fn is_of_a_leave(self) -> bool {
        matches!(self, Self::Draining | Self::Drained)
    }
}
