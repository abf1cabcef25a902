//! Names that are claimed, taken over, lost, and put right.

use registry::follow::Change;
use registry::record::to_value;

use super::*;

fn name(text: &str) -> BalancerName {
    text.parse().unwrap()
}

/// A life of an lb-sync on this host, for the HAProxy behind this socket.
fn life(id: &str, host: &str, socket: &str) -> Life {
    Life {
        name: name("lb"),
        id: id.into(),
        host: host.into(),
        boot: "boot".into(),
        socket: socket.into(),
        status: "127.0.0.1:7100".into(),
    }
}

fn record(id: Option<&str>, host: &str, socket: &str) -> BalancerRecord {
    let boot = if id.is_some() { "boot".into() } else { String::new() };
    let id = id.map(str::to_owned);
    BalancerRecord { id, host: host.into(), boot, socket: socket.into(), ..BalancerRecord::default() }
}

fn entry(name: &str, value: Vec<u8>, lease: LeaseId, mod_revision: i64) -> Entry {
    let key = format!("/leasehold/v1/balancers/{name}").into_bytes();
    Entry { key, value, lease, create_revision: 1, mod_revision }
}

fn listed(entries: Vec<Entry>) -> Event {
    Event::Listed { cluster: 1, revision: 1, entries }
}

fn changed(entry: Entry) -> Event {
    Event::Changed(vec![Change::Put(entry)])
}

/// An lb-sync on `host`, for `/run/a.sock`, that sees these.
fn seeing(host: &str, entries: Vec<Entry>) -> Presence {
    let mut presence = Presence::new(Prefix::default(), life("me", host, "/run/a.sock"));
    presence.want(vec![], String::new());
    assert_eq!(presence.step(), [], "nothing is claimed before it is known what stands");
    presence.fold(listed(entries));
    presence.fold(Event::InSync);
    presence
}

/// The name and the revision of the put among these, if there is one.
fn put(actions: &[PresenceAction]) -> Option<(String, Option<i64>)> {
    actions.iter().find_map(|action| match action {
        PresenceAction::Put { name, expected, .. } => Some((name.to_string(), *expected)),
        _ => None,
    })
}

fn is_told(actions: &[PresenceAction]) -> bool {
    actions.iter().any(|action| matches!(action, PresenceAction::Taken { .. }))
}

fn stands(revision: i64) -> PresenceStatus {
    PresenceStatus { stands: true, superseded: false, revision: Some(revision), histories: 0 }
}

const LOST: PresenceStatus = PresenceStatus { stands: false, superseded: true, revision: None, histories: 0 };

/// One that stands under its own name, written at revision 5.
fn standing() -> Presence {
    let mut presence = seeing("host", vec![]);
    assert_eq!(put(&presence.step()), Some(("lb".into(), Some(0))));
    assert!(presence.name().is_none() && !presence.has_stood());
    presence.status(stands(5));
    assert_eq!(presence.step(), [PresenceAction::Confirmed(name("lb"))]);
    presence.fold(changed(entry("lb", to_value(&presence.wanted.clone().unwrap()), 1, 5)));
    assert_eq!(presence.step(), []);
    presence
}

#[test]
fn a_free_name_is_claimed_and_the_next_life_of_the_same_haproxy_takes_it_over_at_once() {
    assert_eq!(standing().name(), Some(&name("lb")));
    let before = entry("lb", to_value(&record(Some("before"), "host", "/run/a.sock")), 1, 9);
    let actions = seeing("host", vec![before]).step();
    assert_eq!(put(&actions), Some(("lb".into(), Some(9))));
    assert!(!is_told(&actions));
    let old = entry("lb", to_value(&record(None, "", "")), 1, 9);
    assert_eq!(put(&seeing("host", vec![old]).step()), Some(("lb".into(), Some(9))), "an upgrade from 0.1.0");
}

