//! `balancers/<balancer>`: a balancer's presence.

use serde::{Deserialize, Serialize};

use crate::contract::name::ServiceName;

/// What a balancer tells about itself. It stands under its lease: no key, no balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalancerRecord {
    /// The services whose instances it serves: those a leaving instance waits for it with.
    pub services: Vec<ServiceName>,
    /// HAProxy's version, for people.
    #[serde(default)]
    pub haproxy_version: String,
    /// `ADDR:PORT` of its status port.
    #[serde(default)]
    pub status: String,
}
