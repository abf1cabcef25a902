//! Coverage marks: what schedules reach. A run counts them; a set that is never reached says that the generator is too tame.

use std::collections::BTreeMap;

/// How often each thing happened.
pub type Marks = BTreeMap<String, u64>;

/// Each of these is to happen in more than one schedule of a thousand.
pub const REQUIRED: &[&str] = &[
    "a client keeps the cookie of an instance that is away",
    "a last request on an old worker",
    "a watch has lost events",
    "an app in a crash loop",
    "an app in two services",
    "cut at its limit",
    "etcd: a lease is gone",
    "etcd: a watch is compacted",
    "etcd: a write finds another's record",
    "etcd: all is listed",
    "etcd: leases are asked about",
    "etcd: what is newer is read",
    "lb-sync: HAProxy answers",
    "lb-sync: HAProxy is lost",
    "lb-sync: HAProxy's check fails",
    "lb-sync: HAProxy's check passes",
    "lb-sync: a suspect is back",
    "lb-sync: a suspect's time or check is over",
    "lb-sync: added",
    "lb-sync: back in rotation",
    "lb-sync: changed by hand",
    "lb-sync: draining",
    "lb-sync: moved",
    "lb-sync: no longer kept as a suspect",
    "lb-sync: out of rotation",
    "lb-sync: out of sync",
    "lb-sync: removed",
    "lb-sync: requests still in flight cut off",
    "lb-sync: suspects after a wipe or a restore",
    "lb-sync: suspects of an expiry",
    "left while a balancer was long gone",
    "left, acked",
    "registrar: Awaiting",
    "registrar: Down",
    "registrar: Gone",
    "registrar: Left",
    "registrar: LeavingBlind",
    "registrar: NameReturned",
    "registrar: Registered",
    "registrar: Superseded",
    "registrar: Superseded while leaving",
    "reloaded",
    "restarted",
    "restarted, same pid",
    "restored",
    "resumed, timers first",
    "resumed, timers last",
    "resumed, timers late",
    "wiped",
];

/// Counts one more of `mark`.
pub fn count(marks: &mut Marks, mark: &str) {
    if let Some(count) = marks.get_mut(mark) {
        *count += 1;
    } else {
        marks.insert(mark.to_owned(), 1);
    }
}

/// Of `schedules`, too few have reached these.
#[must_use]
pub fn missed(schedules: u64, reached: &Marks) -> Vec<&'static str> {
    let enough = |mark: &&&str| reached.get(**mark).is_some_and(|count| *count * 1_000 > schedules);
    REQUIRED.iter().filter(|mark| !enough(mark)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_schedule_of_a_thousand_is_too_few() {
        let mut reached = Marks::new();
        for mark in REQUIRED {
            count(&mut reached, mark);
        }
        assert_eq!(missed(999, &reached), [""; 0]);
        assert_eq!(missed(1_000, &reached), REQUIRED);
        count(&mut reached, "wiped");
        assert!(!missed(1_000, &reached).contains(&"wiped"));
    }
}