#[test]
fn another_host_and_another_haproxy_of_the_name_get_names_of_their_own_and_say_so() {
    let first = || entry("lb", to_value(&record(Some("first"), "host", "/run/a.sock")), 1, 9);
    let second = || entry("lb.2", to_value(&record(Some("second"), "host", "/run/b.sock")), 2, 11);
    let actions = seeing("clone", vec![first()]).step();
    assert_eq!(put(&actions), Some(("lb.2".into(), Some(0))));
    let by = Some(record(Some("first"), "host", "/run/a.sock"));
    let taken = PresenceAction::Taken { by, runs_as: Some(name("lb.2")) };
    assert!(actions.contains(&taken), "{actions:?}");
    assert_eq!(put(&seeing("clone", vec![first(), second()]).step()), Some(("lb.3".into(), Some(0))));
    // The next life of the one that runs as `lb.2`.
    let ours = entry("lb.2", to_value(&record(Some("second"), "clone", "/run/a.sock")), 2, 11);
    assert_eq!(put(&seeing("clone", vec![first(), ours]).step()), Some(("lb.2".into(), Some(11))));
}

#[test]
fn cloned_hosts_of_one_name_are_told_apart_by_their_kernels() {
    let mut first = record(Some("first"), "host", "/run/a.sock");
    first.boot = "another boot".into();
    let actions = seeing("host", vec![entry("lb", to_value(&first), 1, 9)]).step();
    assert_eq!(put(&actions), Some(("lb.2".into(), Some(0))));
}

#[test]
fn with_all_names_taken_it_says_so_once_and_takes_the_first_that_gets_free() {
    let of = |n: u32| {
        let name = numbered(&name("lb"), n).unwrap();
        entry(name.as_str(), to_value(&record(Some("x"), "host", "/run/b.sock")), 1, 9)
    };
    let mut presence = seeing("host", (1..=NAMES_MAX).map(of).collect());
    let actions = presence.step();
    assert!(is_told(&actions) && put(&actions).is_none(), "{actions:?}");
    assert_eq!(presence.step(), []);
    let key = b"/leasehold/v1/balancers/lb.4".to_vec();
    presence.fold(Event::Changed(vec![Change::Delete { key, mod_revision: 12 }]));
    assert_eq!(put(&presence.step()), Some(("lb.4".into(), Some(0))));
}

/// The last write of the earlier life comes between the look and the claim.
#[test]
fn a_claim_that_was_refused_is_made_again_on_what_is_seen_then() {
    let before =
        |revision| entry("lb", to_value(&record(Some("before"), "host", "/run/a.sock")), 1, revision);
    let mut presence = seeing("host", vec![before(9)]);
    assert_eq!(put(&presence.step()), Some(("lb".into(), Some(9))));
    presence.status(LOST);
    assert_eq!(presence.step(), [], "what was seen is out of date");
    presence.fold(changed(before(10)));
    assert_eq!(put(&presence.step()), Some(("lb".into(), Some(10))));
    // The news may also come first.
    presence.fold(changed(before(11)));
    presence.status(LOST);
    assert_eq!(put(&presence.step()), Some(("lb".into(), Some(11))));
    // Or it is missed, and what was there is gone again.
    let mut presence = seeing("host", vec![]);
    assert!(put(&presence.step()).is_some());
    presence.status(LOST);
    assert_eq!(presence.step(), []);
    presence.fold(listed(vec![]));
    assert_eq!(put(&presence.step()), Some(("lb".into(), Some(0))));
}

/// Two lb-syncs for one HAProxy, or one that was paused while the next life came: there is no fight.
#[test]
fn a_name_that_was_lost_is_not_taken_back() {
    let mut presence = standing();
    presence.fold(changed(entry("lb", to_value(&record(Some("next"), "host", "/run/a.sock")), 2, 8)));
    assert_eq!(put(&presence.step()), Some(("lb".into(), Some(5))), "asks whether it is lost");
    presence.status(LOST);
    let actions = presence.step();
    assert_eq!(put(&actions), Some(("lb.2".into(), Some(0))));
    assert!(is_told(&actions) && presence.name().is_none());
    presence.status(stands(9));
    assert_eq!(presence.step(), [PresenceAction::Confirmed(name("lb.2"))]);
}

