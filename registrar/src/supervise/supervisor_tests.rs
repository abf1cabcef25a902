//! The supervisor of the process: in order, and to its end whatever happens.

use proptest::prelude::*;

use super::*;
use crate::supervise::program::{Policy, Restart};

const NOW: Tick = Tick::from_ms(1_000);
const GRACE: Duration = Duration::from_secs(10);

/// Programs of these policies, started; the app is the one at `app`.
fn supervisor(restarts: &[Restart], app: Option<usize>) -> Supervisor {
    let policy = |restart: &Restart| Policy { restart: *restart, restarts_max: Some(2), stop_grace: GRACE };
    let programs = restarts.iter().map(|restart| Program::new(policy(restart), 1)).collect();
    let mut supervisor = Supervisor::new(programs, app);
    let started: Vec<_> = (0..restarts.len()).map(Action::Spawn).collect();
    assert_eq!(supervisor.step(NOW, Input::Start), started);
    supervisor
}

fn app() -> Supervisor {
    supervisor(&[Restart::No], Some(0))
}

#[test]
fn a_stop_leaves_then_stops_the_app_then_releases() {
    let mut supervisor = app();
    assert_eq!(supervisor.step(NOW, Input::Stop), [Action::Leave]);
    assert_eq!(supervisor.wake_at(), None, "the members bound their leaving themselves");
    assert_eq!(supervisor.step(NOW, Input::Left), [Action::Term(0)]);
    assert_eq!(supervisor.wake_at(), Some(NOW.plus(GRACE)));
    assert_eq!(supervisor.step(NOW, Input::Exited(0, Exit::Code(3))), [Action::Release]);
    assert_eq!(supervisor.step(NOW, Input::Released), [Action::End(3)]);
}

#[test]
fn an_app_that_ignores_term_is_killed_after_its_grace() {
    let mut supervisor = app();
    supervisor.step(NOW, Input::Stop);
    supervisor.step(NOW, Input::Left);
    assert_eq!(supervisor.step(NOW.plus(GRACE / 2), Input::Woke), []);
    assert_eq!(supervisor.step(NOW.plus(GRACE), Input::Woke), [Action::Kill(0)]);
    assert_eq!(supervisor.step(NOW, Input::Exited(0, Exit::Signal(9))), [Action::Release]);
    assert_eq!(supervisor.step(NOW, Input::Released), [Action::End(137)]);
}

#[test]
fn each_further_stop_skips_a_wait() {
    let mut supervisor = app();
    assert_eq!(supervisor.step(NOW, Input::Stop), [Action::Leave]);
    assert_eq!(supervisor.step(NOW, Input::Stop), [Action::Term(0)]);
    assert_eq!(supervisor.step(NOW, Input::Stop), [Action::Kill(0)]);
    assert_eq!(supervisor.step(NOW, Input::Stop), []);
    assert_eq!(supervisor.step(NOW, Input::Exited(0, Exit::Signal(9))), [Action::Release]);
    assert_eq!(supervisor.step(NOW, Input::Stop), [Action::End(137)]);
}

#[test]
fn an_app_that_ends_takes_its_registration_along_at_once() {
    for stops in 0..3 {
        let mut supervisor = app();
        for _ in 0..stops {
            supervisor.step(NOW, Input::Stop);
        }
        assert_eq!(supervisor.step(NOW, Input::Exited(0, Exit::Code(7))), [Action::Release]);
        assert!(!supervisor.is_running());
        assert_eq!(supervisor.step(NOW, Input::Left), []);
        assert_eq!(
            supervisor.step(NOW.plus(RELEASE_MAX), Input::Woke),
            [Action::End(7)],
            "an etcd that is away"
        );
    }
}

#[test]
fn an_app_that_is_started_again_keeps_its_registration() {
    let mut supervisor = supervisor(&[Restart::OnFailure], Some(0));
    let mut now = NOW;
    for _ in 0..2 {
        let actions = supervisor.step(now, Input::Exited(0, Exit::Code(1)));
        assert!(matches!(actions[..], [Action::ReportRestart(0, Exit::Code(1), _)]), "{actions:?}");
        assert!(supervisor.is_running());
        now = supervisor.wake_at().unwrap();
        assert_eq!(supervisor.step(now, Input::Woke), [Action::Spawn(0)]);
    }
    assert_eq!(
        supervisor.step(now, Input::Exited(0, Exit::Code(1))),
        [Action::ReportGaveUp(0), Action::Release]
    );
    assert_eq!(supervisor.step(now, Input::Released), [Action::End(1)]);
}

#[test]
fn those_beside_the_app_are_stopped_in_reverse_and_after_it() {
    // One started before the app, one after it.
    let mut supervisor = supervisor(&[Restart::Always, Restart::No, Restart::Always], Some(1));
    supervisor.step(NOW, Input::Stop);
    assert_eq!(supervisor.step(NOW, Input::Left), [Action::Term(2)]);
    assert_eq!(supervisor.step(NOW, Input::Exited(2, Exit::Signal(15))), [Action::Term(1)]);
    let actions = supervisor.step(NOW, Input::Exited(1, Exit::Code(0)));
    assert_eq!(actions, [Action::Term(0), Action::Release], "a forwarder is in no rotation to wait for");
    assert_eq!(supervisor.step(NOW, Input::Released), []);
    assert_eq!(
        supervisor.step(NOW, Input::Exited(0, Exit::Code(9))),
        [Action::End(0)],
        "the code is the app's"
    );
}

