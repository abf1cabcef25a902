//! Which numbered name an instance takes that was given none: `<service>-<n>`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use registry::backoff::Backoff;
use registry::follow::{Entry, list};
use registry::key::{Key, Prefix};
use registry::name::{InstanceName, ServiceName};
use registry::record::{InstanceRecord, parse};
use registry::session::Session;
use registry::time::Clock;

/// Largest number, and its digits: a service of more instances has other troubles.
const NUMBER_MAX: u32 = 999_999;
/// Most digits of a claimed number.
pub const DIGITS_MAX: usize = 6;
/// Waits between two looks, where etcd does not answer.
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

/// Looks until etcd answers, and chooses.
pub(super) async fn look(
    session: Session,
    prefix: Prefix,
    service: ServiceName,
    at: SocketAddr,
    returns: bool,
    seed: u64,
) -> Option<Claim> {
    let mut retry = Backoff::new(RETRY_FIRST, RETRY_MAX, seed);
    let mut told = false;
    loop {
        match list(&session, &prefix.instances_of(&service), 0).await {
            Ok(listed) => return choose(&prefix, &service, &listed.entries, at, returns),
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!("cannot see which names are free: {error}; it is tried again");
                }
                let clock = Clock;
                clock.until(Some(clock.now().plus(retry.after_failure()))).await;
            }
        }
    }
}

/// The lowest free number. Yet where `returns` is set, a numbered name that is registered `at` our own address comes first:
/// whoever had it cannot be there any more, so it was an earlier life of ours (a container that was killed and started
/// again), and clients that stick to it find us. `None` if all are taken.
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

/// The number in a name of the form `<service>-<n>`; `web-01` is none.
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
            // None of ours.
            entry("web/web-02", "10.0.0.4", 7),
            entry("web/other", "10.0.0.5", 8),
            entry("web/web-2x", "10.0.0.6", 9),
        ];
        assert_eq!(chosen(&some, true), ("web-2".into(), 0));
    }

    #[test]
    fn who_was_here_before_was_us() {
        let some = [entry("web/web-1", "10.0.0.1", 5), entry("web/web-3", "10.0.0.9", 6)];
        assert_eq!(chosen(&some, true), ("web-3".into(), 6));
        assert_eq!(
            chosen(&some, false),
            ("web-2".into(), 0),
            "who lost it to somebody there does not fight for it"
        );
    }
}