/// etcd was restored from a backup of an earlier life, whose record may have the higher revision.
#[test]
fn an_earlier_life_s_record_of_a_restored_backup_is_taken_over() {
    let mut presence = standing();
    let earlier = to_value(&record(Some("before"), "host", "/run/a.sock"));
    let restored =
        |of: Vec<u8>| Event::Listed { cluster: 2, revision: 9, entries: vec![entry("lb", of, 1, 8)] };
    presence.fold(restored(earlier.clone()));
    presence.fold(Event::InSync);
    assert_eq!(put(&presence.step()), Some(("lb".into(), Some(8))));
    // The lease was found gone first, and its put was refused.
    let mut presence = standing();
    presence.fold(Event::OutOfSync);
    presence.status(LOST);
    assert_eq!(put(&presence.step()), None);
    presence.fold(restored(earlier.clone()));
    presence.fold(Event::InSync);
    let actions = presence.step();
    assert_eq!((put(&actions), is_told(&actions)), (Some(("lb".into(), Some(8))), false));
    // Other keys say that the history broke: fewer revisions were seen here.
    for is_first in [true, false] {
        let mut presence = standing();
        let list =
            Event::Listed { cluster: 1, revision: 9, entries: vec![entry("lb", earlier.clone(), 1, 8)] };
        if is_first {
            presence.history_broke();
        }
        presence.fold(list);
        presence.fold(Event::InSync);
        if !is_first {
            presence.history_broke();
        }
        assert_eq!(put(&presence.step()), Some(("lb".into(), Some(8))));
    }
    // Another host's is not taken.
    let mut presence = standing();
    presence.fold(restored(to_value(&record(Some("before"), "another", "/run/a.sock"))));
    presence.fold(Event::InSync);
    assert_eq!(put(&presence.step()), Some(("lb".into(), Some(5))), "which is refused");
}

#[test]
fn what_was_deleted_or_changed_by_hand_is_put_back() {
    let by_hand = [
        to_value(&record(Some("me"), "host", "/run/a.sock")),
        to_value(&record(None, "", "")),
        b"oops".to_vec(),
    ];
    for value in by_hand {
        let mut presence = standing();
        presence.fold(changed(entry("lb", value, 0, 8)));
        assert_eq!(put(&presence.step()), Some(("lb".into(), Some(8))));
        assert_eq!(presence.step(), [], "once");
    }
    let mut presence = standing();
    let key = b"/leasehold/v1/balancers/lb".to_vec();
    presence.fold(Event::Changed(vec![Change::Delete { key, mod_revision: 8 }]));
    assert_eq!(put(&presence.step()), Some(("lb".into(), Some(0))));
    presence.status(stands(9));
    assert_eq!(presence.step(), []);
}

#[test]
fn a_new_value_is_put_under_the_same_name() {
    let mut presence = standing();
    presence.want(vec!["web".parse().unwrap()], String::new());
    assert_eq!(put(&presence.step()), Some(("lb".into(), None)));
    assert_eq!(presence.step(), []);
    assert_eq!(presence.name(), Some(&name("lb")), "it is ours in the meantime");
}

#[test]
fn a_numbered_name_is_legal_at_any_length() {
    let longest = name(&"n".repeat(NAME_LEN_MAX));
    let second = numbered(&longest, 2).unwrap();
    assert!(second.as_str().len() == NAME_LEN_MAX && second.as_str().ends_with("n.2"));
    assert!(may_run_as(&name("lb"), "lb.9") && may_run_as(&name("lb"), "lb"));
    assert!(!may_run_as(&name("lb"), "lb.10") && !may_run_as(&name("lb"), "lb-2"));
}

/// One life of an lb-sync, as etcd serves it.
struct Running {
    presence: Presence,
    lease: LeaseId,
    /// The put that is on its way.
    pending: Option<(BalancerName, BalancerRecord, Option<i64>)>,
    written: Option<i64>,
    /// How much of what happened in etcd it has seen.
    seen: usize,
    alive: bool,
}

/// Lives of lb-syncs, and the keys below `balancers/`.
#[derive(Default)]
struct World {
    lives: Vec<Running>,
    keys: std::collections::BTreeMap<BalancerName, (BalancerRecord, LeaseId, i64)>,
    changes: Vec<Change>,
}

impl World {
    fn start(&mut self, haproxy: usize) {
        let lease = i64::try_from(self.lives.len() + 1).unwrap();
        let mut presence = Presence::new(
            Prefix::default(),
            life(&format!("life {lease}"), "host", &format!("/run/{haproxy}.sock")),
        );
        presence.want(vec![], String::new());
        let entries = self.keys.iter().map(|(name, (record, lease, revision))| {
            entry(name.as_str(), to_value(record), *lease, *revision)
        });
        presence.fold(listed(entries.collect()));
        presence.fold(Event::InSync);
        let seen = self.changes.len();
        self.lives.push(Running { presence, lease, pending: None, written: None, seen, alive: true });
        self.step(self.lives.len() - 1);
    }

