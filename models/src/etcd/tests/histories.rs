use super::*;

#[test]
fn a_wipe_begins_anew_under_the_same_ids() {
    let mut etcd = cluster(2);
    etcd.grant(at(0), 0, 5, LEASE).unwrap();
    put_under(&mut etcd, 10, "a", LEASE);
    etcd.lead_change(at(20));
    let (before, watch) = (etcd.header(1), etcd.watch(at(20), 1, b"", 0).unwrap());
    assert_eq!(etcd.wipe(at(100)), [watch]);
    let after = etcd.header(1);
    assert_eq!((after.cluster, after.member_id), (before.cluster, before.member_id));
    assert_eq!((after.revision, after.raft_term), (FIRST_REVISION, FIRST_TERM));
    assert!(before.raft_term > FIRST_TERM && !etcd.has_lease(LEASE) && keys(&etcd, 0).is_empty());
    // A watch from where the old one was is silent: its revision is of the future.
    let resumed = etcd.watch(at(100), 1, b"", 3).unwrap();
    assert_eq!(put(&mut etcd, 110, "b"), 2);
    assert_eq!(heard(&mut etcd, 300, resumed), ["created 1"]);

    let [old, new] = etcd.histories().collect::<Vec<_>>()[..] else { panic!("two histories") };
    assert_eq!((old.epoch(), new.epoch(), new.began(), new.origin()), (0, 1, at(100), None));
    assert!(old.entry(b"a").is_some() && new.entry(b"a").is_none());
}

#[test]
fn a_restored_backup_runs_back_and_brings_its_leases_with_their_whole_ttl() {
    let mut etcd = cluster(1);
    etcd.grant(at(0), 0, 5, LEASE).unwrap();
    put_under(&mut etcd, 0, "a", LEASE);
    let backup = etcd.backup();
    put(&mut etcd, 1_000, "b");
    etcd.revoke(at(1_000), 0, LEASE).unwrap();
    etcd.outage(at(2_000));
    etcd.restore(at(20_000), &backup, None);
    assert_eq!((etcd.history().revision(), backup.revision(), keys(&etcd, 0)), (2, 2, vec!["a".into()]));
    assert_eq!((etcd.history().origin(), etcd.header(0).raft_term), (Some((0, 2)), FIRST_TERM));
    // The next revision is one that meant something else before.
    assert_eq!(put(&mut etcd, 20_001, "c"), 3);
    let watch = etcd.watch(at(20_001), 0, b"", 2).unwrap();
    assert_eq!(heard(&mut etcd, 20_100, watch), ["created 3", "+2 +3"]);
    etcd.advance(at(25_999));
    assert_eq!(keys(&etcd, 0), ["a", "c"]);
    etcd.advance(at(26_000));
    assert_eq!(keys(&etcd, 0), ["c"]);
}

#[test]
fn a_bumped_backup_goes_on_further_up_and_cannot_be_watched_across() {
    let mut etcd = cluster(1);
    put(&mut etcd, 0, "a");
    let backup = etcd.backup();
    put(&mut etcd, 1, "b");
    etcd.restore(at(10), &backup, Some(1_000));
    assert_eq!((etcd.header(0).revision, keys(&etcd, 0)), (1_002, vec!["a".into()]));
    let resumed = etcd.watch(at(10), 0, b"", 4).unwrap();
    assert_eq!(heard(&mut etcd, 100, resumed), ["created 1002", "canceled 1002"]);
    let entries = etcd.range(0, Span { from: b"a", end: b"" }, 0, 0).unwrap().entries;
    assert_eq!(entries[0].mod_revision, 2);
    assert_eq!(etcd.range(0, Span { from: b"a", end: b"" }, 0, 1_001), Err(Error::Compacted));
    assert_eq!(put(&mut etcd, 101, "c"), 1_003);
}

#[test]
fn a_history_can_be_asked_also_for_what_is_compacted() {
    let mut etcd = cluster(1);
    put(&mut etcd, 10, "a/1");
    put(&mut etcd, 20, "b/1");
    delete(&mut etcd, 30, "a/1");
    put(&mut etcd, 40, "b/1");
    etcd.compact(at(50), 0, 5).unwrap();
    let history = etcd.history();
    let seen = |revision| history.entry_at(b"a/1", revision).map(|entry| entry.mod_revision);
    assert_eq!([1, 2, 3, 4, 5].map(seen), [None, Some(2), Some(2), None, None]);
    assert_eq!(history.revisions_of(b"a/1").collect::<Vec<_>>(), [(2, at(10)), (4, at(30))]);
    assert_eq!(history.last_change_below(b"a/"), Some((4, at(30))));
    assert_eq!((history.last_change_below(b"c/"), history.compacted()), (None, 5));
    assert_eq!([0, 10, 39, 40].map(|ms| history.revision_at(at(ms))), [1, 2, 4, 5]);
    assert_eq!(history.entries_below(b"").count(), 1);
    assert_eq!(history.entries_at(b"a", b"c", 3).count(), 2);
    let touched = history.revisions(3..=4).map(|(revision, it)| (revision, key_of(&it.changes[0])));
    assert_eq!(touched.collect::<Vec<_>>(), [(3, &b"b/1"[..]), (4, b"a/1")]);
}

#[test]
fn a_read_within_a_transaction_sees_the_writes_before_it() {
    let mut etcd = cluster(1);
    put(&mut etcd, 0, "a");
    let ops = [Op::get("a"), Op::delete("a"), Op::get("a"), Op::put("b", "v", 0), Op::get("b")];
    let answer = etcd.txn(at(1), 0, &Txn::of(ops)).unwrap();
    let found = answer.answers.iter().map(|answer| match answer {
        OpAnswer::Got(entry) => entry.as_ref().map_or(0, |entry| entry.mod_revision),
        _ => -1,
    });
    assert_eq!(found.collect::<Vec<_>>(), [2, -1, 0, -1, 3]);
    let fenced = |revision| Txn {
        compare: vec![Compare::mod_revision("b", revision)],
        otherwise: vec![Op::get("b")],
        ..Txn::of([Op::put("b", "w", 0)])
    };
    assert!(!etcd.txn(at(2), 0, &fenced(2)).unwrap().succeeded);
    let answer = etcd.txn(at(2), 0, &fenced(3)).unwrap();
    assert_eq!((answer.succeeded, answer.header.revision), (true, 4));
}
