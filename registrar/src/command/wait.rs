//! `registrar wait`: returns when every balancer has said that it is so. Nothing is asked twice: it follows the keys.

use std::collections::BTreeSet;

use registry::follow::{Event, Following, follow};
use registry::key::Key;
use registry::name::{BalancerName, InstanceId};
use registry::record::{AckState, InstanceState};
use registry::session::Session;
use tokio_util::sync::CancellationToken;

use super::read::Registry;
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
    let mut sides = keys.map(|key| {
        let (following, task) = follow(session.clone(), key, end.clone());
        tokio::spawn(task);
        Side { following, listed: false, in_sync: false }
    });
    let mut registry = Registry::new(prefix.clone());
    let mut last = "etcd has not told yet how it stands".to_owned();
    let waited = tokio::time::timeout(timeout, async {
        loop {
            let [one, two, three] = &mut sides;
            let (event, at) = tokio::select! {
                event = one.following.recv() => (event, 0),
                event = two.following.recv() => (event, 1),
                event = three.following.recv() => (event, 2),
            };
            let (Some(event), Some(side)) = (event, sides.get_mut(at)) else { continue };
            side.note(&event);
            registry.fold(event);
            // Only a view that is whole and up to date may say that nobody is missing.
            if sides.iter().all(|side| side.listed && side.in_sync) {
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

/// One follower.
struct Side {
    following: Following,
    listed: bool,
    in_sync: bool,
}

impl Side {
    fn note(&mut self, event: &Event) {
        match event {
            Event::Listed { .. } => self.listed = true,
            Event::InSync => self.in_sync = true,
            Event::OutOfSync => self.in_sync = false,
            Event::Changed(_) => {}
        }
    }
}

fn word(reached: Reached) -> &'static str {
    match reached {
        Reached::Serving => "serving",
        Reached::Drained => "drained",
        Reached::Gone => "gone",
    }
}

fn progress(registry: &Registry, id: &InstanceId, reached: Reached) -> Progress {
    let one = registry.instances.get(id);
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
    match (reached, one) {
        (Reached::Serving, None) => missing("it is not registered"),
        (Reached::Serving, Some(one)) if one.record.state == InstanceState::Down => {
            missing("its record says that it is unhealthy")
        }
        (Reached::Serving, Some(one)) if one.record.state == InstanceState::Draining => {
            missing("it is leaving")
        }
        (Reached::Serving, Some(_)) if registry.said_of(id).next().is_none() => {
            missing("no balancer that serves its service is present")
        }
        (Reached::Serving, Some(_)) => match said(AckState::Serving) {
            names if names.is_empty() => Progress::There,
            names => all_of(&names, "not yet served by"),
        },
        // Who is not registered has nobody who could send it anything, once no balancer speaks of it.
        (Reached::Drained | Reached::Gone, None) => {
            let speak: BTreeSet<&BalancerName> =
                registry.acks.get(id).into_iter().flatten().map(|(name, _)| name).collect();
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
    use registry::follow::Entry;
    use registry::key::Prefix;

    use super::*;

    fn registry(keys: &[(&str, &str)]) -> Registry {
        let mut registry = Registry::new(Prefix::default());
        let entry = |(key, value): &(&str, &str)| Entry {
            key: format!("/leasehold/v1/{key}").into_bytes(),
            value: value.as_bytes().to_vec(),
            lease: 7,
            create_revision: 1,
            mod_revision: 1,
        };
        registry.fold(Event::Listed { cluster: 1, revision: 1, entries: keys.iter().map(entry).collect() });
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
        assert!(!is(&[UP, OTHER], Reached::Serving), "nobody serves it");
        assert!(!is(&[LB, ("acks/web/a/lb", &mine)], Reached::Serving), "not registered");
    }

    #[test]
    fn drained_and_gone() {
        let (drained, draining) = (ack("drained", "me"), ack("draining", "me"));
        assert!(is(&[UP, LB, ("acks/web/a/lb", &drained)], Reached::Drained));
        assert!(!is(&[UP, LB, ("acks/web/a/lb", &draining)], Reached::Drained));
        assert!(is(&[UP, OTHER], Reached::Drained), "there is nobody to drain it");
        assert!(!is(&[UP, LB, ("acks/web/a/lb", &drained)], Reached::Gone));
        assert!(is(&[LB], Reached::Gone));
        assert!(!is(&[LB, ("acks/web/a/lb", &drained)], Reached::Gone), "the server is still being deleted");
    }
}
