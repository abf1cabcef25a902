//! What an order is refused for, unless the operator insists: an instance that is not there, and the last one in rotation.

use registry::name::InstanceId;
use registry::record::{AckState, Intent};

use super::CommandError;
use super::read::Registry;

/// How alike two names are at least, so that one may be a slip for the other (Jaro-Winkler: 0 to 1).
const ALIKE_MIN: f64 = 0.8;

/// Fails where no instance of this name is registered.
pub(super) fn check_registered(registry: &Registry, id: &InstanceId) -> Result<(), CommandError> {
    if registry.instances.values().contains_key(id) {
        return Ok(());
    }
    Err(CommandError::NotRegistered { id: id.clone(), nearest: hint(registry, id) })
}

/// Fails where `id` is to get traffic, and no other instance of its service is known to. One that every balancer has down may go.
pub(super) fn check_not_last(registry: &Registry, id: &InstanceId) -> Result<(), CommandError> {
    let mut others =
        registry.instances.values().keys().filter(|other| other.service == id.service && *other != id);
    let is_down = said(registry, id).next().is_some()
        && said(registry, id).all(|state| state == Some(AckState::Failing));
    if is_wanted(registry, id) && !is_down && !others.any(|other| serves(registry, other)) {
        return Err(CommandError::Last(id.clone()));
    }
    Ok(())
}

/// `; did you mean web/web-1?`, where a name is like that of `id`.
pub(super) fn hint(registry: &Registry, id: &InstanceId) -> String {
    let text = id.to_string();
    let alike = registry.instances.values().keys().map(|other| {
        let other = other.to_string();
        (strsim::jaro_winkler(&text, &other), other)
    });
    let nearest =
        alike.filter(|(alike, _)| *alike >= ALIKE_MIN).max_by(|one, other| one.0.total_cmp(&other.0));
    nearest.map(|(_, name)| format!("; did you mean {name}?")).unwrap_or_default()
}

/// Whether record and override want traffic for it.
fn is_wanted(registry: &Registry, id: &InstanceId) -> bool {
    let mode = registry.overrides.values().get(id).and_then(|overriding| overriding.mode);
    let one = registry.instances.values().get(id);
    one.is_some_and(|one| Intent::of(one.record.state, mode) == Intent::Serve)
}

/// Whether it is to get traffic, and a balancer says that it does, or has not checked it yet; where no balancer is present, the
/// first is enough.
fn serves(registry: &Registry, id: &InstanceId) -> bool {
    let mut said = said(registry, id).peekable();
    let is_served = |state: Option<AckState>| matches!(state, None | Some(AckState::Serving));
    is_wanted(registry, id) && (said.peek().is_none() || said.any(is_served))
}

fn said<'a>(registry: &'a Registry, id: &'a InstanceId) -> impl Iterator<Item = Option<AckState>> + 'a {
    registry.said_of(id).map(|(_, ack)| ack.map(|ack| ack.state))
}

#[cfg(test)]
mod tests {
    use registry::follow::{Entry, Event};
    use registry::key::Prefix;

    use super::*;

    fn registry(keys: &[(&str, &str)]) -> Registry {
        let entry = |(key, value): &(&str, &str)| Entry {
            key: format!("/leasehold/v1/{key}").into_bytes(),
            value: value.as_bytes().to_vec(),
            lease: 7,
            create_revision: 1,
            mod_revision: 1,
        };
        let listed = || Event::Listed { cluster: 1, revision: 1, entries: keys.iter().map(entry).collect() };
        let mut registry = Registry::new(&Prefix::default());
        registry.instances.fold(listed());
        registry.overrides.fold(listed());
        registry.balancers.fold(listed());
        registry.acks.fold(listed());
        registry
    }

    fn id(text: &str) -> InstanceId {
        text.parse().unwrap()
    }

    const UP: &str = r#"{"address":"10.0.0.5","port":80,"owner":"me"}"#;
    const SERVING: &str = r#"{"owner":"me","revision":1,"state":"serving","at":""}"#;
    const FAILING: &str = r#"{"owner":"me","revision":1,"state":"failing","at":""}"#;
    const LB: (&str, &str) =
        ("balancers/lb", r#"{"id":"i","services":["web"],"haproxy_version":"2.6","status":"x"}"#);

    #[test]
    fn a_name_that_is_not_there_is_refused_with_the_nearest_one() {
        let registry = registry(&[("instances/web/flask-1", UP), ("instances/api/b", UP)]);
        assert!(check_registered(&registry, &id("web/flask-1")).is_ok());
        let error = check_registered(&registry, &id("wbe/flask-1")).unwrap_err().to_string();
        assert!(
            error.starts_with("no instance wbe/flask-1 is registered; did you mean web/flask-1?"),
            "{error}"
        );
        let error = check_registered(&registry, &id("shop/x")).unwrap_err().to_string();
        assert!(error.starts_with("no instance shop/x is registered\n"), "{error}");
    }

    #[test]
    fn the_last_one_in_rotation_is_kept() {
        let both = [("instances/web/a", UP), ("instances/web/b", UP)];
        assert!(check_not_last(&registry(&both), &id("web/a")).is_ok());
        let drained = ("overrides/web/b", r#"{"mode":"drain"}"#);
        let with = |more: &[(&str, &str)]| registry(&[both.as_slice(), more].concat());
        assert!(check_not_last(&with(&[drained]), &id("web/a")).is_err());
        assert!(check_not_last(&with(&[drained]), &id("web/b")).is_ok(), "it is out already");
        let serving = ("acks/lb/web/a", SERVING);
        let failing = ("acks/lb/web/b", FAILING);
        assert!(check_not_last(&with(&[LB, serving, ("acks/lb/web/b", SERVING)]), &id("web/a")).is_ok());
        assert!(check_not_last(&with(&[LB, serving, failing]), &id("web/a")).is_err(), "HAProxy has b down");
        assert!(check_not_last(&with(&[LB, failing]), &id("web/b")).is_ok(), "and may be taken out");
    }
}
