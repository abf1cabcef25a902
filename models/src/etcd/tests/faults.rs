use super::*;

#[test]
fn an_outage_ends_the_streams_and_no_lease_runs_out_in_it() {
    let mut etcd = cluster(3);
    etcd.grant(at(0), 0, 2, LEASE).unwrap();
    put_under(&mut etcd, 0, "a", LEASE);
    let watch = etcd.watch(at(0), 1, b"a", 0).unwrap();
    assert_eq!(etcd.outage(at(1_000)), [watch]);
    assert_eq!(etcd.txn(at(1_000), 0, &Txn::default()), Err(Error::Unavailable));
    assert_eq!(etcd.keep_alive(at(1_000), 0, LEASE), Err(Error::Unavailable));
    assert!(etcd.range(0, Span { from: b"a", end: b"" }, 0, 0).is_err());
    assert!(heard(&mut etcd, 1_000, watch).is_empty() && etcd.wake_at().is_none());
    let term = etcd.header(0).raft_term;
    etcd.back(at(60_000));
    assert_eq!((keys(&etcd, 0).len(), etcd.header(0).raft_term), (1, term + 1));
    etcd.advance(at(62_999));
    assert!(etcd.has_lease(LEASE));
    etcd.advance(at(63_000));
    assert!(!etcd.has_lease(LEASE));
}

#[test]
fn leases_run_out_while_it_hangs_and_end_when_it_goes_on() {
    let mut etcd = cluster(1);
    etcd.grant(at(0), 0, 2, LEASE).unwrap();
    put_under(&mut etcd, 0, "a", LEASE);
    let watch = etcd.watch(at(0), 0, b"a", 0).unwrap();
    etcd.hang(at(1_000));
    assert_eq!(etcd.keep_alive(at(1_500), 0, LEASE), Err(Error::Unavailable));
    assert!(heard(&mut etcd, 5_000, watch).is_empty());
    etcd.resume(at(9_100));
    assert_eq!(etcd.keep_alive(at(9_100), 0, LEASE), Ok(KeepAlive::Gone));
    assert_eq!(heard(&mut etcd, 9_100, watch), ["created 2", "-3"]);
    assert_eq!(etcd.history().time_of(3), Some(at(9_100)));
}

#[test]
fn a_member_that_lags_answers_and_watches_late() {
    let mut etcd = cluster(2);
    etcd.lag(at(0), 1, ms(300));
    let watches = [0, 1].map(|member| etcd.watch(at(0), member, b"", 0).unwrap());
    let revision = put(&mut etcd, 1_000, "a");
    assert_eq!(etcd.applied_at(0, revision), Some(at(0)));
    assert_eq!(etcd.applied_at(1, revision), Some(at(1_300)));
    assert_eq!((etcd.applied(0), etcd.applied(1), etcd.wake_at()), (2, 1, Some(at(1_300))));
    assert_eq!((keys(&etcd, 0).len(), keys(&etcd, 1).len()), (1, 0));
    assert_eq!(heard(&mut etcd, 1_000, watches[0]), ["created 1", "+2"]);
    let late = etcd.watch(at(1_200), 1, b"", 2).unwrap();
    assert_eq!(heard(&mut etcd, 1_299, watches[1]), ["created 1"]);
    assert_eq!(heard(&mut etcd, 1_300, watches[1]), ["+2"]);
    // A list elsewhere named a revision that this member does not have yet: its watch is one of the future.
    assert_eq!(heard(&mut etcd, 1_300, late), ["created 1", "+2"]);
    assert_eq!((keys(&etcd, 1).len(), etcd.applied_at(1, revision)), (1, Some(at(0))));
    let other = [etcd.header(0).member_id, etcd.header(1).member_id];
    assert_ne!(other[0], other[1]);
}

#[test]
fn less_lag_does_not_undo_what_is_applied() {
    let mut etcd = cluster(2);
    put(&mut etcd, 0, "a");
    etcd.lag(at(1), 1, ms(500));
    put(&mut etcd, 2, "b");
    assert_eq!(etcd.applied(1), 2);
    etcd.lag(at(10), 1, ms(0));
    assert_eq!(etcd.applied(1), 3);
}

#[test]
fn a_member_that_is_cut_off_is_silent_and_catches_up_from_the_log() {
    let mut etcd = cluster(3);
    let watch = etcd.watch(at(0), 2, b"", 0).unwrap();
    etcd.cut_off(at(0), 2);
    let revision = put(&mut etcd, 10, "a");
    put(&mut etcd, 20, "b");
    assert_eq!(etcd.txn(at(20), 2, &Txn::default()), Err(Error::Unavailable));
    assert_eq!((keys(&etcd, 2).len(), etcd.applied_at(2, revision), etcd.wake_at()), (0, None, None));
    assert_eq!(heard(&mut etcd, 5_000, watch), ["created 1"]);
    etcd.link(at(5_010), 2, false);
    assert_eq!(heard(&mut etcd, 5_010, watch), ["+2", "+3"]);
    let other = etcd.watch(at(5_010), 1, b"", 0).unwrap();
    assert_eq!(etcd.close_streams(at(5_010), 2), [watch]);
    assert!(etcd.is_open(other));
}