    fn step(&mut self, at: usize) {
        let one = &mut self.lives[at];
        for action in one.presence.step() {
            if let PresenceAction::Put { name, record, expected } = action {
                if expected.is_some() && one.presence.name().is_none() {
                    one.written = None;
                }
                one.pending = Some((name, record, expected));
            }
        }
    }

    fn revision(&self) -> i64 {
        i64::try_from(self.changes.len()).unwrap() + 1
    }

    /// The next change reaches a life. Returns whether there was one.
    fn deliver(&mut self, at: usize) -> bool {
        let one = &mut self.lives[at];
        let Some(change) = self.changes.get(one.seen).filter(|_| one.alive) else { return false };
        one.seen += 1;
        one.presence.fold(Event::Changed(vec![change.clone()]));
        self.step(at);
        true
    }

    /// The put of a life takes effect, as its ledger has it. Returns whether there was one.
    fn write(&mut self, at: usize) -> bool {
        let revision = self.revision();
        let lives: Vec<LeaseId> = self.lives.iter().filter(|one| one.alive).map(|one| one.lease).collect();
        let one = &mut self.lives[at];
        let Some((name, record, expected)) = one.pending.take() else { return false };
        let found = self.keys.get(&name);
        let now = found.map_or(0, |(.., revision)| *revision);
        let is_foreign = found.is_some_and(|(other, ..)| other.id != record.id)
            && now != expected.or(one.written).unwrap_or(0)
            && one.written.is_none_or(|ours| now > ours);
        if is_foreign {
            one.presence.status(LOST);
        } else {
            if let Some((from, lease, _)) = found.filter(|(from, ..)| from.id != record.id) {
                let may = !lives.contains(lease) || from.is_same_haproxy(&record);
                assert!(may, "{name} is taken from {from:?}, which lives, by {record:?}");
            }
            one.written = Some(revision);
            one.presence.status(stands(revision));
            self.changes.push(Change::Put(entry(name.as_str(), to_value(&record), one.lease, revision)));
            self.keys.insert(name, (record, one.lease, revision));
        }
        if self.lives[at].alive {
            self.step(at);
        }
        true
    }

    /// The lease of a life that has ended ends: etcd refuses what is still on its way.
    fn expire(&mut self, at: usize) {
        let one = &mut self.lives[at];
        if one.alive {
            return;
        }
        one.pending = None;
        let lease = one.lease;
        let gone: Vec<BalancerName> =
            self.keys.iter().filter(|(_, (_, of, _))| *of == lease).map(|(name, _)| name.clone()).collect();
        for name in gone {
            self.keys.remove(&name);
            let key = format!("/leasehold/v1/balancers/{name}").into_bytes();
            self.changes.push(Change::Delete { key, mod_revision: self.revision() });
        }
    }
}

proptest::proptest! {
    /// Whatever comes in between, every lb-sync that lives comes to have a name of its own, and none is displaced but by the next
    /// life of the same HAProxy.
    #[test]
    fn every_life_comes_to_have_a_name_of_its_own(
        ops in proptest::collection::vec((0..5_u8, 0..4_usize), 1..60),
    ) {
        let mut world = World::default();
        for (op, at) in ops {
            let count = world.lives.len();
            match op {
                0 if count < 4 => world.start(at % 3),
                _ if count == 0 => {}
                1 => drop(world.deliver(at % count)),
                2 => drop(world.write(at % count)),
                // What it has sent may still arrive.
                3 => world.lives[at % count].alive = false,
                _ => world.expire(at % count),
            }
        }
        for _ in 0..200 {
            for at in 0..world.lives.len() {
                while world.write(at) || world.deliver(at) {}
            }
        }
        for one in world.lives.iter().filter(|one| one.alive) {
            let name = one.presence.name().expect("it has a name");
            let stands = world.keys.get(name).map(|(record, ..)| record.id.clone());
            proptest::prop_assert_eq!(stands, Some(Some(one.presence.life().id.clone())));
        }
    }
}
