//! `registrar list`: who is registered, and what the balancers make of it.

use daemon::table::table;
use registry::name::InstanceId;
use registry::record::{AckState, InstanceState, OverrideMode, OverrideRecord};
use serde_json::{Value, json};

use super::read::{Registered, Registry};
use super::{CommandError, CommandOutput, ListOptions, Output};

/// Exit code 0, also where no instance is registered.
pub async fn list(options: ListOptions) -> Result<CommandOutput, CommandError> {
    let registry = Registry::read(&options.look.etcd.checked()?).await?;
    let wanted = |id: &InstanceId| options.service.as_ref().is_none_or(|service| *service == id.service);
    let some: Vec<_> = registry.instances.values().iter().filter(|(id, _)| wanted(id)).collect();
    Ok(match options.look.output {
        Output::Json => {
            CommandOutput::json(&some.iter().map(|(id, one)| value(&registry, id, one)).collect(), 0)
        }
        Output::Text => CommandOutput::done(text(&registry, &some, &orphans(&registry, wanted))),
    })
}

fn text(registry: &Registry, some: &[(&InstanceId, &Registered)], orphans: &str) -> String {
    if some.is_empty() {
        return format!("no instance is registered\n{orphans}");
    }
    let header = ["INSTANCE", "ADDRESS", "STATE", "WEIGHT", "BALANCERS", "WISH", "LABELS"].map(str::to_owned);
    let mut rows = vec![header.to_vec()];
    for (id, one) in some {
        let overriding = registry.overrides.values().get(id);
        let weight = overriding.and_then(|overriding| overriding.weight).unwrap_or(one.record.weight);
        let labels: Vec<String> =
            one.record.labels.iter().map(|(key, value)| format!("{key}={}", plain(value))).collect();
        rows.push(vec![
            id.to_string(),
            one.record.endpoint().to_string(),
            state(one.record.state).into(),
            weight.get().to_string(),
            acks(registry, id),
            overriding.map_or_else(|| "-".into(), override_text),
            labels.join(" "),
        ]);
    }
    table(&rows) + orphans
}

/// Overrides that are in force for no instance: of one that has gone, or of a name that was a slip.
fn orphans<'a>(registry: &'a Registry, wanted: impl Fn(&InstanceId) -> bool + 'a) -> String {
    let stands = |id: &InstanceId| registry.instances.values().contains_key(id);
    let orphans = registry.overrides.values().iter().filter(|(id, _)| wanted(id) && !stands(id));
    let line = |(id, overriding): (&InstanceId, &OverrideRecord)| {
        format!("override without an instance: {id}: {}\n", override_text(overriding))
    };
    orphans.map(line).collect()
}

/// What any writer may have put there, without what would move the cursor.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// `2 serving`, `1 serving, 1 failing`, `1 serving, 1 without it`.
fn acks(registry: &Registry, id: &InstanceId) -> String {
    let said: Vec<Option<AckState>> = registry.said_of(id).map(|(_, ack)| ack.map(|ack| ack.state)).collect();
    let count = |state| said.iter().filter(|it| **it == Some(state)).count();
    let mut parts: Vec<String> =
        [AckState::Serving, AckState::Failing, AckState::Draining, AckState::Drained]
            .into_iter()
            .filter(|state| count(*state) > 0)
            .map(|state| format!("{} {}", count(state), acked(state)))
            .collect();
    let silent = said.iter().filter(|it| it.is_none()).count();
    if silent > 0 {
        parts.push(format!("{silent} without it"));
    }
    if parts.is_empty() { "none".into() } else { parts.join(", ") }
}

fn override_text(overriding: &OverrideRecord) -> String {
    let mode = overriding.mode.map(mode);
    let weight = overriding.weight.map(|weight| format!("weight {}", weight.get()));
    let by = if overriding.by.is_empty() { String::new() } else { format!(" ({})", plain(&overriding.by)) };
    let what: Vec<String> = mode.map(str::to_owned).into_iter().chain(weight).collect();
    if what.is_empty() { "-".into() } else { format!("{}{by}", what.join(", ")) }
}

pub(super) fn acked(state: AckState) -> &'static str {
    match state {
        AckState::Serving => "serving",
        AckState::Failing => "failing",
        AckState::Draining => "draining",
        AckState::Drained => "drained",
    }
}

pub(super) fn mode(mode: OverrideMode) -> &'static str {
    match mode {
        OverrideMode::Drain => "drain",
        OverrideMode::Maintenance => "maintenance",
    }
}

pub(super) fn state(state: InstanceState) -> &'static str {
    match state {
        InstanceState::Up => "up",
        InstanceState::Down => "down",
        InstanceState::Draining => "draining",
    }
}

/// One instance, for machines: the same in `list` and `show`.
pub(super) fn value(registry: &Registry, id: &InstanceId, one: &Registered) -> Value {
    let balancers: serde_json::Map<String, Value> = registry
        .said_of(id)
        .map(|(name, ack)| (name.to_string(), ack.map_or(Value::Null, |ack| json!(ack.state))))
        .collect();
    json!({
        "service": id.service.as_str(),
        "instance": id.instance.as_str(),
        "record": one.record,
        "revision": one.mod_revision,
        "leased": one.lease != 0,
        "override": registry.overrides.values().get(id),
        "balancers": balancers,
    })
}
