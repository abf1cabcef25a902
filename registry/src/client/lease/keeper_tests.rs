use proptest::prelude::*;

use super::*;

const TTL: Duration = Duration::from_secs(9);

fn at(ms: u64) -> Tick {
    Tick::from_ms(ms)
}

/// A keeper that holds lease 1 since 0 ms, for 9 s.
fn holding() -> Keeper {
    let mut keeper = Keeper::new(at(0), 3);
    assert_eq!(keeper.step(at(0), Input::Woke), [Action::Grant]);
    let granted = keeper.step(at(5), Input::Granted { lease: 1, ttl: TTL, sent: at(0) });
    assert_eq!(granted, [Action::Hold(Some(1))]);
    keeper
}

fn wake(keeper: &mut Keeper) -> (Tick, Vec<Action>) {
    let due = keeper.wake_at().unwrap();
    (due, keeper.step(due, Input::Woke))
}

#[test]
fn it_beats_three_times_a_ttl_and_never_late() {
    let mut keeper = holding();
    for _ in 0..20 {
        let before = keeper.wake_at().unwrap();
        let (sent, actions) = wake(&mut keeper);
        assert_eq!(actions, [Action::KeepAlive { lease: 1, answer_max: TTL / 3 }]);
        assert_eq!(keeper.step(sent, Input::Woke), [], "one beat at a time");
        keeper.step(sent.plus(Duration::from_millis(40)), Input::KeptAlive { lease: 1, sent });
        let wait = keeper.wake_at().unwrap().since(before);
        assert!(wait <= TTL / 3 && wait >= TTL * 27 / 100, "{wait:?}");
    }
}

#[test]
fn the_deadline_counts_from_when_the_acknowledged_beat_was_sent() {
    let mut keeper = holding();
    let (sent, _) = wake(&mut keeper);
    keeper.step(at(8_000), Input::KeptAlive { lease: 1, sent });
    let (next, _) = wake(&mut keeper);
    assert_eq!(keeper.wake_at(), Some(sent.plus(TTL)), "with a beat under way, only the deadline is left");
    assert!(next < sent.plus(TTL));
    assert_eq!(keeper.step(sent.plus(TTL), Input::Woke), [Action::Hold(None)]);
}

#[test]
fn a_broken_stream_is_not_a_lost_lease() {
    let mut keeper = holding();
    wake(&mut keeper);
    for failure in 0..10_u64 {
        let now = at(3_100 + failure * 500);
        assert_eq!(keeper.step(now, Input::KeepAliveFailed { lease: 1 }), []);
        let (_, actions) = wake(&mut keeper);
        assert!(matches!(actions[..], [Action::KeepAlive { lease: 1, .. }]), "{actions:?}");
    }
    keeper.step(at(8_500), Input::KeptAlive { lease: 1, sent: at(8_400) });
    assert!(keeper.wake_at().unwrap() > at(8_400), "held on, nothing granted anew");
}

#[test]
fn a_lost_lease_is_replaced_at_once() {
    let mut keeper = holding();
    wake(&mut keeper);
    assert_eq!(keeper.step(at(3_000), Input::Gone { lease: 1 }), [Action::Hold(None), Action::Grant]);
    let granted = keeper.step(at(3_001), Input::Granted { lease: 2, ttl: TTL, sent: at(3_000) });
    assert_eq!(granted, [Action::Hold(Some(2))]);
    assert_eq!(keeper.step(at(3_002), Input::Gone { lease: 1 }), [], "word of the old lease changes nothing");
}

#[test]
fn after_a_pause_longer_than_the_ttl_it_doubts_first_and_asks_then() {
    let mut keeper = holding();
    let actions = keeper.step(at(60_000), Input::Woke);
    assert_eq!(actions, [Action::Hold(None), Action::KeepAlive { lease: 1, answer_max: TTL / 3 }]);
    assert_eq!(keeper.step(at(60_001), Input::Gone { lease: 1 }), [Action::Grant]);
}

#[test]
fn an_etcd_that_was_away_longer_than_the_ttl_finds_the_same_lease_held() {
    let mut keeper = holding();
    keeper.step(at(60_000), Input::Woke);
    let back = keeper.step(at(60_001), Input::KeptAlive { lease: 1, sent: at(60_000) });
    assert_eq!(back, [Action::Hold(Some(1))], "leases are extended at a leader change: no new one is needed");
}

#[test]
fn grants_are_retried_with_growing_waits() {
    let mut keeper = Keeper::new(at(0), 3);
    let mut now = at(0);
    for _ in 0..50 {
        assert_eq!(keeper.step(now, Input::Woke), [Action::Grant]);
        assert_eq!(keeper.wake_at(), None);
        keeper.step(now, Input::GrantFailed);
        let wait = keeper.wake_at().unwrap().since(now);
        assert!(wait <= GRANT_RETRY_MAX && wait >= GRANT_RETRY_FIRST / 2);
        now = keeper.wake_at().unwrap();
    }
}

