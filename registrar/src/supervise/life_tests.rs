//! The life of the process: in order, and to its end whatever happens.

use proptest::prelude::*;

use super::*;

const NOW: Tick = Tick::from_ms(1_000);
const GRACE: Duration = Duration::from_secs(10);

#[test]
fn a_stop_leaves_then_stops_the_app_then_releases() {
    let mut life = Life::new(true, GRACE);
    assert_eq!(life.step(NOW, Input::Stop), [Action::Leave]);
    assert_eq!(life.wake_at(), None, "the members bound their leaving themselves");
    assert_eq!(life.step(NOW, Input::Left), [Action::Term]);
    assert_eq!(life.wake_at(), Some(NOW.plus(GRACE)));
    assert_eq!(life.step(NOW, Input::AppEnded(Exit::Code(3))), [Action::Release]);
    assert_eq!(life.step(NOW, Input::Released), [Action::End(3)]);
}

#[test]
fn an_app_that_ignores_term_is_killed_after_its_grace() {
    let mut life = Life::new(true, GRACE);
    life.step(NOW, Input::Stop);
    life.step(NOW, Input::Left);
    assert_eq!(life.step(NOW.plus(GRACE / 2), Input::Woke), []);
    assert_eq!(life.step(NOW.plus(GRACE), Input::Woke), [Action::Kill]);
    assert_eq!(life.step(NOW, Input::AppEnded(Exit::Signal(9))), [Action::Release]);
    assert_eq!(life.step(NOW, Input::Released), [Action::End(137)]);
}

#[test]
fn each_further_stop_skips_a_wait() {
    let mut life = Life::new(true, GRACE);
    assert_eq!(life.step(NOW, Input::Stop), [Action::Leave]);
    assert_eq!(life.step(NOW, Input::Stop), [Action::Term]);
    assert_eq!(life.step(NOW, Input::Stop), [Action::Kill]);
    assert_eq!(life.step(NOW, Input::Stop), []);
    assert_eq!(life.step(NOW, Input::AppEnded(Exit::Signal(9))), [Action::Release]);
    assert_eq!(life.step(NOW, Input::Stop), [Action::End(137)]);
}

#[test]
fn an_app_that_ends_takes_its_registration_along_at_once() {
    for stops in 0..3 {
        let mut life = Life::new(true, GRACE);
        for _ in 0..stops {
            life.step(NOW, Input::Stop);
        }
        assert_eq!(life.step(NOW, Input::AppEnded(Exit::Code(7))), [Action::Release]);
        assert!(!life.is_running());
        assert_eq!(life.step(NOW, Input::Left), []);
        assert_eq!(life.step(NOW.plus(RELEASE_MAX), Input::Woke), [Action::End(7)], "an etcd that is away");
    }
}

#[test]
fn a_sidecar_has_no_app_to_stop() {
    let mut life = Life::new(false, GRACE);
    assert_eq!(life.step(NOW, Input::Stop), [Action::Leave]);
    assert_eq!(life.step(NOW, Input::Left), [Action::Release]);
    assert_eq!(life.step(NOW, Input::Released), [Action::End(0)]);
}

#[test]
fn a_broken_part_ends_everything_in_order_and_says_so() {
    let mut life = Life::new(true, GRACE);
    assert_eq!(life.step(NOW, Input::Broken), [Action::Term]);
    assert_eq!(life.step(NOW, Input::AppEnded(Exit::Code(0))), [Action::Release]);
    assert_eq!(life.step(NOW, Input::Released), [Action::End(1)]);
}

fn inputs() -> impl Strategy<Value = Input> {
    prop_oneof![
        Just(Input::Stop),
        (0..5_u8).prop_map(|code| Input::AppEnded(Exit::Code(code))),
        Just(Input::Left),
        Just(Input::Released),
        Just(Input::Broken),
        Just(Input::Woke),
    ]
}

proptest! {
    #[test]
    fn every_action_is_taken_once_and_in_order(
        has_app in any::<bool>(),
        inputs in proptest::collection::vec((0..4_000_u64, inputs()), 0..60),
    ) {
        let rank = |action: &Action| match action {
            Action::Leave => 0,
            Action::Term => 1,
            Action::Kill => 2,
            Action::Release => 3,
            Action::End(_) => 4,
        };
        let mut life = Life::new(has_app, GRACE);
        let (mut now, mut taken) = (NOW, vec![]);
        for (ms, input) in inputs {
            now = now.plus(Duration::from_millis(ms));
            taken.extend(life.step(now, input));
        }
        prop_assert!(taken.is_sorted_by(|a, b| rank(a) < rank(b)), "{:?}", taken);
        prop_assert!(has_app || !taken.contains(&Action::Term));
        // A kill is never the first the app hears.
        prop_assert!(!taken.contains(&Action::Kill) || taken.contains(&Action::Term));
        let ended = matches!(taken.last(), Some(Action::End(_)));
        prop_assert_eq!(ended, life.state == State::Ended);
    }

    #[test]
    fn once_it_stops_the_passing_of_time_ends_it(inputs in proptest::collection::vec(inputs(), 0..20)) {
        let mut life = Life::new(true, GRACE);
        for input in inputs {
            life.step(NOW, input);
        }
        life.step(NOW, Input::Stop);
        life.step(NOW, Input::Left);
        for _ in 0..4 {
            if let Some(due) = life.wake_at() {
                life.step(due, Input::Woke);
            }
        }
        prop_assert_eq!(life.state, State::Ended);
    }
}
