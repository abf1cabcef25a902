use super::*;

const NOW: Tick = Tick::from_ms(0);

fn record(owner: &str) -> Vec<u8> {
    format!(r#"{{"address":"10.0.0.5","port":1,"owner":"{owner}"}}"#).into_bytes()
}

fn fenced_put(value: &[u8]) -> Input {
    Input::Put { key: "i".into(), value: value.into(), fence: Fence::Owner("me".into()) }
}

fn plain_put(key: &str) -> Input {
    Input::Put { key: key.into(), value: b"v".to_vec(), fence: Fence::None }
}

/// A ledger whose instance key stands under lease 1, written at revision 7.
fn standing() -> Ledger {
    let mut ledger = Ledger::new(1);
    assert_eq!(ledger.step(NOW, fenced_put(&record("me"))), [], "nothing is written without a lease");
    let first = ledger.step(NOW, Input::Lease(Some(1)));
    let put = ("i".to_owned(), record("me"));
    assert_eq!(first, [Action::Write { lease: 1, puts: vec![put], deletes: vec![] }], "the first takes over");
    assert!(!ledger.settled());
    assert_eq!(ledger.step(NOW, Input::Written { revision: 7 }), []);
    assert!(ledger.settled());
    ledger
}

#[test]
fn a_new_lease_has_everything_written_again() {
    let mut ledger = standing();
    assert_eq!(ledger.step(NOW, Input::Lease(None)), []);
    assert!(!ledger.settled());
    let again = ledger.step(NOW, Input::Lease(Some(2)));
    let expected = Action::WriteFenced { lease: 2, key: "i".into(), value: record("me"), expected: 7 };
    assert_eq!(again, [expected]);
    // The old lease took the key with it: absent is as good as ours.
    let absent = ledger.step(NOW, Input::Occupied { found: None });
    assert!(matches!(&absent[..], [Action::WriteFenced { expected: 0, .. }]), "{absent:?}");
    ledger.step(NOW, Input::Written { revision: 9 });
    assert!(ledger.settled());
}

#[test]
fn the_older_of_two_stands_down_and_never_fights() {
    let mut ledger = standing();
    ledger.step(NOW, Input::Lease(Some(2)));
    let found = Some(Found { value: record("newer"), mod_revision: 8 });
    assert_eq!(ledger.step(NOW, Input::Occupied { found }), []);
    assert!(ledger.superseded().contains("i"));
    assert_eq!(ledger.step(NOW, Input::Lease(Some(3))), [], "not written again");
    let late = ledger.step(NOW, fenced_put(&record("me")));
    assert_eq!(late, [], "nor by a put that was on its way when the news came");
    assert_eq!(ledger.step(NOW, Input::Remove { key: "i".into() }), [], "nor is the newer one's key deleted");
}

#[test]
fn a_claim_is_written_only_on_what_was_seen_and_may_be_made_again() {
    let claim = |expected| Input::Put {
        key: "i".into(),
        value: record("me"),
        fence: Fence::Claim { owner: "me".into(), expected },
    };
    let mut ledger = Ledger::new(1);
    ledger.step(NOW, Input::Lease(Some(1)));
    let first = ledger.step(NOW, claim(0));
    assert!(matches!(&first[..], [Action::WriteFenced { expected: 0, .. }]), "{first:?}");
    let found = Some(Found { value: record("quicker"), mod_revision: 4 });
    assert_eq!(ledger.step(NOW, Input::Occupied { found }), []);
    assert!(ledger.superseded().contains("i"));
    // Seen to be free later on.
    let again = ledger.step(NOW, claim(0));
    assert!(matches!(&again[..], [Action::WriteFenced { expected: 0, .. }]), "{again:?}");
    assert!(ledger.superseded().is_empty());
    ledger.step(NOW, Input::Written { revision: 9 });
    let later = ledger.step(NOW, fenced_put(b"changed"));
    assert!(
        matches!(&later[..], [Action::WriteFenced { expected: 9, .. }]),
        "from then on it is ours: {later:?}"
    );
}

#[test]
fn a_write_that_arrived_unanswered_is_known_as_ours() {
    let mut ledger = standing();
    ledger.step(NOW, fenced_put(b"changed"));
    ledger.step(NOW, Input::Failed);
    let due = ledger.wake_at().unwrap();
    let again = ledger.step(due, Input::Woke);
    assert!(matches!(&again[..], [Action::WriteFenced { expected: 7, .. }]));
    let found = Some(Found { value: record("me"), mod_revision: 8 });
    let adopted = ledger.step(due, Input::Occupied { found });
    assert!(matches!(&adopted[..], [Action::WriteFenced { expected: 8, .. }]));
    // A value typed by mistake has no owner.
    let found = Some(Found { value: b"oops".to_vec(), mod_revision: 9 });
    let healed = ledger.step(due, Input::Occupied { found });
    assert!(matches!(&healed[..], [Action::WriteFenced { expected: 9, .. }]));
}

#[test]
fn a_change_during_a_write_is_written_after_it() {
    let mut ledger = standing();
    ledger.step(NOW, fenced_put(b"a"));
    assert_eq!(ledger.step(NOW, fenced_put(b"b")), []);
    let next = ledger.step(NOW, Input::Written { revision: 8 });
    let expected = Action::WriteFenced { lease: 1, key: "i".into(), value: b"b".to_vec(), expected: 8 };
    assert_eq!(next, [expected]);
}

#[test]
fn a_dead_lease_stops_the_writing_until_there_is_another() {
    let mut ledger = standing();
    ledger.step(NOW, fenced_put(b"a"));
    assert_eq!(ledger.step(NOW, Input::LeaseGone), []);
    assert_eq!(ledger.step(NOW, fenced_put(b"b")), []);
    assert!(matches!(&ledger.step(NOW, Input::Lease(Some(2)))[..], [Action::WriteFenced { lease: 2, .. }]));
}

#[test]
fn many_keys_are_written_and_removed_in_bounded_transactions() {
    let mut ledger = Ledger::new(1);
    ledger.step(NOW, Input::Lease(Some(1)));
    let mut actions = vec![];
    for n in 0..250 {
        actions.extend(ledger.step(NOW, plain_put(&format!("k{n:03}"))));
    }
    ledger.step(NOW, Input::Remove { key: "k000".into() });
    let mut written = 0;
    while let Some(Action::Write { puts, deletes, .. }) = actions.pop() {
        assert!(puts.len() + deletes.len() <= BATCH_MAX);
        written += puts.len();
        actions = ledger.step(NOW, Input::Written { revision: 5 });
    }
    assert_eq!(written, 250);
    assert!(ledger.settled());
    assert_eq!(ledger.slots.len(), 249);
}

/// Any order of what can happen: what is missing is always exactly what does not stand under the lease of the time.
mod any_order {
    use proptest::prelude::*;

    use super::*;

    fn input() -> impl Strategy<Value = Input> {
        let key = || (0_u8..4).prop_map(|n| format!("key-{n}"));
        let value = || (0_u8..3).prop_map(|n| record(&format!("o-{n}")));
        let fence = prop_oneof![
            Just(Fence::None),
            Just(Fence::Owner("o-1".into())),
            Just(Fence::Claim { owner: "o-1".into(), expected: 0 }),
        ];
        let found = prop::option::of((value(), 1_i64..9))
            .prop_map(|found| found.map(|(value, mod_revision)| Found { value, mod_revision }));
        prop_oneof![
            4 => (key(), value(), fence).prop_map(|(key, value, fence)| Input::Put { key, value, fence }),
            2 => key().prop_map(|key| Input::Remove { key }),
            2 => prop::option::of(1_i64..3).prop_map(Input::Lease),
            4 => (1_i64..99).prop_map(|revision| Input::Written { revision }),
            1 => found.prop_map(|found| Input::Occupied { found }),
            1 => Just(Input::Failed),
            1 => Just(Input::LeaseGone),
            1 => Just(Input::Woke),
        ]
    }

    proptest! {
        #[test]
        fn what_is_missing_is_what_does_not_stand(inputs in prop::collection::vec(input(), 1..60)) {
            let mut ledger = Ledger::new(1);
            for (n, input) in inputs.into_iter().enumerate() {
                // Far apart: no retry waits.
                ledger.step(Tick::from_ms(60_000 * u64::try_from(n).unwrap()), input);
                if ledger.lease.is_some() {
                    let missing = ledger.slots.iter().filter(|(_, slot)| slot.stands != ledger.lease);
                    let missing: BTreeSet<Arc<str>> = missing.map(|(key, _)| Arc::clone(key)).collect();
                    prop_assert_eq!(&ledger.missing, &missing);
                }
            }
        }
    }
}

const PRESENCE: &str = "/l/balancers/lb";

fn presence_of(id: &str) -> Vec<u8> {
    format!(r#"{{"id":"{id}","services":[]}}"#).into_bytes()
}

fn claim_presence(value: &[u8], expected: Option<i64>) -> Input {
    let fence = Fence::Presence { id: "me".into(), covers: "/l/acks/lb/".into(), expected };
    Input::Put { key: PRESENCE.into(), value: value.into(), fence }
}

/// A presence that stands under lease 1, written at revision 7, with an ack.
fn present() -> Ledger {
    let mut ledger = Ledger::new(1);
    ledger.step(NOW, plain_put("/l/acks/lb/web/a"));
    ledger.step(NOW, claim_presence(&presence_of("me"), Some(0)));
    let first = ledger.step(NOW, Input::Lease(Some(1)));
    assert!(matches!(&first[..], [Action::WriteFenced { expected: 0, .. }]), "before any ack: {first:?}");
    assert!(!ledger.standing().any(|key| key == PRESENCE));
    let acks = ledger.step(NOW, Input::Written { revision: 7 });
    assert!(matches!(&acks[..], [Action::Write { .. }]), "{acks:?}");
    assert!(ledger.standing().any(|key| key == PRESENCE));
    ledger.step(NOW, Input::Written { revision: 8 });
    ledger
}

#[test]
fn a_name_that_another_balancer_has_is_let_go_of_with_all_acks_under_it() {
    let mut ledger = present();
    ledger.step(NOW, plain_put("/l/acks/lb.2/web/a"));
    ledger.step(NOW, Input::Written { revision: 9 });
    ledger.step(NOW, Input::Remove { key: "/l/acks/lb/web/b".into() });
    ledger.step(NOW, Input::Written { revision: 10 });
    ledger.step(NOW, Input::Lease(None));
    ledger.step(NOW, Input::Lease(Some(2)));
    let found = Some(Found { value: presence_of("another"), mod_revision: 12 });
    let then = ledger.step(NOW, Input::Occupied { found });
    assert!(ledger.superseded().contains(PRESENCE) && ledger.standing().next().is_none());
    let Some(Action::Write { puts, deletes, .. }) = then.first() else { panic!("{then:?}") };
    let keys: Vec<&str> = puts.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!((keys, deletes.len()), (vec!["/l/acks/lb.2/web/a"], 0), "the other one's acks are left alone");
}

#[test]
fn a_presence_that_was_changed_by_hand_is_written_again_on_what_was_seen() {
    let mut ledger = present();
    assert_eq!(ledger.step(NOW, claim_presence(&presence_of("me"), None)), [], "it stands");
    let again = ledger.step(NOW, claim_presence(&presence_of("me"), Some(9)));
    assert!(matches!(&again[..], [Action::WriteFenced { expected: 9, .. }]), "{again:?}");
    assert!(ledger.standing().next().is_none());
    let ours = Some(Found { value: presence_of("me"), mod_revision: 10 });
    let again = ledger.step(NOW, Input::Occupied { found: ours });
    assert!(matches!(&again[..], [Action::WriteFenced { expected: 10, .. }]), "ours: {again:?}");
}
