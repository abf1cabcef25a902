//! Finds a name for an instance that was given none: a numbered one, `<service>-<n>`, or the host's, which is not taken from
//! one that lives elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use registry::backoff::Backoff;
use registry::follow::Entry;
use registry::key::{Key, Prefix};
use registry::lease::{LeaseId, TimeToLive};
use registry::name::{InstanceId, InstanceName, ServiceName};
use registry::record::{InstanceRecord, parse};
use registry::time::Tick;

/// Largest number, and its digits: a service of more instances has other troubles.
const NUMBER_MAX: u32 = 999_999;
/// Most digits of a claimed number.
pub const DIGITS_MAX: usize = 6;
/// Bounds of the wait between two lists while etcd does not answer.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Pause between two looks at a name that another one has: etcd counts a lease's time in whole seconds.
const HELD_POLL: Duration = Duration::from_secs(1);

/// What name is searched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The lowest free number. With `returns`, a name that is registered at the instance's address was an earlier life's, and
    /// comes first.
    Number {
        /// See above.
        returns: bool,
    },
    /// This one, once no living instance at another address has it.
    Host(InstanceName),
}

/// A name, and what was seen of its key: its `mod_revision`, 0 if it is absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The name.
    pub name: InstanceName,
    /// The revision on which the claim is to be written.
    pub expected: i64,
}

/// What happened to a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// What was listed, or why etcd did not list it.
    Listed(Result<Vec<Entry>, String>),
    /// How much time the lease has that was asked about, `None` if it has ended; or why etcd did not say.
    Lease(Result<Option<TimeToLive>, String>),
    /// The moment of [`NameSearch::wake_at`] has come.
    Woke,
}

/// What a search does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// List what [`NameSearch::prefix`] says.
    List,
    /// Ask how much time this lease has.
    AskLease(LeaseId),
    /// Log that a living instance has the name. Returned once a search.
    ReportHeld {
        /// The name.
        name: InstanceName,
        /// Where that one is, if its record says so.
        by: Option<SocketAddr>,
    },
    /// End the search. `None`: every number is taken.
    Choose(Option<Claim>),
    /// Log that etcd did not answer. Returned once a search.
    ReportRetry {
        /// The error.
        cause: String,
    },
}

/// A search for a free name: it lists until etcd answers, then chooses. The first list is the owner's to start.
#[derive(Debug)]
pub(super) struct NameSearch {
    prefix: Prefix,
    service: ServiceName,
    at: SocketAddr,
    wanted: Wanted,
    retry: Backoff,
    retry_at: Option<Tick>,
    reported: bool,
    /// The name's key as it stands, while its lease is asked about.
    held: Option<Entry>,
    reported_held: bool,
}

impl NameSearch {
    /// Searches a name of `service` for an instance at `at`. `seed` spreads the retries of many registrars.
    pub(super) fn new(
        prefix: Prefix,
        service: ServiceName,
        at: SocketAddr,
        wanted: Wanted,
        seed: u64,
    ) -> Self {
        let retry = Backoff::new(RETRY_FIRST, RETRY_MAX, seed);
        let (retry_at, reported, held, reported_held) = (None, false, None, false);
        Self { prefix, service, at, wanted, retry, retry_at, reported, held, reported_held }
    }

    /// What is to be listed: the instances of the service, or the one key.
    pub(super) fn prefix(&self) -> String {
        match &self.wanted {
            Wanted::Number { .. } => self.prefix.instances_of(&self.service),
            Wanted::Host(name) => self.prefix.text(&Key::Instance(self.id_of(name))),
        }
    }

    fn id_of(&self, name: &InstanceName) -> InstanceId {
        InstanceId { service: self.service.clone(), instance: name.clone() }
    }

    /// The address of the instance.
    pub(super) fn at(&self) -> SocketAddr {
        self.at
    }

    /// What name is searched.
    pub(super) fn wanted(&self) -> Wanted {
        self.wanted.clone()
    }

    /// When [`Input::Woke`] is due.
    pub(super) fn wake_at(&self) -> Option<Tick> {
        self.retry_at
    }

