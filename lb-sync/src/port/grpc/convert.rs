//! Reports as messages.

use std::collections::BTreeMap;

use proto::registry::v1;
use registry::name::InstanceId;
use registry::record::{InstanceState, OverrideMode, OverrideRecord};

use super::super::journal::JournalEvent;
use super::super::report::{InstanceReport, Report};
use crate::status::Phase;

/// Where an answer comes from.
pub(super) fn view(report: &Report) -> v1::View {
    let age = report.registry.age.map_or(u128::MAX, |age| age.as_millis());
    v1::View {
        revision: report.registry.revision,
        age_ms: u64::try_from(age).unwrap_or(u64::MAX),
        in_sync: report.registry.in_sync,
        balancer: report.balancer.to_string(),
    }
}

/// Every service with its counts, by name.
pub(super) fn services(report: &Report) -> Vec<v1::Service> {
    let named = |(service, has_backend): (&registry::name::ServiceName, &bool)| {
        let name = service.to_string();
        let backend = if *has_backend { name.clone() } else { String::new() };
        (name.clone(), v1::Service { name, backend, ..v1::Service::default() })
    };
    let mut services: BTreeMap<String, v1::Service> = report.services.iter().map(named).collect();
    for (id, one) in &report.instances {
        let Some(service) = services.get_mut(id.service.as_str()) else { continue };
        service.serving += u32::from(one.status.phase == Phase::Up);
        let Some(registered) = &one.registered else { continue };
        service.instances += 1;
        match registered.record.state {
            InstanceState::Up => service.up += 1,
            InstanceState::Down => service.down += 1,
            InstanceState::Draining => service.draining += 1,
        }
    }
    services.into_values().collect()
}

pub(super) fn state(state: InstanceState) -> v1::InstanceState {
    match state {
        InstanceState::Up => v1::InstanceState::Up,
        InstanceState::Down => v1::InstanceState::Down,
        InstanceState::Draining => v1::InstanceState::Draining,
    }
}

/// One instance; `None` without a record.
pub(super) fn instance(id: &InstanceId, one: &InstanceReport) -> Option<v1::Instance> {
    let registered = one.registered.as_ref()?;
    let record = &registered.record;
    Some(v1::Instance {
        service: id.service.to_string(),
        instance: id.instance.to_string(),
        address: record.address.to_string(),
        port: record.port.get().into(),
        state: state(record.state).into(),
        weight: record.weight.get().into(),
        owner: record.owner.clone().unwrap_or_default(),
        slow_start_s: record.slow_start_s,
        drain: Some(v1::Drain { sticky_s: record.drain.sticky_s, inflight_s: record.drain.inflight_s }),
        labels: record.labels.clone(),
        registered_at: record.registered_at.clone().unwrap_or_default(),
        created_revision: registered.create_revision,
        modified_revision: registered.mod_revision,
        r#override: one.overriding.as_ref().map(overriding),
        balancer: Some(balancer(id, one)),
    })
}

/// One thing that happened.
pub(super) fn event(one: &JournalEvent) -> v1::Event {
    v1::Event {
        at: one.at.clone(),
        instance: one.instance.clone().unwrap_or_default(),
        what: one.what.clone(),
        why: one.why.clone(),
        revision: one.revision.unwrap_or(0),
        commands: one.commands.clone(),
        refused: one.refused.clone().unwrap_or_default(),
    }
}

fn overriding(overriding: &OverrideRecord) -> v1::Override {
    let mode = match overriding.mode {
        None => v1::OverrideMode::Unspecified,
        Some(OverrideMode::Drain) => v1::OverrideMode::Drain,
        Some(OverrideMode::Maintenance) => v1::OverrideMode::Maintenance,
    };
    v1::Override {
        mode: mode.into(),
        weight: overriding.weight.map_or(0, |weight| weight.get().into()),
        reason: overriding.reason.clone(),
        by: overriding.by.clone(),
        at: overriding.at.clone(),
    }
}

fn balancer(id: &InstanceId, one: &InstanceReport) -> v1::BalancerView {
    let state = match one.status.phase {
        Phase::Absent => v1::ServerState::Absent,
        Phase::Up => v1::ServerState::Up,
        Phase::Down => v1::ServerState::Down,
        Phase::Drain => v1::ServerState::Drain,
        Phase::Maint => v1::ServerState::Maint,
    };
    let sessions = one.server.as_ref().and_then(|server| server.sessions);
    v1::BalancerView {
        state: state.into(),
        server: one.server.as_ref().map(|_| id.to_string()).unwrap_or_default(),
        reason: one.reason(),
        reason_code: one.status.reason.code().into(),
        suspect: one.suspect_for.is_some(),
        weight: one.server.as_ref().map_or(0, |server| server.weight.get().into()),
        in_flight: sessions
            .map_or(0, |sessions| u32::try_from(sessions.current + sessions.queued).unwrap_or(u32::MAX)),
        suspect_left_s: one.suspect_for.map_or(0, |left| u32::try_from(left.as_secs()).unwrap_or(u32::MAX)),
    }
}
