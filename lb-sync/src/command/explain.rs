//! `lb-sync explain`: all that is known of one instance, as a paragraph.

mod facts;
mod traffic;

use std::fmt::Write as _;

use proto::registry::v1::Event;
use registry::key::Key;
use registry::name::InstanceId;
use registry::time::Clock;

use self::facts::Facts;
use super::dry_run::{Foreseen, dry_run};
use super::{CommandError, CommandOutput, ExplainOptions, FAILED, Output, read, running};
use crate::config::RunConfig;
use crate::plan::ids::Ids;
use crate::scope::Scope;
use haproxy::answer::stat::StatRow;

/// Events below the paragraph.
const EVENTS_SHOWN: usize = 5;

/// Exit code 0; 1 if the instance is not known anywhere. `host` is the host's name.
pub async fn explain(options: ExplainOptions, host: &str) -> Result<CommandOutput, CommandError> {
    let ExplainOptions { instance, look } = options;
    let config = RunConfig::new(look.run, host)?;
    let mut registry = read::registry(&config.etcd, &config.pass).await?;
    let unasked = running::adopt_suspects(&config, &mut registry.view).await.err();
    let mut haproxy = read::haproxy(&config.pass.socket).await?;
    let row = haproxy.stat(&instance).await?;
    let scope = Scope::Only([instance.clone()].into());
    let next = dry_run(&config, &registry.view, &mut haproxy, &scope).await?;
    let mut facts = gather(&config, &instance, &registry, &haproxy, row, &next);
    facts.unasked = unasked.as_deref();
    // Of another balancer's lb-sync, or of none, there is nothing to tell.
    let events = if facts.unasked.is_none() { running::events(&config, &instance).await } else { vec![] };
    let code = if facts.is_known() { 0 } else { FAILED };
    Ok(match look.output {
        Output::Text => CommandOutput { text: format!("{}\n{}", facts.paragraph(), lately(&events)), code },
        Output::Json => CommandOutput::json(&with_events(facts.json(), &events), code),
    })
}

/// The last few things that the running lb-sync did about it.
fn lately(events: &[Event]) -> String {
    let mut text = String::new();
    for event in events.iter().take(EVENTS_SHOWN) {
        let refused = if event.refused.is_empty() {
            String::new()
        } else {
            format!("; HAProxy refused: {}", event.refused)
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {} {}: {}{refused}", event.at, event.what, event.why);
    }
    text
}

fn with_events(mut facts: serde_json::Value, events: &[Event]) -> serde_json::Value {
    let event = |event: &Event| {
        serde_json::json!({
            "at": event.at,
            "what": event.what,
            "why": event.why,
            "revision": event.revision,
            "commands": event.commands,
            "refused": event.refused,
        })
    };
    facts["events"] = events.iter().map(event).collect();
    facts
}

fn gather<'a>(
    config: &RunConfig,
    id: &'a InstanceId,
    registry: &'a read::Registry,
    haproxy: &'a read::Haproxy,
    row: Option<StatRow>,
    next: &'a Foreseen,
) -> Facts<'a> {
    let view = &registry.view;
    let unreadable = |key: Key| {
        let key = config.pass.prefix.text(&key);
        registry.unreadable.iter().find(|(bad, _)| *bad == key).map(|(_, why)| why.as_str())
    };
    let server = haproxy.observed.server(id);
    let ids = Ids::new(config.pass.policy.id_base);
    Facts {
        id,
        registered: view.instances().get(id),
        unreadable: unreadable(Key::Instance(id.clone())),
        overriding: view.override_of(id),
        unreadable_wish: unreadable(Key::Override(id.clone())),
        shadowed_by: view.shadowed_by(id),
        suspect_for: view.suspect_until(id).map(|until| until.since(Clock.now())),
        unasked: None,
        version: &haproxy.info.version,
        has_backend: haproxy.observed.backends.contains_key(&id.service),
        ours: server.is_some_and(|server| ids.is_ours(server.id)),
        server,
        row,
        steps: &next.steps,
        waiting: !next.waiting.is_empty(),
    }
}