    /// The next actions.
    pub(super) fn step(&mut self, now: Tick, input: Input) -> Vec<Action> {
        match input {
            Input::Listed(Ok(entries)) => {
                self.retry_at = None;
                match self.wanted.clone() {
                    Wanted::Number { returns } => {
                        let claim = choose(&self.prefix, &self.service, &entries, self.at, returns);
                        vec![Action::Choose(claim)]
                    }
                    Wanted::Host(name) => self.look_at_holder(now, name, entries),
                }
            }
            Input::Lease(Ok(ttl)) => {
                let (Some(held), Wanted::Host(name)) = (self.held.take(), self.wanted.clone()) else {
                    return vec![];
                };
                if ttl.is_none_or(TimeToLive::has_missed_a_beat) {
                    return vec![Action::Choose(Some(Claim { name, expected: held.mod_revision }))];
                }
                self.wait_for_holder(now, name, &held)
            }
            Input::Listed(Err(cause)) | Input::Lease(Err(cause)) => {
                self.held = None;
                self.retry_at = Some(now.plus(self.retry.after_failure()));
                let first = !std::mem::replace(&mut self.reported, true);
                if first { vec![Action::ReportRetry { cause }] } else { vec![] }
            }
            Input::Woke if self.retry_at.is_some_and(|due| now >= due) => {
                self.retry_at = None;
                vec![Action::List]
            }
            Input::Woke => vec![],
        }
    }

    /// The host's name is free, or an earlier life's at this address; or its lease tells whether the one that has it lives.
    fn look_at_holder(&mut self, now: Tick, name: InstanceName, entries: Vec<Entry>) -> Vec<Action> {
        let key = self.prefix().into_bytes();
        let Some(held) = entries.into_iter().find(|entry| entry.key == key) else {
            return vec![Action::Choose(Some(Claim { name, expected: 0 }))];
        };
        if endpoint(&held) == Some(self.at) {
            return vec![Action::Choose(Some(Claim { name, expected: held.mod_revision }))];
        }
        if held.lease == 0 {
            return self.wait_for_holder(now, name, &held);
        }
        let lease = held.lease;
        self.held = Some(held);
        vec![Action::AskLease(lease)]
    }

    fn wait_for_holder(&mut self, now: Tick, name: InstanceName, held: &Entry) -> Vec<Action> {
        self.retry_at = Some(now.plus(HELD_POLL));
        let first = !std::mem::replace(&mut self.reported_held, true);
        if first { vec![Action::ReportHeld { name, by: endpoint(held) }] } else { vec![] }
    }
}

/// Where the instance of a record is.
fn endpoint(entry: &Entry) -> Option<SocketAddr> {
    parse::<InstanceRecord>(&entry.value).ok().map(|record| record.endpoint())
}

/// The lowest free number; `None` if all are taken. With `returns`, a numbered name that is registered at `at`, our own
/// address, comes first. Its owner can no longer be there: it was an earlier life of ours (a container that was killed and
/// started again), and its sticky clients find us.
fn choose(
    prefix: &Prefix,
    service: &ServiceName,
    entries: &[Entry],
    at: SocketAddr,
    returns: bool,
) -> Option<Claim> {
    let mut taken = BTreeSet::new();
    let mut ours = BTreeMap::new();
    for entry in entries {
        let Ok(Key::Instance(id)) = prefix.parse(&entry.key) else { continue };
        let Some(number) = number(service, &id.instance) else { continue };
        taken.insert(number);
        let is_ours = parse::<InstanceRecord>(&entry.value).is_ok_and(|record| record.endpoint() == at);
        if is_ours && returns {
            ours.insert(number, entry.mod_revision);
        }
    }
    let (number, expected) = match ours.first_key_value() {
        Some((number, revision)) => (*number, *revision),
        None => ((1..=NUMBER_MAX).find(|number| !taken.contains(number))?, 0),
    };
    let name = format!("{service}-{number}").parse().ok()?;
    Some(Claim { name, expected })
}