/// A member is cut off from revision 3 on, and gets revision 4 as a snapshot. Two of its watches: one that has had
/// revisions 2 and 3, and one from revision 6 on.
fn snapshot(quirks: Quirks) -> [Vec<String>; 2] {
    let mut etcd = cluster(3);
    etcd.set_quirks(quirks);
    let watches = [0, 6].map(|from| etcd.watch(at(0), 2, b"", from).unwrap());
    put(&mut etcd, 10, "a");
    put(&mut etcd, 10, "a");
    etcd.cut_off(at(20), 2);
    put(&mut etcd, 30, "a");
    assert_eq!(watches.map(|watch| heard(&mut etcd, 40, watch).len()), [3, 1]);
    etcd.link(at(50), 2, true);
    assert_eq!(watches.map(|watch| heard(&mut etcd, 60, watch).len()), [0, 0]);
    etcd.advance(at(100));
    put(&mut etcd, 110, "a");
    watches.map(|watch| heard(&mut etcd, 200, watch))
}

#[test]
fn after_a_snapshot_some_versions_repeat_changes_or_send_those_from_before_the_revision() {
    assert_eq!(snapshot(Quirks::default()), [vec!["+4", "+5"], vec![]]);
    let repeats = Quirks { repeats_after_snapshot: true, ..Quirks::default() };
    assert_eq!(snapshot(repeats), [vec!["+2 +3 +4", "+5"], vec![]]);
    let early = Quirks { early_after_snapshot: true, ..Quirks::default() };
    assert_eq!(snapshot(early), [vec!["+4", "+5"], vec!["+5"]]);
}

#[test]
fn what_a_watch_got_by_a_round_or_while_slow_is_not_repeated() {
    let mut etcd = cluster(3);
    etcd.set_quirks(Quirks::V3_4_23);
    put(&mut etcd, 0, "a");
    let by_round = etcd.watch(at(0), 2, b"", 2).unwrap();
    let slow = etcd.watch(at(0), 2, b"a", 0).unwrap();
    assert_eq!(heard(&mut etcd, 100, by_round), ["created 2", "+2"]);
    for _ in 0..QUEUE_MAX {
        put(&mut etcd, 101, "a");
        heard(&mut etcd, 101, by_round);
    }
    assert_eq!(heard(&mut etcd, 102, slow).len(), QUEUE_MAX);
    let last = put(&mut etcd, 103, "b");
    heard(&mut etcd, 103, by_round);
    etcd.link(at(110), 2, true);
    let again = heard(&mut etcd, 200, by_round).join(" ");
    assert!(again.starts_with("+3 +4 ") && again.ends_with(&format!(" +{last}")), "{again}");
    assert_eq!(heard(&mut etcd, 200, slow), [format!("+{}", last - 1)]);
}

#[test]
fn a_full_quota_refuses_what_takes_space_and_nothing_else() {
    let mut etcd = cluster(1);
    etcd.grant(at(0), 0, 5, LEASE).unwrap();
    put_under(&mut etcd, 0, "a", LEASE);
    put(&mut etcd, 0, "b");
    etcd.quota_full(true);
    let unneeded = Txn { otherwise: vec![Op::put("c", "v", 0)], ..Txn::of([Op::get("a")]) };
    assert_eq!(etcd.txn(at(1), 0, &unneeded), Err(Error::NoSpace));
    assert_eq!(etcd.grant(at(1), 0, 5, 8), Err(Error::NoSpace));
    assert_eq!(etcd.keep_alive(at(1), 0, LEASE), Ok(KeepAlive::Renewed { ttl: ms(5_000) }));
    delete(&mut etcd, 1, "b");
    etcd.revoke(at(1), 0, LEASE).unwrap();
    assert!(keys(&etcd, 0).is_empty());
    etcd.quota_full(false);
    assert_eq!(put(&mut etcd, 2, "a"), 6);
}

#[test]
fn an_operator_writes_and_deletes_by_hand() {
    let mut etcd = cluster(1);
    etcd.grant(at(0), 0, 5, LEASE).unwrap();
    put_under(&mut etcd, 0, "p/a", LEASE);
    etcd.put_by_hand(at(1), "p/b", b"v").unwrap();
    put(&mut etcd, 1, "q");
    assert_eq!(etcd.delete_by_hand(at(2), "p/").unwrap().revision, 5);
    assert_eq!(keys(&etcd, 0), ["q"]);
    assert_eq!(etcd.time_to_live(at(2), 0, LEASE).unwrap().unwrap().keys, Vec::<Key>::new());
    assert_eq!(etcd.delete_by_hand(at(2), "p/").unwrap().revision, 5);
}

#[test]
fn bugs_go_with_versions() {
    assert_eq!(Quirks::of(4, 23), Quirks::V3_4_23);
    assert_eq!(Quirks::of(4, 38), Quirks::default());
    assert_eq!(Quirks::of(5, 16), Quirks { early_after_snapshot: true, ..Quirks::default() });
    assert_eq!(Quirks::of(6, 1), Quirks { early_after_snapshot: true, ..Quirks::default() });
    assert_eq!(Quirks::of(7, 0), Quirks::default());
}
