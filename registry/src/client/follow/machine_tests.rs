use proptest::prelude::*;

use super::*;

fn at(ms: u64) -> Tick {
    Tick::from_ms(ms)
}

fn put(mod_revision: i64) -> Change {
    let key = b"k".to_vec();
    Change::Put(Entry { key, value: vec![], lease: 0, create_revision: 1, mod_revision })
}

/// A machine that watches at revision 10 of cluster 1, since 0 ms.
fn watching() -> Machine {
    let mut machine = Machine::new(at(0), 7);
    assert_eq!(machine.step(at(0), Input::Woke), [Action::List]);
    let listed = machine.step(at(0), Input::Listed { cluster: 1, revision: 10, entries: vec![] });
    assert_eq!(listed[1], Action::Open { from: 11 });
    let created = machine.step(at(0), Input::Created { cluster: 1, revision: 10 });
    assert_eq!(created, [Action::Tell(Event::InSync)]);
    machine
}

/// Wakes the machine when it asks to be woken.
fn wake(machine: &mut Machine) -> Vec<Action> {
    let due = machine.wake_at().unwrap();
    machine.step(due, Input::Woke)
}

#[test]
fn a_broken_stream_resumes_after_the_last_change_without_a_list() {
    let mut machine = watching();
    machine.step(at(1), Input::Changes(vec![put(12), put(15)]));
    let broke = machine.step(at(2), Input::Broke { too_large: false });
    assert_eq!(broke, [Action::LeaveEndpoint, Action::Tell(Event::OutOfSync)]);
    assert_eq!(wake(&mut machine), [Action::Open { from: 16 }]);
    // What was missed comes with etcd's next round: not in sync before.
    assert_eq!(machine.step(at(500), Input::Created { cluster: 1, revision: 20 }), []);
    assert_eq!(wake(&mut machine), [Action::AskProgress]);
    let missed = machine.step(at(620), Input::Changes(vec![put(17)]));
    assert_eq!(missed, [Action::Tell(Event::Changed(vec![put(17)]))]);
    assert_eq!(machine.step(at(621), Input::Progress), [Action::Tell(Event::InSync)]);
}

#[test]
fn a_watch_that_catches_up_to_the_revision_of_its_creation_is_in_sync() {
    let mut machine = watching();
    machine.step(at(1), Input::Broke { too_large: false });
    wake(&mut machine);
    machine.step(at(9), Input::Created { cluster: 1, revision: 20 });
    let caught_up = machine.step(at(100), Input::Changes(vec![put(20)]));
    assert_eq!(caught_up.last(), Some(&Action::Tell(Event::InSync)));
}

/// After longer, a restored etcd may have passed our revision: what it changed in between would never be seen.
#[test]
fn a_stream_that_breaks_long_after_its_last_message_is_listed_again() {
    let mut machine = watching();
    machine.step(at(1_000), Input::Broke { too_large: false });
    assert_eq!(wake(&mut machine), [Action::List]);
}

#[test]
fn a_progress_answer_never_moves_the_revision_it_resumes_from() {
    let mut machine = watching();
    machine.step(at(1), Input::Progress);
    machine.step(at(2), Input::Broke { too_large: false });
    assert_eq!(wake(&mut machine), [Action::Open { from: 11 }]);
}

/// An event that etcd lost is made up for.
#[test]
fn everything_is_listed_again_while_it_watches_and_what_is_known_stays_in_force() {
    let relisting = || {
        let mut machine = watching().with_relist_every(Duration::from_secs(8));
        machine.step(at(1), Input::Canceled { compacted: true });
        machine.step(at(1), Input::Listed { cluster: 1, revision: 10, entries: vec![] });
        machine.step(at(1), Input::Created { cluster: 1, revision: 10 });
        assert_eq!(machine.step(at(5_001), Input::Woke), [Action::AskProgress]);
        machine.step(at(5_002), Input::Progress);
        assert_eq!(machine.wake_at(), Some(at(8_001)));
        assert_eq!(machine.step(at(8_001), Input::Woke), [Action::Close, Action::List]);
        machine
    };
    let listed = relisting().step(at(8_002), Input::Listed { cluster: 1, revision: 12, entries: vec![] });
    assert_eq!(listed[1], Action::Open { from: 13 });
    // Only where the list cannot be had is it out of sync.
    assert_eq!(relisting().step(at(8_002), Input::ListFailed), [Action::Tell(Event::OutOfSync)]);
}

#[test]
fn a_compacted_revision_is_answered_with_a_list_at_once() {
    let mut machine = watching();
    let actions = machine.step(at(1), Input::Canceled { compacted: true });
    assert_eq!(actions, [Action::Close, Action::Tell(Event::OutOfSync), Action::List]);
}

