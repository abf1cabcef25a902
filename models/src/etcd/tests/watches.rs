use super::*;

#[test]
fn what_was_missed_comes_with_the_next_round_and_the_rest_at_once() {
    let mut etcd = cluster(1).with_phases(ms(30), ms(0));
    assert_eq!(put(&mut etcd, 10, "a/1"), 2);
    put(&mut etcd, 10, "b/1");
    let watch = etcd.watch(at(40), 0, b"a/", 2).unwrap();
    assert_eq!(heard(&mut etcd, 40, watch), ["created 3"]);
    put(&mut etcd, 50, "a/2");
    assert_eq!((heard(&mut etcd, 129, watch), etcd.wake_at()), (vec![], Some(at(130))));
    assert_eq!(heard(&mut etcd, 130, watch), ["+2 +4"]);
    assert_eq!(etcd.wake_at(), None);
    put(&mut etcd, 131, "a/2");
    put(&mut etcd, 131, "b/2");
    delete(&mut etcd, 131, "a/2");
    assert_eq!(etcd.watches_with_messages().collect::<Vec<_>>(), [watch]);
    assert_eq!(heard(&mut etcd, 131, watch), ["+5", "-7"]);
    etcd.cancel(watch);
    put(&mut etcd, 132, "a/3");
    assert!(heard(&mut etcd, 132, watch).is_empty() && !etcd.is_open(watch));
}

#[test]
fn a_watch_that_is_opened_at_a_round_waits_for_the_next_one() {
    let mut etcd = cluster(1);
    put(&mut etcd, 0, "a");
    etcd.advance(at(100));
    let watch = etcd.watch(at(100), 0, b"a", 2).unwrap();
    assert_eq!(heard(&mut etcd, 199, watch), ["created 2"]);
    assert_eq!(heard(&mut etcd, 200, watch), ["+2"]);
}

#[test]
fn a_watch_of_the_future_is_silent_until_its_revision() {
    let mut etcd = cluster(1);
    let watch = etcd.watch(at(0), 0, b"", 4).unwrap();
    assert_eq!((put(&mut etcd, 1, "a"), put(&mut etcd, 2, "a")), (2, 3));
    assert_eq!(heard(&mut etcd, 500, watch), ["created 1"]);
    put(&mut etcd, 501, "a");
    assert_eq!(heard(&mut etcd, 501, watch), ["+4"]);
}

#[test]
fn a_transaction_is_one_message() {
    let mut etcd = cluster(1);
    let watch = etcd.watch(at(0), 0, b"", 0).unwrap();
    etcd.txn(at(1), 0, &Txn::of([Op::put("b", "v", 0), Op::put("a", "v", 0)])).unwrap();
    assert_eq!(heard(&mut etcd, 1, watch), ["created 1", "+2 +2"]);
}

#[test]
fn a_compacted_watch_is_created_and_then_canceled() {
    let mut etcd = cluster(1);
    for _ in 0..3 {
        put(&mut etcd, 0, "a");
    }
    etcd.compact(at(0), 0, 4).unwrap();
    let [over, stands] = [3, 4].map(|from| etcd.watch(at(10), 0, b"a", from).unwrap());
    assert_eq!(heard(&mut etcd, 10, over), ["created 4"]);
    assert_eq!(heard(&mut etcd, 100, over), ["canceled 4"]);
    assert_eq!(heard(&mut etcd, 100, stands), ["created 4", "+4"]);
    assert!(!etcd.is_open(over) && etcd.is_open(stands));
}

#[test]
fn a_round_sends_so_many_revisions_and_no_more() {
    let mut etcd = cluster(1);
    let count = i64::try_from(BATCH_MAX).unwrap() + 1;
    for _ in 0..count {
        put(&mut etcd, 0, "a");
    }
    let watch = etcd.watch(at(10), 0, b"a", 2).unwrap();
    let first = etcd.messages(at(100), watch);
    let [_, WatchMessage::Changes(changes)] = &first[..] else { panic!("{first:?}") };
    assert_eq!(changes.len(), BATCH_MAX);
    assert_eq!(heard(&mut etcd, 200, watch), [format!("+{}", count + 1)]);
}

