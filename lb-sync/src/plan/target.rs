//! What an instance should be, by the registry alone.

use std::time::Duration;

use registry::name::InstanceId;
use registry::record::Intent;

use crate::view::View;
use haproxy::{InitialWeight, ServerAddr};

/// What HAProxy should have for an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where it listens.
    pub addr: ServerAddr,
    /// Its share.
    pub weight: InitialWeight,
    /// Seconds of ramp when it comes up.
    pub slowstart_s: u16,
    /// Whether it gets traffic.
    pub intent: Intent,
    /// It has expired, which is not believed: one that is to serve stays as it is while HAProxy's own check passes.
    pub suspect: bool,
    /// How long sticky clients may stay when it leaves.
    pub sticky: Duration,
    /// Who registered it, and etcd's revision of the record: acks name both.
    pub owner: String,
    /// See `owner`.
    pub revision: i64,
    /// How long requests in flight may take once it gets no more, whatever the reason.
    pub inflight: Duration,
}

impl Target {
    /// Whether it is to get traffic, by a record that stands.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.intent == Intent::Serve && !self.suspect
    }
}

/// What `id` should be; `None` if nothing: it is not registered, or a newer instance has its address.
#[must_use]
pub fn target(view: &View, id: &InstanceId) -> Option<Target> {
    let registered = view.instances().get(id)?;
    if view.shadowed_by(id).is_some() {
        return None;
    }
    let record = &registered.record;
    let overriding = view.override_of(id);
    let weight = overriding.and_then(|overriding| overriding.weight).unwrap_or(record.weight);
    Some(Target {
        // A record's address is never unspecified, its port never 0: this cannot fail.
        addr: ServerAddr::new(record.address, record.port.get()).ok()?,
        weight: InitialWeight::try_from(weight.get()).ok()?,
        slowstart_s: u16::try_from(record.slow_start_s).unwrap_or(u16::MAX),
        intent: view.intent_of(id)?,
        suspect: view.is_suspect(id),
        sticky: record.drain.sticky(),
        owner: registered.owner.clone(),
        revision: registered.mod_revision,
        inflight: record.drain.inflight(),
    })
}
