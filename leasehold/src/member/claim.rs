//! Finds a numbered name, `<service>-<n>`, for an instance that was given none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use registry::backoff::Backoff;
use registry::follow::Entry;
use registry::key::{Key, Prefix};
use registry::name::{InstanceName, ServiceName};
use registry::record::{InstanceRecord, parse};
use registry::time::Tick;

/// Largest number, and its digits: a service of more instances has other troubles.
const NUMBER_MAX: u32 = 999_999;
/// Most digits of a claimed number.
pub const DIGITS_MAX: usize = 6;
/// Bounds of the wait between two lists while etcd does not answer.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

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
    /// The instances of the service, or why etcd did not list them.
    Listed(Result<Vec<Entry>, String>),
    /// The moment of [`NameSearch::wake_at`] has come.
    Woke,
}

/// What a search does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// List the instances of the service.
    List,
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
    /// A name registered at `at` was an earlier life's.
    returns: bool,
    retry: Backoff,
    retry_at: Option<Tick>,
    reported: bool,
}

impl NameSearch {
    /// Searches a name of `service` for an instance at `at`. With `returns`, a name that is registered at `at` comes first.
    /// `seed` spreads the retries of many registrars.
    pub(super) fn new(
        prefix: Prefix,
        service: ServiceName,
        at: SocketAddr,
        returns: bool,
        seed: u64,
    ) -> Self {
        let retry = Backoff::new(RETRY_FIRST, RETRY_MAX, seed);
        Self { prefix, service, at, returns, retry, retry_at: None, reported: false }
    }

    /// The address of the instance.
    pub(super) fn at(&self) -> SocketAddr {
        self.at
    }

    /// Whether a name that is registered at the instance's address comes first.
    pub(super) fn returns(&self) -> bool {
        self.returns
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
                let claim = choose(&self.prefix, &self.service, &entries, self.at, self.returns);
                vec![Action::Choose(claim)]
            }
            Input::Listed(Err(cause)) => {
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

    #[test]
    fn a_search_retries_with_backoff_and_reports_the_first_failure() {
        let at = "10.0.0.9:3000".parse().unwrap();
        let mut search = NameSearch::new(Prefix::default(), "web".parse().unwrap(), at, true, 1);
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