#[test]
fn an_app_that_ends_stops_those_beside_it() {
    let mut supervisor = supervisor(&[Restart::Always, Restart::No], Some(1));
    assert_eq!(supervisor.step(NOW, Input::Exited(1, Exit::Code(4))), [Action::Term(0), Action::Release]);
    supervisor.step(NOW, Input::Released);
    assert_eq!(supervisor.step(NOW, Input::Exited(0, Exit::Signal(15))), [Action::End(4)]);
}

#[test]
fn one_beside_the_app_that_ends_is_no_business_of_the_app_s_until_it_is_given_up() {
    let mut supervisor = supervisor(&[Restart::OnFailure, Restart::No], Some(1));
    let mut now = NOW;
    for _ in 0..2 {
        supervisor.step(now, Input::Exited(0, Exit::Code(3)));
        assert!(supervisor.is_running());
        now = supervisor.wake_at().unwrap();
        supervisor.step(now, Input::Woke);
    }
    let mut well = supervisor.clone();
    assert_eq!(well.step(now, Input::Exited(0, Exit::Code(0))), []);
    assert!(well.is_running());

    assert_eq!(
        supervisor.step(now, Input::Exited(0, Exit::Code(3))),
        [Action::ReportGaveUp(0), Action::Leave]
    );
    assert_eq!(supervisor.step(now, Input::Left), [Action::Term(1)]);
    assert_eq!(supervisor.step(now, Input::Exited(1, Exit::Code(0))), [Action::Release]);
    assert_eq!(supervisor.step(now, Input::Released), [Action::End(3)]);
}

#[test]
fn a_sidecar_has_no_app_to_stop() {
    let mut supervisor = supervisor(&[], None);
    assert_eq!(supervisor.step(NOW, Input::Stop), [Action::Leave]);
    assert_eq!(supervisor.step(NOW, Input::Left), [Action::Release]);
    assert_eq!(supervisor.step(NOW, Input::Released), [Action::End(0)]);
}

#[test]
fn a_broken_part_ends_everything_in_order_and_says_so() {
    let mut supervisor = app();
    assert_eq!(supervisor.step(NOW, Input::Broken), [Action::Leave, Action::Term(0)]);
    assert_eq!(supervisor.step(NOW, Input::Exited(0, Exit::Code(0))), [Action::Release]);
    assert_eq!(supervisor.step(NOW, Input::Released), [Action::End(1)]);
}

fn inputs() -> impl Strategy<Value = Input> {
    prop_oneof![
        Just(Input::Stop),
        (0..3_usize, 0..5_u8).prop_map(|(number, code)| Input::Exited(number, Exit::Code(code))),
        Just(Input::Left),
        Just(Input::Released),
        Just(Input::Broken),
        Just(Input::Woke),
    ]
}

const ALL: [Restart; 3] = [Restart::Always, Restart::OnFailure, Restart::No];

proptest! {
    #[test]
    fn every_action_is_taken_once_and_in_order(
        app in 0..3_usize, inputs in proptest::collection::vec((0..4_000_u64, inputs()), 0..80),
    ) {
        let mut supervisor = supervisor(&ALL, Some(app));
        let (mut now, mut lives) = (NOW, [true; 3]);
        let (mut leaves, mut releases, mut ended, mut stopping) = (0, 0, false, false);
        for (ms, input) in inputs {
            now = now.plus(Duration::from_millis(ms));
            if let Input::Exited(number, _) = input {
                if !lives[number] {
                    continue; // Only who lives can end.
                }
                lives[number] = false;
            }
            for action in supervisor.step(now, input) {
                prop_assert!(!ended, "{action:?} after the end");
                match action {
                    Action::Spawn(number) => {
                        prop_assert!(!lives[number] && !stopping);
                        lives[number] = true;
                    }
                    Action::Term(number) => {
                        prop_assert!(lives[number]);
                        stopping = true;
                    }
                    Action::Kill(number) => prop_assert!(lives[number]),
                    Action::Leave => leaves += 1,
                    Action::Release => {
                        releases += 1;
                        stopping = true;
                    }
                    Action::End(_) => ended = true,
                    Action::ReportRestart(..) | Action::ReportGaveUp(_) => {}
                }
            }
        }
        prop_assert!(leaves <= 1 && releases <= 1);
        prop_assert!(!ended || releases == 1);
        prop_assert_eq!(ended, supervisor.phase == Phase::Ended);
    }

    #[test]
    fn once_it_stops_the_passing_of_time_ends_it(inputs in proptest::collection::vec(inputs(), 0..20)) {
        let mut supervisor = supervisor(&ALL, Some(1));
        for input in inputs {
            supervisor.step(NOW, input);
        }
        supervisor.step(NOW, Input::Stop);
        supervisor.step(NOW, Input::Left);
        for _ in 0..12 {
            if let Some(due) = supervisor.wake_at() {
                supervisor.step(due, Input::Woke);
            }
        }
        prop_assert_eq!(supervisor.phase, Phase::Ended);
    }
}
