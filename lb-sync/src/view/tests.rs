use registry::follow::Change;

use super::*;

const NOW: Tick = Tick::from_ms(0);
const GOOD: &str = r#"{"address":"10.0.0.5","port":3000}"#;

fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

fn entry_at(key: &str, value: &str, revision: i64) -> Entry {
    let key = format!("/leasehold/v1/{key}").into_bytes();
    Entry { key, value: value.into(), lease: 0, create_revision: revision, mod_revision: revision }
}

fn entry(name: &str, value: &str, create_revision: i64, mod_revision: i64) -> Entry {
    let key = format!("/leasehold/v1/instances/{name}").into_bytes();
    Entry { key, value: value.into(), lease: create_revision, create_revision, mod_revision }
}

fn listed(revision: i64, entries: Vec<Entry>) -> Event {
    Event::Listed { cluster: 1, revision, entries }
}

fn put(entry: Entry) -> Event {
    Event::Changed(vec![Change::Put(entry)])
}

fn delete(name: &str, mod_revision: i64) -> Event {
    let key = format!("/leasehold/v1/instances/{name}").into_bytes();
    Event::Changed(vec![Change::Delete { key, mod_revision }])
}

/// So much of a lease of 10 s.
fn left_s(seconds: u64) -> TimeToLive {
    TimeToLive { granted: Duration::from_secs(10), left: Duration::from_secs(seconds) }
}

fn only(names: &[&str]) -> Scope {
    Scope::Only(names.iter().map(|name| id(name)).collect())
}

fn view(entries: Vec<Entry>) -> View {
    let mut view = View::new(Prefix::default());
    view.fold_instances(NOW, listed(10, entries));
    view.fold_instances(NOW, Event::InSync);
    view.fold_overrides(NOW, listed(10, vec![]));
    view.fold_overrides(NOW, Event::InSync);
    view
}

#[test]
fn it_is_in_sync_only_while_both_followers_are() {
    let mut view = View::new(Prefix::default());
    view.fold_instances(NOW, listed(10, vec![]));
    view.fold_instances(NOW, Event::InSync);
    assert!(!view.in_sync());
    view.fold_overrides(NOW, listed(10, vec![]));
    assert!(!view.in_sync(), "a list alone says nothing of what changed since");
    view.fold_overrides(NOW, Event::InSync);
    assert!(view.in_sync());
    view.fold_instances(NOW, Event::OutOfSync);
    assert!(!view.in_sync());
    view.fold_instances(NOW, put(entry("web/a", GOOD, 11, 11)));
    assert!(!view.in_sync());
}

#[test]
fn a_bad_record_leaves_the_last_good_one_in_force() {
    let mut view = view(vec![entry("web/a", GOOD, 5, 5), entry("web/b", "junk", 6, 6)]);
    assert_eq!(view.instances().len(), 1);
    let huge = " ".repeat(1_000_000);
    for (n, bad) in ["nonsense", r#"{"address":"0.0.0.0","port":1}"#, &huge].into_iter().enumerate() {
        let scope = view.fold_instances(NOW, put(entry("web/a", bad, 5, 11 + i64::try_from(n).unwrap())));
        assert!(scope.is_empty());
    }
    assert_eq!(view.instances()[&id("web/a")].record.port.get(), 3000);
    assert_eq!(view.rejected_count(), 4);
    // A list with the bad value still in it: the last good one stays, as it is still registered.
    view.fold_instances(NOW, listed(20, vec![entry("web/a", "nonsense", 5, 12)]));
    assert!(view.instances().contains_key(&id("web/a")));
    // The key gone on purpose, the instance is.
    view.fold_instances(NOW, delete("web/a", 21));
    assert_eq!(view.lease_lives(NOW, &id("web/a"), 5, left_s(9)), only(&["web/a"]));
    assert!(view.instances().is_empty());
}

#[test]
fn a_record_under_an_illegal_key_is_ignored() {
    let view = view(vec![entry("web/a b", GOOD, 5, 5), entry("web", GOOD, 6, 6), entry("a/b/c", GOOD, 7, 7)]);
    assert!(view.instances().is_empty());
    assert_eq!(view.rejected_count(), 3);
}