/// The number in a name of the form `<service>-<n>`; `None` for `web-01`.
fn number(service: &ServiceName, name: &InstanceName) -> Option<u32> {
    let digits = name.as_str().strip_prefix(service.as_str())?.strip_prefix('-')?;
    let plain =
        digits.len() <= DIGITS_MAX && !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, address: &str, mod_revision: i64) -> Entry {
        let value = format!(r#"{{"address":"{address}","port":3000,"owner":"x"}}"#).into_bytes();
        let key = format!("/leasehold/v1/instances/{name}").into_bytes();
        Entry { key, value, lease: 1, create_revision: 1, mod_revision }
    }

    fn chosen(entries: &[Entry], returns: bool) -> (String, i64) {
        let at = "10.0.0.9:3000".parse().unwrap();
        let claim = choose(&Prefix::default(), &"web".parse().unwrap(), entries, at, returns).unwrap();
        (claim.name.to_string(), claim.expected)
    }

    #[test]
    fn the_lowest_free_number_is_taken() {
        assert_eq!(chosen(&[], true), ("web-1".into(), 0));
        let some = [
            entry("web/web-1", "10.0.0.1", 5),
            entry("web/web-3", "10.0.0.3", 6),
            // Not numbered names of the service.
            entry("web/web-02", "10.0.0.4", 7),
            entry("web/other", "10.0.0.5", 8),
            entry("web/web-2x", "10.0.0.6", 9),
        ];
        assert_eq!(chosen(&some, true), ("web-2".into(), 0));
    }

    #[test]
    fn a_name_registered_at_our_address_is_ours_again() {
        let some = [entry("web/web-1", "10.0.0.1", 5), entry("web/web-3", "10.0.0.9", 6)];
        assert_eq!(chosen(&some, true), ("web-3".into(), 6));
        assert_eq!(
            chosen(&some, false),
            ("web-2".into(), 0),
            "an instance that lost its name does not fight for it"
        );
    }

    const NOW: Tick = Tick::from_ms(1_000);

    fn numbered(at: SocketAddr) -> NameSearch {
        let wanted = Wanted::Number { returns: true };
        NameSearch::new(Prefix::default(), "web".parse().unwrap(), at, wanted, 1)
    }

    fn claim_of_host(expected: i64) -> [Action; 1] {
        [Action::Choose(Some(Claim { name: "node".parse().unwrap(), expected }))]
    }

    /// Two cloned hosts: the second waits for as long as the first lives.
    #[test]
    fn the_hosts_name_is_not_taken_from_one_that_lives_elsewhere() {
        let at = "10.0.0.9:3000".parse().unwrap();
        let search = || {
            let wanted = Wanted::Host("node".parse().unwrap());
            NameSearch::new(Prefix::default(), "web".parse().unwrap(), at, wanted, 1)
        };
        let ttl = |left| {
            let (granted, left) = (Duration::from_secs(10), Duration::from_secs(left));
            Input::Lease(Ok(Some(TimeToLive { granted, left })))
        };
        let listed = |address| {
            Input::Listed(Ok(vec![entry("web/node", address, 5), entry("web/node-2", "10.0.0.7", 6)]))
        };
        assert_eq!(search().prefix(), "/leasehold/v1/instances/web/node");
        assert_eq!(search().step(NOW, Input::Listed(Ok(vec![]))), claim_of_host(0));
        assert_eq!(
            search().step(NOW, listed("10.0.0.9")),
            claim_of_host(5),
            "an earlier life at this address"
        );
        let mut search = search();
        assert_eq!(search.step(NOW, listed("10.0.0.1")), [Action::AskLease(1)]);
        let by = "10.0.0.1:3000".parse().ok();
        let name = "node".parse().unwrap();
        assert_eq!(search.step(NOW, ttl(9)), [Action::ReportHeld { name, by }]);
        let due = search.wake_at().unwrap();
        assert_eq!(search.step(due, Input::Woke), [Action::List]);
        search.step(due, listed("10.0.0.1"));
        assert_eq!(search.step(due, ttl(6)), [], "reported once");
        search.step(due, listed("10.0.0.1"));
        assert_eq!(search.step(due, ttl(4)), claim_of_host(5));
        search.step(due, listed("10.0.0.1"));
        assert_eq!(search.step(due, Input::Lease(Ok(None))), claim_of_host(5));
    }

    #[test]
    fn a_search_retries_with_backoff_and_reports_the_first_failure() {
        let at = "10.0.0.9:3000".parse().unwrap();
        let mut search = numbered(at);
        assert_eq!(search.wake_at(), None);
        let cause = || "no answer".to_owned();
        assert_eq!(search.step(NOW, Input::Listed(Err(cause()))), [Action::ReportRetry { cause: cause() }]);
        let mut now = NOW;
        for _ in 0..10 {
            let due = search.wake_at().unwrap();
            assert!(due > now && due <= now.plus(RETRY_MAX));
            assert_eq!(search.step(now, Input::Woke), [], "it is not due");
            assert_eq!(search.step(due, Input::Woke), [Action::List]);
            assert_eq!(search.step(due, Input::Woke), [], "one list at a time");
            now = due;
            assert_eq!(search.step(now, Input::Listed(Err(cause()))), [], "the failure was reported");
        }
        let claim = Claim { name: "web-1".parse().unwrap(), expected: 0 };
        assert_eq!(search.step(now, Input::Listed(Ok(vec![]))), [Action::Choose(Some(claim))]);
        assert_eq!(search.wake_at(), None);
    }
}
