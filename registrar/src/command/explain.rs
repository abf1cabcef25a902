//! `registrar explain`: why an instance gets traffic, or none.

mod balancer;

use std::fmt::Write as _;

use registry::name::InstanceId;
use registry::record::{AckState, Intent};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use self::balancer::{Answer, ask};
use super::list::{acked, plain, value};
use super::names;
use super::read::{Registered, Registry};
use super::{CommandError, CommandOutput, ExplainOptions, FAILED, Output};

/// Balancers that are asked; the others are reported by their acks.
const ASKED_MAX: usize = 100;
/// Events below a balancer.
const EVENTS_SHOWN: usize = 3;

/// A balancer: what it has acked, and what it says of itself when it is asked.
struct Side {
    name: String,
    acked: Option<(AckState, String)>,
    answer: Result<Answer, String>,
}

/// Exit code 0; 1 if it is not registered.
pub async fn explain(options: ExplainOptions) -> Result<CommandOutput, CommandError> {
    let registry = Registry::read(&options.look.etcd.checked()?).await?;
    let id = &options.instance;
    let sides = sides(&registry, id).await;
    let one = registry.instances.values().get(id);
    let code = if one.is_some() { 0 } else { FAILED };
    if options.look.output == Output::Json {
        let told = CommandOutput::json(&as_json(&registry, id, one, &sides), 0);
        return Ok(CommandOutput { code, ..told });
    }
    let mut text = format!("{}\n", verdict(&registry, id, one, &sides));
    for side in &sides {
        text.push_str(&paragraph(side));
    }
    Ok(CommandOutput { text, code })
}

async fn sides(registry: &Registry, id: &InstanceId) -> Vec<Side> {
    let mut asking = JoinSet::new();
    for (name, _) in registry.said_of(id).take(ASKED_MAX) {
        let addr =
            registry.balancers.values().get(name).map(|record| record.status.clone()).unwrap_or_default();
        let (name, id) = (name.clone(), id.clone());
        asking.spawn(async move { (name.clone(), ask(&name, &addr, &id).await) });
    }
    let mut answers: Vec<_> = asking.join_all().await;
    let mut sides = vec![];
    for (name, ack) in registry.said_of(id) {
        let at = answers.iter().position(|(of, _)| of == name);
        let answer = at.map_or_else(|| Err("was not asked: too many".into()), |at| answers.swap_remove(at).1);
        let acked = ack.map(|ack| (ack.state, plain(&ack.at)));
        sides.push(Side { name: name.to_string(), acked, answer });
    }
    sides
}

/// The first line: does it get traffic, and if not by whose doing.
fn verdict(registry: &Registry, id: &InstanceId, one: Option<&Registered>, sides: &[Side]) -> String {
    let serving = sides.iter().filter(|side| side.serves()).count();
    let where_to = match (sides.len(), serving) {
        (0, _) => format!("no balancer that is present serves {}", id.service),
        (all, 0) => format!("gets no traffic on any of {all} balancers"),
        (all, serving) => format!("gets traffic on {serving} of {all} balancers"),
    };
    let Some(one) = one else {
        return format!("{id} is not registered{}; it {where_to}.", names::hint(registry, id));
    };
    let overriding = registry.overrides.values().get(id);
    let mode = overriding.and_then(|overriding| overriding.mode);
    let intent = Intent::of(one.record.state, mode);
    let failing: Vec<&str> =
        sides.iter().filter(|side| side.fails()).map(|side| side.name.as_str()).collect();
    let why = if intent == Intent::Serve && !failing.is_empty() {
        format!("HAProxy's check of it fails on {}", failing.join(", "))
    } else {
        intent.text().to_owned()
    };
    let by = overriding.map_or_else(String::new, |overriding| {
        let by = if overriding.by.is_empty() { "an operator" } else { &overriding.by };
        let weight = overriding.weight.map(|weight| format!(", weight {}", weight.get())).unwrap_or_default();
        let reason = if overriding.reason.is_empty() { "no reason given" } else { &overriding.reason };
        format!(" (override by {}, {}{weight}: {})", plain(by), plain(&overriding.at), plain(reason))
    });
    let at = one.record.endpoint();
    format!("{id} at {at} {where_to}: {why}{by}.")
}

fn paragraph(side: &Side) -> String {
    let name = &side.name;
    let acked = match &side.acked {
        Some((state, at)) => format!("{} since {at}", acked(*state)),
        None => "nothing".into(),
    };
    let mut text = match &side.answer {
        Ok(answer) => format!("  {name}: {} (acked: {acked})\n", plain(&answer.sentence())),
        Err(why) => format!("  {name}: {}; acked: {acked}\n", plain(why)),
    };
    for event in side.answer.iter().flat_map(|answer| answer.events.iter().take(EVENTS_SHOWN)) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "    {} {}: {}", plain(&event.at), plain(&event.what), plain(&event.why));
    }
    text
}

fn as_json(registry: &Registry, id: &InstanceId, one: Option<&Registered>, sides: &[Side]) -> Value {
    let side = |side: &Side| {
        let (answer, unasked) = match &side.answer {
            Ok(answer) => (answer.as_json(), Value::Null),
            Err(why) => (Value::Null, json!(why)),
        };
        let acked = side.acked.as_ref().map(|(state, _)| state);
        json!({"balancer": side.name, "acked": acked, "server": answer, "not_asked": unasked})
    };
    json!({
        "registered": one.map(|one| value(registry, id, one)),
        "verdict": verdict(registry, id, one, sides),
        "balancers": sides.iter().map(side).collect::<Vec<_>>(),
    })
}

impl Side {
    fn fails(&self) -> bool {
        matches!(self.acked, Some((AckState::Failing, _)))
    }

    /// By its own word, or else by its ack.
    fn serves(&self) -> bool {
        match &self.answer {
            Ok(answer) => answer.serves(),
            Err(_) => matches!(self.acked, Some((AckState::Serving, _))),
        }
    }
}