#[test]
fn progress_is_answered_once_the_watch_is_synced_and_its_revision_is_there() {
    let mut etcd = cluster(1);
    put(&mut etcd, 0, "a");
    let [behind, future] = [2, 4].map(|from| etcd.watch(at(10), 0, b"a", from).unwrap());
    for watch in [behind, future] {
        etcd.progress(at(20), watch);
    }
    assert_eq!(heard(&mut etcd, 150, behind), ["created 2", "+2"]);
    assert_eq!(heard(&mut etcd, 150, future), ["created 2"]);
    put(&mut etcd, 160, "b");
    put(&mut etcd, 160, "b");
    for watch in [behind, future] {
        etcd.progress(at(170), watch);
        assert_eq!(heard(&mut etcd, 170, watch), ["progress 4"]);
    }
}

#[test]
fn progress_overtakes_changes_in_some_versions() {
    let mut etcd = cluster(1);
    etcd.set_quirks(Quirks { progress_overtakes: true, ..Quirks::default() });
    let watch = etcd.watch(at(0), 0, b"a", 0).unwrap();
    put(&mut etcd, 1, "a");
    etcd.progress(at(1), watch);
    assert_eq!(heard(&mut etcd, 1, watch), ["created 1", "progress 2", "+2"]);
    let behind = etcd.watch(at(2), 0, b"a", 2).unwrap();
    etcd.progress(at(2), behind);
    assert_eq!(heard(&mut etcd, 2, behind), ["created 2", "progress 2"]);
    assert_eq!(heard(&mut etcd, 100, behind), ["+2"]);
}

/// A watch whose client did not read so many messages, one that is blocked, and one more revision.
fn slow(etcd: &mut Etcd) -> (WatchId, i64) {
    let watch = etcd.watch(at(0), 0, b"a", 0).unwrap();
    let mut last = 0;
    // `created` takes a place, too.
    for _ in 0..=QUEUE_MAX {
        last = put(etcd, 1, "a");
    }
    (watch, last)
}

#[test]
fn a_slow_watch_falls_behind_and_loses_nothing() {
    let mut etcd = cluster(1);
    let (watch, last) = slow(&mut etcd);
    let read = heard(&mut etcd, 2, watch);
    assert_eq!((read.len(), read.last().unwrap()), (QUEUE_MAX, &format!("+{}", last - 2)));
    assert_eq!(heard(&mut etcd, 3, watch), [format!("+{}", last - 1)]);
    assert_eq!(heard(&mut etcd, 100, watch), [format!("+{last}")]);
    put(&mut etcd, 101, "a");
    assert_eq!(heard(&mut etcd, 101, watch), [format!("+{}", last + 1)]);
}

/// A slow watch whose client reads one message, so that its queue is full again while it is behind; then what it is to
/// get next is compacted. Returns what it gets after that.
fn slow_and_compacted(quirks: Quirks) -> Vec<String> {
    let mut etcd = cluster(1);
    etcd.set_quirks(quirks);
    let (watch, _) = slow(&mut etcd);
    assert_eq!(etcd.messages_up_to(at(2), watch, 1).len(), 1);
    let lost = put(&mut etcd, 3, "a");
    etcd.compact(at(3), 0, lost).unwrap();
    etcd.advance(at(100));
    assert_eq!(heard(&mut etcd, 101, watch).len(), QUEUE_MAX);
    put(&mut etcd, 102, "a");
    heard(&mut etcd, 200, watch)
}

#[test]
fn a_slow_watch_that_is_compacted_is_canceled_but_in_some_versions_goes_on_with_a_hole() {
    let next = i64::try_from(QUEUE_MAX).unwrap() + 3;
    assert_eq!(slow_and_compacted(Quirks::default()), [format!("canceled {next}")]);
    let quirks = Quirks { slow_watch_loses_events: true, ..Quirks::default() };
    assert_eq!(slow_and_compacted(quirks), [format!("+{}", next + 1)]);
}

#[test]
fn some_versions_drop_the_deletion_at_the_compacted_revision() {
    for (compaction_drops_delete, expected) in [(false, "+3 -3"), (true, "+3")] {
        let mut etcd = cluster(1);
        etcd.set_quirks(Quirks { compaction_drops_delete, ..Quirks::default() });
        put(&mut etcd, 0, "a");
        etcd.txn(at(0), 0, &Txn::of([Op::put("b", "v", 0), Op::delete("a")])).unwrap();
        etcd.compact(at(0), 0, 3).unwrap();
        let watch = etcd.watch(at(1), 0, b"", 3).unwrap();
        assert_eq!(heard(&mut etcd, 100, watch), ["created 3", expected]);
    }
}
