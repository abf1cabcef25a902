//! What an instance should be, by the registry alone.

use std::time::Duration;

use registry::name::InstanceId;
use registry::record::{InstanceRecord, InstanceState, OverrideMode};

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
    pub mode: Mode,
    /// Who registered it: acks name it.
    pub owner: String,
    /// How long requests in flight may take once it gets no more, whatever the reason.
    pub inflight: Duration,
}

/// Whether an instance gets traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It does.
    Serve,
    /// It says that it is unhealthy.
    Down,
    /// An operator wants it out at once.
    Maintenance,
    /// It has expired together with much of its service: it stays as it is while HAProxy's own check passes.
    Suspect,
    /// It is leaving, or an operator wants it drained: sticky clients may stay this long.
    Leave {
        /// How long sticky clients may stay.
        sticky: Duration,
    },
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
        mode: if view.is_suspect(id) {
            Mode::Suspect
        } else {
            mode(record, overriding.and_then(|overriding| overriding.mode))
        },
        owner: registered.owner.clone(),
        inflight: record.drain.inflight(),
    })
}

/// The strictest of what the instance says and what the operator wants.
fn mode(record: &InstanceRecord, overriding: Option<OverrideMode>) -> Mode {
    let leave = Mode::Leave { sticky: record.drain.sticky() };
    match (record.state, overriding) {
        (InstanceState::Down, _) => Mode::Down,
        (_, Some(OverrideMode::Maintenance)) => Mode::Maintenance,
        (InstanceState::Draining, _) | (_, Some(OverrideMode::Drain)) => leave,
        (InstanceState::Up, None) => Mode::Serve,
    }
}
