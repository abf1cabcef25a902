use super::*;

fn grant(etcd: &mut Etcd, now_ms: u64, ttl_s: u64, lease: LeaseId) {
    etcd.grant(at(now_ms), 0, ttl_s, lease).unwrap();
}

#[test]
fn a_lease_ends_at_the_first_look_after_it_has_run_out_and_takes_its_keys_along() {
    let mut etcd = cluster(1).with_phases(ms(0), ms(20));
    grant(&mut etcd, 100, 3, LEASE);
    put_under(&mut etcd, 110, "b", LEASE);
    put_under(&mut etcd, 110, "a", LEASE);
    let watch = etcd.watch(at(110), 0, b"", 0).unwrap();
    assert_eq!(etcd.wake_at(), Some(at(3_520)));
    etcd.advance(at(3_519));
    assert_eq!((keys(&etcd, 0).len(), etcd.has_lease(LEASE)), (2, true));
    assert_eq!(heard(&mut etcd, 3_520, watch), ["created 3", "-4 -4"]);
    assert!(!etcd.has_lease(LEASE) && etcd.wake_at().is_none());
    assert_eq!(etcd.history().time_of(4), Some(at(3_520)));
}

#[test]
fn a_keepalive_gives_the_whole_ttl_and_no_less_than_the_shortest_is_granted() {
    let mut etcd = cluster(1);
    assert_eq!(etcd.grant(at(0), 0, 1, LEASE), Ok(Granted { lease: LEASE, ttl: TTL_MIN }));
    assert_eq!(etcd.keep_alive(at(1_900), 0, LEASE), Ok(KeepAlive::Renewed { ttl: TTL_MIN }));
    let left = etcd.time_to_live(at(2_000), 0, LEASE).unwrap().unwrap();
    assert_eq!((left.ttl_s, left.granted_s), (1, 2));
    etcd.advance(at(3_999));
    assert!(etcd.has_lease(LEASE));
    etcd.advance(at(4_000));
    assert_eq!(etcd.keep_alive(at(4_000), 0, LEASE), Ok(KeepAlive::Gone));
    assert_eq!(etcd.time_to_live(at(4_000), 0, LEASE), Ok(None));
}

#[test]
fn a_key_leaves_with_the_lease_under_which_it_was_put_last() {
    let mut etcd = cluster(1);
    grant(&mut etcd, 0, 2, 1);
    grant(&mut etcd, 0, 4, 2);
    for key in ["moved", "freed", "stays"] {
        put_under(&mut etcd, 0, key, 1);
    }
    put_under(&mut etcd, 1, "moved", 2);
    put_under(&mut etcd, 1, "freed", 0);
    etcd.advance(at(2_000));
    assert_eq!(keys(&etcd, 0), ["freed", "moved"]);
    etcd.advance(at(4_000));
    assert_eq!(keys(&etcd, 0), ["freed"]);
    let again = Txn::of([Op::put("k", "v", 2)]);
    assert_eq!(etcd.txn(at(4_001), 0, &again), Err(Error::LeaseNotFound));
}

#[test]
fn a_keepalive_of_a_lease_that_has_run_out_waits_for_the_look() {
    let mut etcd = cluster(1);
    grant(&mut etcd, 100, 2, LEASE);
    put_under(&mut etcd, 100, "a", LEASE);
    let waits = KeepAlive::Waits { until: at(2_500) };
    assert_eq!(etcd.keep_alive(at(2_200), 0, LEASE), Ok(waits));
    let mut rescued = etcd.clone();
    assert_eq!(etcd.keep_alive(at(2_500), 0, LEASE), Ok(KeepAlive::Gone));
    assert!(keys(&etcd, 0).is_empty());

    rescued.lead_change(at(2_300));
    assert_eq!(rescued.keep_alive(at(2_500), 0, LEASE), Ok(KeepAlive::Renewed { ttl: TTL_MIN }));
    assert_eq!(keys(&rescued, 0), ["a"]);
}

#[test]
fn a_look_ends_so_many_leases_and_no_more() {
    let mut etcd = cluster(1);
    for lease in 1..=700 {
        grant(&mut etcd, 0, 2, lease);
        put_under(&mut etcd, 0, &format!("{lease:03}"), lease);
    }
    etcd.advance(at(2_000));
    assert_eq!((keys(&etcd, 0).len(), etcd.wake_at()), (200, Some(at(2_500))));
    etcd.advance(at(2_500));
    assert_eq!((keys(&etcd, 0).len(), etcd.wake_at()), (0, None));
}

#[test]
fn a_new_leader_gives_every_lease_its_whole_ttl_and_a_second() {
    let mut etcd = cluster(3);
    grant(&mut etcd, 0, 5, LEASE);
    let term = etcd.header(0).raft_term;
    etcd.lead_change(at(4_000));
    assert_eq!(etcd.header(0).raft_term, term + 1);
    etcd.advance(at(9_999));
    assert!(etcd.has_lease(LEASE));
    etcd.advance(at(10_000));
    assert!(!etcd.has_lease(LEASE));
}

#[test]
fn a_revocation_without_keys_has_no_revision() {
    let mut etcd = cluster(1);
    grant(&mut etcd, 0, 5, LEASE);
    assert_eq!(etcd.revoke(at(1), 0, LEASE).unwrap().revision, FIRST_REVISION);
    assert_eq!(etcd.revoke(at(1), 0, LEASE), Err(Error::LeaseNotFound));
}

#[test]
fn a_mass_revocation_is_one_revision_a_lease() {
    let mut etcd = cluster(1);
    for lease in 1..=3 {
        grant(&mut etcd, 0, 5, lease);
        put_under(&mut etcd, 0, &format!("{lease}/a"), lease);
        put_under(&mut etcd, 0, &format!("{lease}/b"), lease);
    }
    let watch = etcd.watch(at(1), 0, b"", 0).unwrap();
    etcd.revoke_all(at(2));
    assert_eq!(heard(&mut etcd, 2, watch), ["created 7", "-8 -8", "-9 -9", "-10 -10"]);
    assert!(!etcd.has_lease(2));
}