/// It is listed after a pause that grows: an etcd, or what stands before it, that always answers so is not asked in a loop.
#[test]
fn a_wiped_or_foreign_etcd_is_found_when_the_watch_is_created() {
    for (cluster, revision) in [(1, 9), (2, 50)] {
        let mut machine = watching();
        machine.step(at(1), Input::Broke { too_large: false });
        wake(&mut machine);
        let actions = machine.step(at(9), Input::Created { cluster, revision });
        assert_eq!(actions, [Action::Close], "cluster {cluster} revision {revision}");
        assert!(machine.wake_at().unwrap() > at(9));
        assert_eq!(wake(&mut machine), [Action::List]);
    }
}

/// A machine whose stream was asked for a sign of life at 5 s, and gave none; a read is under way since 6 s.
fn probing() -> Machine {
    let mut machine = watching();
    assert_eq!(machine.step(at(4_999), Input::Woke), []);
    assert_eq!(machine.step(at(5_000), Input::Woke), [Action::AskProgress]);
    assert_eq!(machine.step(at(5_999), Input::Woke), []);
    assert_eq!(machine.step(at(6_000), Input::Woke), [Action::Probe { revision: 10 }]);
    machine
}

/// What comes first after a silence may be of the past: a leave, say, whose instance has long been back.
#[test]
fn after_a_long_silence_a_change_is_of_the_past_until_a_read_says_up_to_where() {
    let delete = |mod_revision| Change::Delete { key: b"/k".to_vec(), mod_revision };
    let mut machine = watching();
    let late = machine.step(at(14_900), Input::Changes(vec![delete(11)]));
    let told = [
        Action::Tell(Event::OutOfSync),
        Action::Probe { revision: 10 },
        Action::Tell(Event::Changed(vec![delete(11)])),
    ];
    assert_eq!(late, told);
    let next = machine.step(at(14_901), Input::Changes(vec![delete(12)]));
    assert_eq!(next, [Action::Tell(Event::Changed(vec![delete(12)]))]);
    assert_eq!(machine.step(at(14_902), Input::Probed { cluster: 1, revision: 20, newer: Some(13) }), []);
    let last = machine.step(at(14_903), Input::Changes(vec![delete(13)]));
    assert_eq!(last, [Action::Tell(Event::Changed(vec![delete(13)])), Action::Tell(Event::InSync)]);

    // The answer comes after the changes that it speaks of.
    let mut machine = watching();
    machine.step(at(14_900), Input::Changes(vec![delete(13)]));
    let probed = machine.step(at(14_901), Input::Probed { cluster: 1, revision: 20, newer: Some(13) });
    assert_eq!(probed, [Action::Tell(Event::InSync)]);
}

/// What has waited for a process that was paused is of the past, signs of life as well.
#[test]
fn a_process_that_did_not_run_lists_everything_whatever_comes_first() {
    let of_the_past = || {
        let change = Change::Delete { key: b"/k".to_vec(), mod_revision: 11 };
        [Input::Progress, Input::Woke, Input::Changes(vec![change])]
    };
    let listed_anew = [Action::Close, Action::Tell(Event::OutOfSync), Action::List];
    for input in of_the_past() {
        assert_eq!(watching().step(at(30_000), input), listed_anew);
    }
    // A read was under way.
    let answer = Input::Probed { cluster: 1, revision: 20, newer: None };
    for input in of_the_past().into_iter().chain([answer]) {
        assert_eq!(probing().step(at(60_000), input), listed_anew);
    }
}

#[test]
fn a_silent_stream_of_an_etcd_that_does_not_answer_is_out_of_sync() {
    let mut machine = probing();
    let failed = machine.step(at(9_000), Input::ProbeFailed);
    assert_eq!(failed, [Action::Close, Action::Tell(Event::OutOfSync)]);
    assert_eq!(wake(&mut machine), [Action::List]);
}

/// Of a stream of another history nothing is to be had: the etcd behind a grpc-proxy was replaced, wiped or restored.
#[test]
fn a_probe_answered_by_another_cluster_or_an_earlier_revision_leads_to_a_list() {
    for (cluster, revision) in [(2, 20), (1, 9)] {
        let probed = probing().step(at(6_001), Input::Probed { cluster, revision, newer: None });
        assert_eq!(probed, [Action::Close, Action::Tell(Event::OutOfSync)]);
    }
}

/// etcd's grpc-proxy never gives the sign of life.
#[test]
fn a_silent_stream_of_an_etcd_that_has_nothing_newer_is_in_sync() {
    let mut machine = probing();
    let probed = machine.step(at(6_001), Input::Probed { cluster: 1, revision: 20, newer: None });
    assert_eq!(probed, [Action::Tell(Event::InSync)]);
    assert_eq!(machine.wake_at(), Some(at(11_001)));
}

