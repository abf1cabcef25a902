//! `registrar wait`: returns when every balancer has said that it is so. Nothing is asked twice: it follows the keys.

use std::collections::BTreeSet;

use registry::follow::follow;
use registry::key::Key;
use registry::name::{BalancerName, InstanceId};
use registry::record::{AckState, Intent};
use registry::session::Session;
use tokio_util::sync::CancellationToken;

use super::read::{Registered, Registry};
use super::{CommandError, CommandOutput, FAILED, Reached, WaitOptions};

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    /// It is so.
    There,
    /// It is not, and this is what is missing.
    Missing(String),
}

/// Exit code 0; 1 if it did not come to be in time.
pub async fn wait(options: WaitOptions) -> Result<CommandOutput, CommandError> {
    let WaitOptions { instance, reached, timeout, etcd } = options;
    let config = etcd.checked()?;
    // What cannot be reached is told at once, and not after the whole wait.
    Registry::read(&config).await?;
    let (session, end) = (Session::new(config.clone()), CancellationToken::new());
    let _end = end.clone().drop_guard();
    let prefix = config.prefix();
    let keys = [prefix.text(&Key::Instance(instance.clone())), prefix.balancers(), prefix.acks_of(&instance)];
    let [mut instances, mut balancers, mut acks] = keys.map(|key| {
        let (following, task) = follow(session.clone(), key, end.clone());
        tokio::spawn(task);
        following
    });
    let mut registry = Registry::new(prefix);
    let mut last = "etcd has not told yet how it stands".to_owned();
    let waited = tokio::time::timeout(timeout, async {
        loop {
            tokio::select! {
                Some(event) = instances.recv() => drop(registry.instances.fold(event)),
                Some(event) = balancers.recv() => drop(registry.balancers.fold(event)),
                Some(event) = acks.recv() => drop(registry.acks.fold(event)),
                else => return,
            }
            // Only a view that is whole and current may say that nothing is missing.
            if is_current(&registry) {
                match progress(&registry, &instance, reached) {
                    Progress::There => return,
                    Progress::Missing(what) => last = what,
                }
            }
        }
    });
    let it = word(reached);
    if waited.await.is_ok() {
        return Ok(CommandOutput::done(format!("{instance} is {it}\n")));
    }
    let timeout = humantime::format_duration(timeout);
    Ok(CommandOutput { text: format!("{instance} is not {it} after {timeout}: {last}\n"), code: FAILED })
}

fn is_current(registry: &Registry) -> bool {
    registry.instances.is_current() && registry.balancers.is_current() && registry.acks.is_current()
}

fn word(reached: Reached) -> &'static str {
    match reached {
        Reached::Serving => "serving",
        Reached::Drained => "drained",
        Reached::Gone => "gone",
    }
}

fn progress(registry: &Registry, id: &InstanceId, reached: Reached) -> Progress {
    let one = registry.instances.values().get(id);
    let said = |state: AckState| -> BTreeSet<&BalancerName> {
        registry
            .said_of(id)
            .filter(|(_, ack)| ack.is_none_or(|ack| ack.state != state))
            .map(|(name, _)| name)
            .collect()
    };
    let missing = |what: &str| Progress::Missing(what.to_owned());
    let all_of = |names: &BTreeSet<&BalancerName>, what: &str| {
        let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
        Progress::Missing(format!("{what} {}", names.join(", ")))
    };
    // An operator's order shows in what the balancers say.
    let intent = |one: &Registered| Intent::of(one.record.state, None);
    match (reached, one) {
        (Reached::Serving, None) => missing("it is not registered"),
        (Reached::Serving, Some(one)) if intent(one) != Intent::Serve => missing(intent(one).text()),
        (Reached::Serving, Some(_)) if registry.said_of(id).next().is_none() => {
            missing("no balancer that serves its service is present")
        }
        (Reached::Serving, Some(_)) => match said(AckState::Serving) {
            names if names.is_empty() => Progress::There,
            names => all_of(&names, "not yet served by"),
        },
        // An instance that is not registered gets nothing any more once no balancer has an ack of it.
        (Reached::Drained | Reached::Gone, None) => {
            let speak: BTreeSet<&BalancerName> = registry.acks_of(id).map(|(name, _)| name).collect();
            if speak.is_empty() { Progress::There } else { all_of(&speak, "still spoken of by") }
        }
        (Reached::Gone, Some(_)) => missing("it is registered"),
        (Reached::Drained, Some(_)) => match said(AckState::Drained) {
            names if names.is_empty() => Progress::There,
            names => all_of(&names, "not yet drained by"),
        },
    }
}

