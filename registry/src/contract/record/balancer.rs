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
    /// Its host's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// The boot id of its host's kernel, by which cloned hosts of one name are told apart; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub boot: String,
    /// HAProxy's runtime socket, as a path on that host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub socket: String,
    /// The services whose instances it serves: those a leaving instance waits for it with.
    pub services: Vec<ServiceName>,
    /// HAProxy's version, for people.
    #[serde(default)]
    pub haproxy_version: String,
    /// lb-sync's version, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub lb_sync_version: String,
    /// `ADDR:PORT` of its status port.
    #[serde(default)]
    pub status: String,
}

impl BalancerRecord {
    /// Whether both are of one HAProxy, in two lives of its lb-sync.
    #[must_use]
    pub fn is_same_haproxy(&self, other: &Self) -> bool {
        (&self.host, &self.boot, &self.socket) == (&other.host, &other.boot, &other.socket)
    }

    /// How this balancer writes the keys of its acks.
    #[must_use]
    pub fn ack_layout(&self) -> AckLayout {
        if self.id.is_some() { AckLayout::ByBalancer } else { AckLayout::ByInstance }
    }
}