#[test]
fn a_newer_key_is_waited_for_once_and_then_listed() {
    let newer = Input::Probed { cluster: 1, revision: 20, newer: Some(12) };
    let mut machine = probing();
    assert_eq!(machine.step(at(6_001), newer.clone()), []);
    let arrived = machine.step(at(6_002), Input::Changes(vec![put(12)]));
    assert_eq!(arrived, [Action::Tell(Event::Changed(vec![put(12)])), Action::Tell(Event::InSync)]);

    let mut machine = probing();
    machine.step(at(6_001), newer.clone());
    assert_eq!(machine.step(at(7_001), Input::Woke), [Action::Probe { revision: 10 }]);
    assert_eq!(machine.step(at(7_002), newer), [Action::Close, Action::List]);
}

/// etcd's grpc-proxy joins a watch to another one, and answers without the cluster, at the revision asked for.
#[test]
fn a_joined_watch_is_in_sync_when_a_probe_says_that_nothing_is_newer() {
    let mut machine = Machine::new(at(0), 7);
    machine.step(at(0), Input::Woke);
    machine.step(at(0), Input::Listed { cluster: 1, revision: 10, entries: vec![] });
    assert_eq!(machine.step(at(0), Input::Created { cluster: 0, revision: 11 }), []);
    let until = [110, 220, 330, 440, 550, 660, 770, 880, 990];
    assert!(until.iter().all(|ms| machine.step(at(*ms), Input::Woke) == [Action::AskProgress]));
    assert_eq!(machine.step(at(1_000), Input::Woke), [Action::Probe { revision: 10 }]);
    let probed = machine.step(at(1_001), Input::Probed { cluster: 1, revision: 20, newer: None });
    assert_eq!(probed, [Action::Tell(Event::InSync)]);
}

#[test]
fn an_answer_or_a_change_is_a_sign_of_life() {
    for sign in [Input::Progress, Input::Changes(vec![put(11)])] {
        let mut machine = watching();
        machine.step(at(5_000), Input::Woke);
        machine.step(at(5_001), sign);
        assert_eq!(machine.wake_at(), Some(at(10_001)));
    }
}

#[test]
fn a_watch_that_is_never_created_is_given_up() {
    let mut machine = watching();
    machine.step(at(1), Input::Broke { too_large: false });
    wake(&mut machine);
    assert_eq!(wake(&mut machine), [Action::LeaveEndpoint]);
}

#[test]
fn a_message_too_large_to_decode_leads_to_a_paged_list() {
    let mut machine = watching();
    assert_eq!(machine.step(at(1), Input::Broke { too_large: true })[0], Action::Close);
    assert_eq!(wake(&mut machine), [Action::List]);
}

#[test]
fn changes_already_seen_are_dropped() {
    let mut machine = watching();
    assert_eq!(machine.step(at(1), Input::Changes(vec![put(9), put(10)])), []);
    assert_eq!(
        machine.step(at(1), Input::Changes(vec![put(10), put(11)])),
        [Action::Tell(Event::Changed(vec![put(11)]))]
    );
}

/// What a server could do at any moment, sensible or not.
fn inputs() -> impl Strategy<Value = Input> {
    prop_oneof![
        Just(Input::Woke),
        (0..3_u64, 0..50_i64).prop_map(|(cluster, revision)| Input::Listed {
            cluster,
            revision,
            entries: vec![]
        }),
        Just(Input::ListFailed),
        (0..3_u64, 0..50_i64).prop_map(|(cluster, revision)| Input::Created { cluster, revision }),
        (0..60_i64).prop_map(|revision| Input::Changes(vec![put(revision)])),
        Just(Input::Progress),
        (0..3_u64, 0..50_i64, proptest::option::of(0..60_i64))
            .prop_map(|(cluster, revision, newer)| { Input::Probed { cluster, revision, newer } }),
        Just(Input::ProbeFailed),
        any::<bool>().prop_map(|compacted| Input::Canceled { compacted }),
        any::<bool>().prop_map(|too_large| Input::Broke { too_large }),
    ]
}

proptest! {
    /// Whatever happens, the machine always has something under way or a moment to wake at, says `InSync` only
    /// with a live watch, and never opens a watch behind what it has told.
    #[test]
    fn it_never_stands_still(script in proptest::collection::vec((inputs(), 0..10_000_u64), 1..60)) {
        let mut machine = Machine::new(at(0), 1);
        let mut now = 0;
        let mut told = 0;
        for (input, later) in script {
            now += later;
            for action in machine.step(at(now), input.clone()) {
                match action {
                    Action::Open { from } => prop_assert!(from == told + 1),
                    Action::Tell(Event::Listed { revision, .. }) => told = revision,
                    Action::Tell(Event::Changed(changes)) => told = changes.last().unwrap().mod_revision(),
                    Action::Tell(Event::InSync) => {
                        let watching = matches!(machine.state, State::Watching { .. });
                        prop_assert!(watching);
                    }
                    _ => {}
                }
            }
            let is_calling = matches!(machine.state, State::Listing | State::Probing { .. });
            prop_assert!(machine.wake_at().is_some() || is_calling);
        }
    }
}