#[test]
fn of_two_of_a_service_at_one_address_the_later_that_is_up_is_served() {
    let mut view = view(vec![entry("web/old", GOOD, 5, 5)]);
    let scope = view.fold_instances(NOW, put(entry("web/new", GOOD, 11, 11)));
    assert_eq!(scope, only(&["web/old", "web/new"]), "the change of one concerns the other");
    assert_eq!(view.shadowed_by(&id("web/old")), Some(&id("web/new")));
    assert_eq!(view.shadowed_by(&id("web/new")), None);
    let down = r#"{"address":"10.0.0.5","port":3000,"state":"down"}"#;
    view.fold_instances(NOW, put(entry("web/new", down, 11, 12)));
    assert_eq!(view.shadowed_by(&id("web/old")), None, "one that is down displaces none");
    view.fold_instances(NOW, put(entry("web/new", GOOD, 11, 13)));
    let drained = entry_at("overrides/web/new", r#"{"mode":"drain"}"#, 14);
    assert_eq!(view.fold_overrides(NOW, put(drained)), only(&["web/old", "web/new"]));
    assert_eq!(view.shadowed_by(&id("web/old")), None);
    assert_eq!(view.fold_instances(NOW, delete("web/new", 15)), only(&["web/old", "web/new"]));
    assert_eq!(view.shadowed_by(&id("web/old")), None);
}

/// The name of a killed registrar stands, and comes to an address that another one was given in the meantime.
#[test]
fn the_later_at_an_address_is_who_came_there_later_whatever_the_age_of_its_key() {
    let at =
        |host: u8, owner: &str| format!(r#"{{"address":"10.0.0.{host}","port":3000,"owner":"{owner}"}}"#);
    let mut view = view(vec![entry("web/a", &at(1, "first"), 5, 5), entry("web/b", &at(2, "dead"), 9, 9)]);
    let moved = Entry { create_revision: 5, ..entry("web/a", &at(2, "second"), 5, 12) };
    view.fold_instances(NOW, put(moved));
    assert_eq!(view.shadowed_by(&id("web/b")), Some(&id("web/a")));
    assert!(view.may_send_for(&id("web/b"), &id("web/a")));
    // What it writes later leaves that as it is.
    let by_other = Entry { create_revision: 9, ..entry("web/b", &at(2, "dead"), 9, 20) };
    view.fold_instances(NOW, put(by_other));
    assert_eq!(view.shadowed_by(&id("web/b")), Some(&id("web/a")));
}

/// No service takes out another one's instance by registering its address; and an address that was given out anew is its new
/// owner's as soon as the lease of the old one has missed a beat.
#[test]
fn of_two_services_at_one_address_each_is_served_while_both_leases_beat() {
    let mut view = view(vec![entry("web/old", GOOD, 5, 5)]);
    view.fold_instances(NOW, put(entry("api/new", GOOD, 11, 11)));
    let (old, new) = (id("web/old"), id("api/new"));
    assert_eq!((view.shadowed_by(&old), view.shadowed_by(&new)), (None, None));
    assert_eq!(view.take_lease_queries(NOW), [(old.clone(), 5)], "asked at once");
    assert!(view.lease_lives(NOW, &old, 5, left_s(6)).is_empty());
    assert_eq!(view.lease_lives(NOW, &old, 5, left_s(4)), only(&["web/old", "api/new"]));
    assert_eq!(view.shadowed_by(&old), Some(&new));
    // It was only late.
    view.lease_lives(NOW, &old, 5, left_s(10));
    assert_eq!(view.shadowed_by(&old), None);
    // A leave waits for what stood there before it, until that is known to be another's.
    assert!(view.may_send_for(&old, &new) && !view.may_send_for(&new, &old));
    view.lease_lives(Tick::from_ms(10_000), &old, 5, left_s(10));
    assert!(!view.may_send_for(&old, &new));
    assert_eq!(view.take_lease_queries(Tick::from_ms(20_000)), []);
}

#[test]
fn who_shares_an_address_with_a_suspect_is_looked_at_once_that_is_gone() {
    let eclipsed = || {
        let mut view = view(vec![entry("web/old", GOOD, 5, 5), entry("api/new", GOOD, 6, 6)]);
        // Restored to a time before the later one.
        view.fold_instances(NOW, listed(2, vec![entry("web/old", GOOD, 1, 1)]));
        assert!(view.is_suspect(&id("api/new")));
        assert_eq!(view.shadowed_by(&id("web/old")), Some(&id("api/new")));
        view
    };
    assert_eq!(eclipsed().check_failed(&id("api/new")), only(&["web/old", "api/new"]));
    let key = b"/leasehold/v1/overrides/api/new".to_vec();
    let value = br#"{"mode":"maintenance"}"#.to_vec();
    let overriding = Change::Put(Entry { key, value, lease: 0, create_revision: 3, mod_revision: 3 });
    let mut view = eclipsed();
    assert_eq!(view.fold_overrides(NOW, Event::Changed(vec![overriding])), only(&["web/old", "api/new"]));
    assert_eq!(view.shadowed_by(&id("web/old")), None);
}

#[test]
fn one_owner_may_have_several_services_at_one_address() {
    let owned = r#"{"address":"10.0.0.5","port":3000,"owner":"me"}"#;
    let view = view(vec![entry("web/a", owned, 5, 5), entry("admin/a", owned, 6, 6)]);
    assert_eq!(view.shadowed_by(&id("web/a")), None);
}

#[test]
fn a_wiped_etcd_removes_nothing_until_the_bound_has_passed() {
    let mut view = view(vec![entry("web/a", GOOD, 5, 5), entry("web/b", GOOD, 6, 6)]);
    view.fold_instances(NOW, listed(2, vec![]));
    assert_eq!(view.instances().len(), 2);
    assert!(view.is_suspect(&id("web/a")));
    view.fold_instances(NOW, put(entry("web/a", GOOD, 3, 3)));
    assert!(!view.is_suspect(&id("web/a")), "registered again");
    assert_eq!(view.wake_at(), None, "time that passes unheard is no evidence");
    view.fold_instances(NOW, Event::InSync);
    let end = view.wake_at().unwrap();
    assert!(view.expire(Tick::from_ms(1), None).is_empty());
    assert!(matches!(view.expire(end, None), Scope::Only(ids) if ids.contains(&id("web/b"))));
    assert_eq!(view.instances().len(), 1);
}

/// An instance that has just been registered, or that fails HAProxy's check, serves no client: the other one is the last.
#[test]
fn one_that_haproxy_has_down_is_not_what_is_left_of_a_service() {
    let gone = |view: &mut View, is_down: IsDown<'_>| {
        let key = b"/leasehold/v1/instances/web/i-0".to_vec();
        let event = Event::Changed(vec![Change::Delete { key, mod_revision: 20 }]);
        view.fold_instances_beside(Tick::from_ms(60_000), event, is_down);
        view.is_suspect(&id("web/i-0"))
    };
    let mut both_up = many(2);
    assert!(!gone(&mut both_up, &|_| false));
    let mut other_down = many(2);
    assert!(gone(&mut other_down, &|id| id.instance.as_str() == "i-1"));
}

/// No bound takes the last of a service that HAProxy's check passes: not after ten minutes either.
#[test]
fn the_last_of_a_service_stays_a_suspect_beyond_the_bound_while_it_is_checked() {
    let mut view = many(2);
    view.fold_instances(NOW, listed(2, vec![]));
    let heard = |view: &mut View, now| {
        view.fold_instances(now, Event::InSync);
        view.fold_overrides(now, Event::InSync);
    };
    heard(&mut view, NOW);
    let end = view.wake_at().unwrap();
    heard(&mut view, end);
    assert!(view.expire(end, CHECKED).is_empty());
    assert!(view.is_suspect(&id("web/i-0")) && view.is_suspect(&id("web/i-1")));
    // Another one serves by the next bound: what has not returned is let go.
    view.fold_instances(end, put(entry("web/c", GOOD, 3, 3)));
    let end = view.wake_at().unwrap();
    heard(&mut view, end);
    assert_eq!(view.expire(end, CHECKED), only(&["web/i-0", "web/i-1"]));
    assert_eq!(view.instances().len(), 1);
}

const CHECKED: Option<IsDown<'_>> = Some(&|_| false);

/// `count` instances, each at an address of its own.
fn many(count: i64) -> View {
    let at = |n: i64| format!(r#"{{"address":"10.0.0.{}","port":3000}}"#, n + 1);
    view((0..count).map(|n| entry(&format!("web/i-{n}"), &at(n), n + 2, n + 2)).collect())
}

fn expire_all(view: &mut View, now: Tick, which: std::ops::Range<i64>) {
    let deletes = which.map(|n| {
        let key = format!("/leasehold/v1/instances/web/i-{n}").into_bytes();
        Change::Delete { key, mod_revision: 100 + n }
    });
    view.fold_instances(now, Event::Changed(deletes.collect()));
}

#[test]
fn a_mass_expiry_is_not_believed_and_a_small_one_is() {
    let mut view = many(10);
    expire_all(&mut view, NOW, 0..5);
    assert_eq!(view.instances().len(), 5, "half of them: believed");
    let mut view = many(10);
    expire_all(&mut view, NOW, 0..6);
    assert_eq!((view.instances().len(), view.suspects().count()), (10, 6));
    assert_eq!(view.take_lease_queries(NOW).len(), 6);
    assert!(view.take_lease_queries(NOW).is_empty(), "asked once");
}

#[test]
fn expiries_that_trickle_in_are_counted_together_within_the_window() {
    let mut view = many(10);
    for n in 0..10 {
        expire_all(&mut view, Tick::from_ms(u64::try_from(n).unwrap() * 1_000), n..n + 1);
    }
    assert_eq!((view.instances().len(), view.suspects().count()), (10, 10), "the first five are taken back");
    let mut view = many(10);
    for n in 0..10 {
        expire_all(&mut view, Tick::from_ms(u64::try_from(n).unwrap() * 40_000), n..n + 1);
    }
    assert!(view.instances().len() <= 2, "one by one, a service may die: {}", view.instances().len());
}

/// Ten that expire one by one, 31 s apart, are each believed to be gone; the last server of a service is its check's to take.
#[test]
fn no_expiry_takes_the_last_instance_of_a_service() {
    for count in [1, 2, 10] {
        let mut view = many(count);
        for n in 0..count {
            let at = Tick::from_ms(u64::try_from(n).unwrap() * 31_000);
            view.fold_instances(at, Event::InSync);
            view.fold_overrides(at, Event::InSync);
            expire_all(&mut view, at, n..n + 1);
        }
        assert_eq!((view.instances().len(), view.suspects().count()), (1, 1), "of {count}");
    }
    let off = GuardPolicy { share_percent: 100, ..GuardPolicy::default() };
    let mut unguarded = View::guarded(Prefix::default(), off);
    unguarded.fold_instances(NOW, listed(9, vec![entry("web/a", GOOD, 5, 5)]));
    unguarded.fold_instances(NOW, delete("web/a", 21));
    assert!(unguarded.instances().is_empty());
}

/// Of two, one expires and then the other one leaves: HAProxy's check says whether the first is gone.
#[test]
fn the_last_one_s_leave_puts_back_who_expired_shortly_before() {
    let draining = r#"{"address":"10.0.0.1","port":3000,"state":"draining"}"#;
    let left_after = |s: u64| {
        let mut view = many(2);
        expire_all(&mut view, NOW, 1..2);
        assert!(view.suspects().next().is_none() && view.instances().len() == 1);
        view.fold_instances(NOW.plus(Duration::from_secs(s)), put(entry("web/i-0", draining, 2, 50)));
        view.is_suspect(&id("web/i-1"))
    };
    assert!(left_after(5));
    assert!(!left_after(31), "long gone");
    let mut view = many(3);
    expire_all(&mut view, NOW, 1..2);
    view.fold_instances(NOW, put(entry("web/i-0", draining, 2, 50)));
    assert!(view.suspects().next().is_none(), "i-2 is left");
}

/// One that drains serves no new client: it is not what a service is left with.
#[test]
fn an_instance_that_drains_is_not_left_to_a_service() {
    let mut view = many(2);
    let draining = r#"{"address":"10.0.0.1","port":3000,"state":"draining"}"#;
    view.fold_instances(NOW, put(entry("web/i-0", draining, 2, 50)));
    expire_all(&mut view, NOW, 1..2);
    assert!(view.is_suspect(&id("web/i-1")), "the last one in rotation");
    let mut view = many(10);
    for n in 0..4 {
        let draining = format!(r#"{{"address":"10.0.0.{}","port":3000,"state":"draining"}}"#, n + 1);
        view.fold_instances(NOW, put(entry(&format!("web/i-{n}"), &draining, n + 2, 50 + n)));
    }
    expire_all(&mut view, NOW, 4..8);
    assert_eq!(view.suspects().count(), 4, "of six in rotation");
}

/// etcd was wiped while one was draining and another one was drained by an operator: neither gets traffic back.
#[test]
fn a_suspect_displaces_no_living_instance_whatever_its_revision() {
    let dead = r#"{"address":"10.0.0.5","port":3000,"owner":"dead"}"#;
    let living = r#"{"address":"10.0.0.5","port":3000,"owner":"living"}"#;
    let mut view = view(vec![entry("web/a", dead, 5_000, 5_000)]);
    view.fold_instances(NOW, listed(9, vec![entry("api/b", living, 9, 9)]));
    assert!(view.is_suspect(&id("web/a")));
    assert_eq!(view.shadowed_by(&id("api/b")), None);
    assert_eq!(view.shadowed_by(&id("web/a")), Some(&id("api/b")));
}

/// A restored backup has an earlier owner's record: the later owner is kept, until it has had time to write again.
#[test]
fn an_older_owner_s_record_of_a_restored_backup_waits() {
    let of =
        |owner: &str, host: u8| format!(r#"{{"address":"10.0.0.{host}","port":3000,"owner":"{owner}"}}"#);
    let mut view = view(vec![entry("web/a", &of("later", 6), 50, 50)]);
    view.fold_instances(NOW, listed(9, vec![entry("web/a", &of("earlier", 5), 8, 8)]));
    view.fold_instances(NOW, Event::InSync);
    assert_eq!(view.instances()[&id("web/a")].owner, "later");
    assert!(view.is_suspect(&id("web/a")));
    let due = view.wake_at().unwrap();
    view.fold_instances(due, Event::InSync);
    view.fold_overrides(due, Event::InSync);
    view.expire(due, CHECKED);
    assert_eq!(view.instances()[&id("web/a")].owner, "earlier", "it stands still: it lives");
    assert!(!view.is_suspect(&id("web/a")));
}

/// Maintenance does not end because etcd was wiped, and ends with the bound of suspects.
#[test]
fn an_override_outlives_a_wipe_for_a_time() {
    let mut view = view(vec![entry("web/a", GOOD, 5, 5)]);
    let order = entry_at("overrides/web/a", r#"{"mode":"maintenance"}"#, 6);
    view.fold_overrides(NOW, listed(7, vec![order]));
    view.fold_overrides(NOW, listed(2, vec![]));
    view.fold_overrides(NOW, Event::InSync);
    assert_eq!(view.intent_of(&id("web/a")), Some(Intent::OperatorOut));
    let end = NOW.plus(GuardPolicy::default().suspect_max);
    view.fold_instances(end, Event::InSync);
    view.fold_overrides(end, Event::InSync);
    view.expire(end, None);
    assert_eq!(view.intent_of(&id("web/a")), Some(Intent::Serve));
}

/// A process that was paused or suspended has heard nothing: whatever its followers last said, its view is not current.
#[test]
fn a_view_that_was_not_heard_of_for_ten_seconds_is_not_in_sync() {
    let mut view = view(vec![entry("web/a", GOOD, 5, 5)]);
    assert!(view.in_sync());
    view.set_now(NOW.plus(Duration::from_secs(10)));
    assert!(view.in_sync());
    view.set_now(NOW.plus(Duration::from_hours(1)));
    assert!(!view.in_sync());
    view.fold_overrides(NOW.plus(Duration::from_hours(1)), Event::InSync);
    assert!(!view.in_sync(), "one follower is not both");
    view.fold_instances(NOW.plus(Duration::from_hours(1)), Event::InSync);
    assert!(view.in_sync());
}

#[test]
fn a_small_service_a_leave_a_delete_and_an_override_are_not_guarded() {
    let mut small = many(2);
    expire_all(&mut small, NOW, 0..1);
    assert_eq!((small.instances().len(), small.suspects().count()), (1, 0));

    let mut leaving = many(4);
    for n in 0..4 {
        let value = format!(r#"{{"address":"10.0.0.{}","port":3000,"state":"draining"}}"#, n + 1);
        leaving.fold_instances(NOW, put(entry(&format!("web/i-{n}"), &value, n + 2, 50 + n)));
    }
    expire_all(&mut leaving, NOW, 0..4);
    assert!(leaving.instances().is_empty(), "an acknowledged leave is never held back");

    let mut deleted = many(4);
    expire_all(&mut deleted, NOW, 0..4);
    for (id, lease) in deleted.take_lease_queries(NOW) {
        deleted.lease_lives(NOW, &id, lease, left_s(9));
    }
    assert!(deleted.instances().is_empty(), "their leases live: deleted on purpose");

    let mut overridden = many(4);
    let key = b"/leasehold/v1/overrides/web/i-0".to_vec();
    let value = br#"{"mode":"drain"}"#.to_vec();
    let overriding = Entry { key, value, lease: 0, create_revision: 9, mod_revision: 9 };
    overridden.fold_overrides(NOW, put(overriding));
    expire_all(&mut overridden, NOW, 0..4);
    assert!(!overridden.is_suspect(&id("web/i-0")) && overridden.is_suspect(&id("web/i-1")));
}

#[test]
fn a_list_after_a_compaction_removes_what_is_gone() {
    let mut view = view(vec![entry("web/a", GOOD, 5, 5), entry("web/b", GOOD, 6, 6)]);
    assert_eq!(view.fold_instances(NOW, listed(30, vec![entry("web/b", GOOD, 6, 6)])), Scope::All);
    assert_eq!(view.instances().keys().collect::<Vec<_>>(), [&id("web/b")]);
}

#[test]
fn an_override_is_read_and_lifted() {
    let mut view = view(vec![]);
    let key = b"/leasehold/v1/overrides/web/a".to_vec();
    let value = br#"{"mode":"drain","reason":"disk"}"#.to_vec();
    let entry = Entry { key: key.clone(), value, lease: 0, create_revision: 9, mod_revision: 9 };
    assert_eq!(view.fold_overrides(NOW, put(entry)), only(&["web/a"]));
    assert_eq!(view.override_of(&id("web/a")).unwrap().reason, "disk");
    let gone = Event::Changed(vec![Change::Delete { key, mod_revision: 10 }]);
    assert_eq!(view.fold_overrides(NOW, gone), only(&["web/a"]));
    assert!(view.override_of(&id("web/a")).is_none());
}

#[test]
fn a_restored_view_is_not_in_sync_and_etcds_word_replaces_it() {
    let before = many(4);
    let mut view = View::new(Prefix::default());
    assert!(view.snapshot().is_none(), "nothing was heard yet");
    view.restore(before.snapshot().unwrap());
    assert_eq!(view.instances(), before.instances());
    assert!(!view.in_sync());
    let one = entry("web/i-0", r#"{"address":"10.0.0.1","port":3000}"#, 2, 2);
    view.fold_instances(NOW, listed(50, vec![one.clone()]));
    assert_eq!(view.suspects().count(), 3, "three of four gone at once is not believed at once");
    let mut wiped = View::new(Prefix::default());
    wiped.restore(many(2).snapshot().unwrap());
    wiped.fold_instances(NOW, listed(3, vec![one]));
    assert_eq!(wiped.suspects().count(), 1, "an older revision than the snapshot's: wiped or restored");
}

#[test]
fn an_expiry_just_after_etcd_was_away_is_not_believed() {
    let at = Tick::from_ms;
    let mut view = many(10);
    view.fold_instances(at(1_000), Event::OutOfSync);
    view.fold_instances(at(9_000), Event::InSync);
    expire_all(&mut view, at(9_100), 0..1);
    assert!(view.is_suspect(&id("web/i-0")), "its keepalive may just have found no etcd");
    expire_all(&mut view, at(60_000), 1..2);
    assert!(!view.instances().contains_key(&id("web/i-1")), "etcd has long been well again");
    let mut brief = many(10);
    brief.fold_instances(at(1_000), Event::InSync);
    brief.fold_instances(at(1_100), Event::OutOfSync);
    brief.fold_instances(at(1_300), Event::InSync);
    expire_all(&mut brief, at(1_400), 0..1);
    assert!(!brief.is_suspect(&id("web/i-0")), "too short for a lease to have run out");
}
