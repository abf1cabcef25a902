//! `balancers/<balancer>`: a balancer's presence.

use serde::{Deserialize, Serialize};

use crate::contract::key::AckLayout;
use crate::contract::name::ServiceName;

/// What a balancer tells about itself. It stands under its lease: no key, no balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalancerRecord {
    /// A random id of this life of lb-sync; `None` from an lb-sync of 0.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The services whose instances it serves: those a leaving instance waits for it with.
    pub services: Vec<ServiceName>,
    /// HAProxy's version, for people.
    #[serde(default)]
    pub haproxy_version: String,
    /// `ADDR:PORT` of its status port.
    #[serde(default)]
    pub status: String,
}

impl BalancerRecord {
    /// How this balancer writes the keys of its acks.
    #[must_use]
    pub fn ack_layout(&self) -> AckLayout {
        if self.id.is_some() { AckLayout::ByBalancer } else { AckLayout::ByInstance }
    }
}
