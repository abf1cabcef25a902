//! `registrar show`: all that stands in the registry about one instance.

use std::fmt::Write as _;

use super::list::{acked, mode, plain, state, value};
use super::names;
use super::read::Registry;
use super::{CommandError, CommandOutput, FAILED, Output, ShowOptions};

/// Exit code 0; 1 if it is not registered.
pub async fn show(options: ShowOptions) -> Result<CommandOutput, CommandError> {
    let registry = Registry::read(&options.look.etcd.checked()?).await?;
    let id = &options.instance;
    let Some(one) = registry.instances.values().get(id) else {
        let kept =
            if registry.overrides.values().contains_key(id) { ", and an override stands for it" } else { "" };
        let nearest = names::hint(&registry, id);
        return Ok(CommandOutput { text: format!("{id} is not registered{kept}{nearest}\n"), code: FAILED });
    };
    if options.look.output == Output::Json {
        return Ok(CommandOutput::json(&value(&registry, id, one), 0));
    }
    let (record, mut text) = (&one.record, String::new());
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<12}{value}");
    };
    line("instance", id.to_string());
    line("address", record.endpoint().to_string());
    line("state", state(record.state).into());
    line("weight", record.weight.get().to_string());
    line("slow start", format!("{} s", record.slow_start_s));
    line(
        "drain",
        format!("sticky clients {} s, in flight {} s", record.drain.sticky_s, record.drain.inflight_s),
    );
    line("owner", plain(&record.owner_under(id, one.lease)));
    line("lease", if one.lease == 0 { "none".into() } else { format!("{:x}", one.lease) });
    line("revision", one.mod_revision.to_string());
    if let Some(since) = &record.registered_at {
        line("since", plain(since));
    }
    for (key, value) in &record.labels {
        line("label", format!("{}={}", plain(key), plain(value)));
    }
    if let Some(overriding) = registry.overrides.values().get(id) {
        let what = overriding.mode.map_or("", mode);
        let weight = overriding.weight.map(|weight| format!(" weight {}", weight.get())).unwrap_or_default();
        let by = if overriding.by.is_empty() { "an operator" } else { &overriding.by };
        line(
            "override",
            format!(
                "{what}{weight}, by {}, {}: {}",
                plain(by),
                plain(&overriding.at),
                plain(&overriding.reason)
            ),
        );
    }
    for (name, ack) in registry.said_of(id) {
        let said = ack.map_or_else(
            || "has nothing to say of it".into(),
            |ack| format!("{} since {}", acked(ack.state), plain(&ack.at)),
        );
        line("balancer", format!("{name}: {said}"));
    }
    Ok(CommandOutput::done(text))
}