#[test]
fn release_revokes_even_a_grant_under_way_and_gives_up_after_three_tries() {
    let mut keeper = holding();
    assert_eq!(keeper.step(at(10), Input::Release), [Action::Revoke { lease: 1 }]);
    assert_eq!(keeper.step(at(11), Input::RevokeFailed), [Action::Revoke { lease: 1 }]);
    assert_eq!(keeper.step(at(12), Input::Revoked), [Action::Hold(None), Action::Done]);

    let mut keeper = Keeper::new(at(0), 3);
    keeper.step(at(0), Input::Woke);
    assert_eq!(keeper.step(at(1), Input::Release), []);
    let late = keeper.step(at(2), Input::Granted { lease: 9, ttl: TTL, sent: at(0) });
    assert_eq!(late, [Action::Revoke { lease: 9 }], "no lease is leaked");
    keeper.step(at(3), Input::RevokeFailed);
    keeper.step(at(4), Input::RevokeFailed);
    assert_eq!(keeper.step(at(5), Input::RevokeFailed), [Action::Hold(None), Action::Done]);
}

/// A thousand keepers whose keepalives fail for a minute: when etcd answers again, at most a fifth of them does so within any
/// tenth of the spread.
#[test]
fn after_an_outage_the_many_do_not_come_back_in_one_instant() {
    let back = at(60_000);
    let first_beat_after = |seed: u64| {
        let mut keeper = Keeper::new(at(0), seed);
        keeper.step(at(0), Input::Woke);
        keeper.step(at(1), Input::Granted { lease: 1, ttl: TTL, sent: at(0) });
        loop {
            let (now, actions) = wake(&mut keeper);
            if !actions.iter().any(|action| matches!(action, Action::KeepAlive { .. })) {
                continue;
            }
            if now >= back {
                return now.since(back);
            }
            // Refused at once, as by a port where nothing listens.
            keeper.step(now, Input::KeepAliveFailed { lease: 1 });
        }
    };
    let beats: Vec<Duration> = (0..1_000).map(first_beat_after).collect();
    let spread = TTL / BEAT_RETRIES_PER_TTL;
    assert!(beats.iter().all(|beat| *beat <= spread), "{:?}", beats.iter().max());
    let tenth = |beat: &Duration| beat.as_micros() * 10 / spread.as_micros();
    let most = (0..10).map(|n| beats.iter().filter(|beat| tenth(beat) == n).count()).max().unwrap();
    assert!(most <= 200, "{most} of 1000 within a tenth");
}

fn inputs() -> impl Strategy<Value = Input> {
    let lease = 1..4_i64;
    let sent = 0..200_000_u64;
    prop_oneof![
        4 => Just(Input::Woke),
        2 => (lease.clone(), sent.clone())
            .prop_map(|(lease, sent)| Input::Granted { lease, ttl: TTL, sent: at(sent) }),
        1 => Just(Input::GrantFailed),
        2 => (lease.clone(), sent).prop_map(|(lease, sent)| Input::KeptAlive { lease, sent: at(sent) }),
        1 => lease.clone().prop_map(|lease| Input::KeepAliveFailed { lease }),
        1 => lease.prop_map(|lease| Input::Gone { lease }),
        1 => Just(Input::RevokeFailed),
    ]
}

proptest! {
    /// Whatever etcd answers: what is told is never a lease past its deadline, and unless it was released the
    /// keeper has something under way or a moment to wake at.
    #[test]
    fn it_never_believes_too_long_and_never_gives_up(
        script in proptest::collection::vec((inputs(), 0..5_000_u64), 1..80),
    ) {
        let mut keeper = Keeper::new(at(0), 1);
        let mut now = 0;
        let mut told = None;
        for (input, later) in script {
            now += later;
            // A task wakes the machine before it hands on anything else that came later.
            for input in [Input::Woke, input] {
                for action in keeper.step(at(now), input) {
                    if let Action::Hold(lease) = action { told = lease; }
                }
            }
            for action in keeper.step(at(now), Input::Woke) {
                if let Action::Hold(lease) = action { told = lease; }
            }
            match &keeper.state {
                State::Held { lease, expires, believed, beat, .. } => {
                    prop_assert!(!*believed || at(now) < *expires);
                    prop_assert_eq!(told, believed.then_some(*lease));
                    prop_assert!(matches!(beat, KeepAlive::UnderWay) || keeper.wake_at().is_some());
                }
                State::Granting { .. } => prop_assert_eq!(told, None),
                other => prop_assert!(false, "not asked to leave, yet {other:?}"),
            }
        }
    }
}
