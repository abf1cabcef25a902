//! `registrar wait`: returns when every balancer has said that it is so. Nothing is asked twice: it follows the keys.

use std::collections::BTreeSet;

use registry::follow::{Event, InstanceAcks, follow};
use registry::key::{Key, Prefix};
use registry::name::{BalancerName, InstanceId};
use registry::record::{AckRecord, AckState, BalancerRecord, Intent};
use registry::session::Session;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::names;
use super::read::{Registered, Registry};
use super::{CommandError, CommandOutput, FAILED, Reached, WaitOptions};

/// Events of acks that wait to be folded.
const WAITING_MAX: usize = 64;

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
    let found = Registry::read(&config).await?;
    // What was never there would be drained at once. An override that stands tells of an instance that has just gone.
    if reached == Reached::Drained && !found.overrides.values().contains_key(&instance) {
        names::check_registered(&found, &instance)?;
    }
    let nearest = if found.instances.values().contains_key(&instance) {
        String::new()
    } else {
        names::hint(&found, &instance)
    };
    let (session, end) = (Session::new(config.clone()), CancellationToken::new());
    let _end = end.clone().drop_guard();
    let prefix = config.prefix();
    let follow = |key: String| {
        let (following, task) = follow(session.clone(), key, end.clone());
        tokio::spawn(task);
        following
    };
    let mut instances = follow(prefix.text(&Key::Instance(instance.clone())));
    let mut balancers = follow(prefix.balancers());
    let (ack_events, mut acks) = mpsc::channel(WAITING_MAX);
    let mut known = Known::new(prefix, &instance);
    let mut last = "etcd has not told yet how it stands".to_owned();
    let waited = tokio::time::timeout(timeout, async {
        loop {
            tokio::select! {
                Some(event) = instances.recv() => drop(known.registry.instances.fold(event)),
                Some(event) = balancers.recv() => {
                    for key in known.fold_balancers(event) {
                        let mut following = follow(key.clone());
                        let events = ack_events.clone();
                        tokio::spawn(async move {
                            while let Some(event) = following.recv().await {
                                if events.send((key.clone(), event)).await.is_err() {
                                    return;
                                }
                            }
                        });
                    }
                }
                Some((key, event)) = acks.recv() => known.acks.fold(&key, event),
                else => return,
            }
            // Only a view that is whole and current may say that nothing is missing.
            if known.is_current() {
                match progress(&known, &instance, reached) {
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
    Ok(CommandOutput {
        text: format!("{instance} is not {it} after {timeout}: {last}{nearest}\n"),
        code: FAILED,
    })
}

/// What is followed: the instance, the balancers, and the ack of each balancer that is present.
struct Known {
    registry: Registry,
    acks: InstanceAcks,
}

impl Known {
    fn new(prefix: &Prefix, id: &InstanceId) -> Self {
        Self { registry: Registry::new(prefix), acks: InstanceAcks::new(prefix.clone(), id.clone()) }
    }

    /// Returns the keys of acks that are to be followed as well.
    fn fold_balancers(&mut self, event: Event) -> Vec<String> {
        self.registry.balancers.fold(event);
        let present = self.registry.balancers.values().iter();
        self.acks.follow(present.map(|(name, record)| (name, record.ack_layout())))
    }

    fn is_current(&self) -> bool {
        let Registry { instances, balancers, .. } = &self.registry;
        let mut present = balancers.values().iter();
        let acks = present.all(|(name, record)| self.acks.is_current(name, record.ack_layout()));
        instances.is_current() && balancers.is_current() && acks
    }

    fn ack(&self, balancer: &BalancerName, record: &BalancerRecord) -> Option<&AckRecord> {
        self.acks.of(balancer, record.ack_layout())
    }

    /// The balancers that serve the service, each with what it says of the instance as it is registered now.
    fn said_of<'a>(
        &'a self,
        id: &'a InstanceId,
    ) -> impl Iterator<Item = (&'a BalancerName, Option<&'a AckRecord>)> {
        self.registry.said_by(id, |name, record| self.ack(name, record))
    }
}

fn word(reached: Reached) -> &'static str {
    match reached {
        Reached::Serving => "serving",
        Reached::Drained => "drained",
        Reached::Gone => "gone",
    }
}

fn progress(known: &Known, id: &InstanceId, reached: Reached) -> Progress {
    let one = known.registry.instances.values().get(id);
    let said = |state: AckState| -> BTreeSet<&BalancerName> {
        known
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
        (Reached::Serving, Some(_)) if known.said_of(id).next().is_none() => {
            missing("no balancer that serves its service is present")
        }
        (Reached::Serving, Some(_)) => match said(AckState::Serving) {
            names if names.is_empty() => Progress::There,
            names => {
                let fails = |ack: Option<&AckRecord>| ack.is_some_and(|ack| ack.state == AckState::Failing);
                let failing: BTreeSet<&BalancerName> =
                    known.said_of(id).filter(|(_, ack)| fails(*ack)).map(|(name, _)| name).collect();
                if failing.is_empty() {
                    all_of(&names, "not yet served, or not yet checked, by")
                } else {
                    all_of(&failing, "HAProxy's check of it fails on")
                }
            }
        },
        // An instance that is not registered gets nothing any more once no balancer has an ack of it.
        (Reached::Drained | Reached::Gone, None) => {
            let present = known.registry.balancers.values().iter();
            let speak = present.filter(|(name, record)| known.ack(name, record).is_some());
            let speak: BTreeSet<&BalancerName> = speak.map(|(name, _)| name).collect();
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

    use super::*;

    fn known(keys: &[(&str, &str)]) -> Known {
        let mut known = Known::new(&Prefix::default(), &"web/a".parse().unwrap());
        let entry = |(key, value): &(&str, &str)| Entry {
            key: format!("/leasehold/v1/{key}").into_bytes(),
            value: value.as_bytes().to_vec(),
            lease: 7,
            create_revision: 1,
            mod_revision: 1,
        };
        let listed = || Event::Listed { cluster: 1, revision: 1, entries: keys.iter().map(entry).collect() };
        known.registry.instances.fold(listed());
        for key in known.fold_balancers(listed()) {
            known.acks.fold(&key, listed());
        }
        known
    }

    const UP: (&str, &str) = ("instances/web/a", r#"{"address":"10.0.0.5","port":80,"owner":"me"}"#);
    const LB: (&str, &str) =
        ("balancers/lb", r#"{"id":"i","services":["web"],"haproxy_version":"2.6","status":"x"}"#);
    const OTHER: (&str, &str) =
        ("balancers/other", r#"{"services":["api"],"haproxy_version":"2.6","status":"x"}"#);

    fn ack(state: &str, owner: &str) -> String {
        format!(r#"{{"owner":"{owner}","revision":7,"state":"{state}","at":""}}"#)
    }

    fn is(keys: &[(&str, &str)], reached: Reached) -> bool {
        progress(&known(keys), &"web/a".parse().unwrap(), reached) == Progress::There
    }

    #[test]
    fn serving_is_what_every_balancer_of_the_service_says_of_this_owner() {
        let (mine, old) = (ack("serving", "me"), ack("serving", "before"));
        assert!(is(&[UP, LB, OTHER, ("acks/lb/web/a", &mine)], Reached::Serving));
        assert!(!is(&[UP, LB, ("acks/lb/web/a", &old)], Reached::Serving), "who had the name before");
        assert!(!is(&[UP, LB], Reached::Serving));
        let failing = ack("failing", "me");
        let missing = Progress::Missing("HAProxy's check of it fails on lb".into());
        let known = known(&[UP, LB, ("acks/lb/web/a", &failing)]);
        assert_eq!(progress(&known, &"web/a".parse().unwrap(), Reached::Serving), missing);
        assert!(!is(&[UP, OTHER], Reached::Serving), "no balancer serves it");
        assert!(!is(&[LB, ("acks/lb/web/a", &mine)], Reached::Serving), "not registered");
    }

    /// Before, a list only added: an instance that went during a break of the watch was awaited until the timeout.
    #[test]
    fn a_key_that_went_during_a_break_of_the_watch_is_gone() {
        let mut known = known(&[UP, LB]);
        assert_ne!(progress(&known, &"web/a".parse().unwrap(), Reached::Gone), Progress::There);
        known.registry.instances.fold(Event::Listed { cluster: 1, revision: 2, entries: vec![] });
        assert_eq!(progress(&known, &"web/a".parse().unwrap(), Reached::Gone), Progress::There);
    }

    #[test]
    fn drained_and_gone() {
        let (drained, draining) = (ack("drained", "me"), ack("draining", "me"));
        assert!(is(&[UP, LB, ("acks/lb/web/a", &drained)], Reached::Drained));
        assert!(!is(&[UP, LB, ("acks/lb/web/a", &draining)], Reached::Drained));
        assert!(is(&[UP, OTHER], Reached::Drained), "no balancer has to drain it");
        assert!(!is(&[UP, LB, ("acks/lb/web/a", &drained)], Reached::Gone));
        assert!(is(&[LB], Reached::Gone));
        assert!(!is(&[LB, ("acks/lb/web/a", &drained)], Reached::Gone), "the server is still being deleted");
    }
}