#[cfg(test)]
mod tests {
    use registry::follow::{Entry, Event};
    use registry::key::Prefix;

    use super::*;

    fn registry(keys: &[(&str, &str)]) -> Registry {
        let mut registry = Registry::new(&Prefix::default());
        let entry = |(key, value): &(&str, &str)| Entry {
            key: format!("/leasehold/v1/{key}").into_bytes(),
            value: value.as_bytes().to_vec(),
            lease: 7,
            create_revision: 1,
            mod_revision: 1,
        };
        let listed = || Event::Listed { cluster: 1, revision: 1, entries: keys.iter().map(entry).collect() };
        registry.instances.fold(listed());
        registry.balancers.fold(listed());
        registry.acks.fold(listed());
        registry
    }

    const UP: (&str, &str) = ("instances/web/a", r#"{"address":"10.0.0.5","port":80,"owner":"me"}"#);
    const LB: (&str, &str) = ("balancers/lb", r#"{"services":["web"],"haproxy_version":"2.6","status":"x"}"#);
    const OTHER: (&str, &str) =
        ("balancers/other", r#"{"services":["api"],"haproxy_version":"2.6","status":"x"}"#);

    fn ack(state: &str, owner: &str) -> String {
        format!(r#"{{"owner":"{owner}","state":"{state}","at":""}}"#)
    }

    fn is(keys: &[(&str, &str)], reached: Reached) -> bool {
        progress(&registry(keys), &"web/a".parse().unwrap(), reached) == Progress::There
    }

    #[test]
    fn serving_is_what_every_balancer_of_the_service_says_of_this_owner() {
        let (mine, old) = (ack("serving", "me"), ack("serving", "before"));
        assert!(is(&[UP, LB, OTHER, ("acks/web/a/lb", &mine)], Reached::Serving));
        assert!(!is(&[UP, LB, ("acks/web/a/lb", &old)], Reached::Serving), "who had the name before");
        assert!(!is(&[UP, LB], Reached::Serving));
        assert!(!is(&[UP, OTHER], Reached::Serving), "no balancer serves it");
        assert!(!is(&[LB, ("acks/web/a/lb", &mine)], Reached::Serving), "not registered");
    }

    /// Before, a list only added: an instance that went during a break of the watch was awaited until the timeout.
    #[test]
    fn a_key_that_went_during_a_break_of_the_watch_is_gone() {
        let mut registry = registry(&[UP, LB]);
        assert_ne!(progress(&registry, &"web/a".parse().unwrap(), Reached::Gone), Progress::There);
        registry.instances.fold(Event::Listed { cluster: 1, revision: 2, entries: vec![] });
        assert_eq!(progress(&registry, &"web/a".parse().unwrap(), Reached::Gone), Progress::There);
    }

    #[test]
    fn drained_and_gone() {
        let (drained, draining) = (ack("drained", "me"), ack("draining", "me"));
        assert!(is(&[UP, LB, ("acks/web/a/lb", &drained)], Reached::Drained));
        assert!(!is(&[UP, LB, ("acks/web/a/lb", &draining)], Reached::Drained));
        assert!(is(&[UP, OTHER], Reached::Drained), "no balancer has to drain it");
        assert!(!is(&[UP, LB, ("acks/web/a/lb", &drained)], Reached::Gone));
        assert!(is(&[LB], Reached::Gone));
        assert!(!is(&[LB, ("acks/web/a/lb", &drained)], Reached::Gone), "the server is still being deleted");
    }
}
