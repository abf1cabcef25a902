//! The whole process, from the first check to the exit code.

use leasehold::member::{AddressChoice, MemberConfig, Naming, machine::Input as MemberInput};
use proptest::prelude::*;
use registry::key::Prefix;
use registry::lease::LeaseStatus;
use registry::record::{InstanceRecord, InstanceState};

use super::*;
use crate::probe::{Expected, ProbeConfig};
use crate::supervise::program::{Policy, Program, Restart};

const NOW: Tick = Tick::from_ms(1_000);
const LEAVE_MAX: Duration = Duration::from_mins(1);
const EXIT: Exit = Exit::Code(3);

fn at() -> SocketAddr {
    "10.0.0.5:3000".parse().unwrap()
}

fn probe() -> ProbeConfig {
    ProbeConfig {
        check: "tcp".parse().unwrap(),
        expected: Expected::default(),
        tls: None,
        start_grace: Duration::ZERO,
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(1),
        rise: 1,
        fall: 1,
    }
}

/// The registrar of these services, started. The app is program 0, if there is one.
fn registrar(services: &[&str], app: Option<Restart>) -> Registrar {
    let member = |service: &&str| MemberConfig {
        service: service.parse().unwrap(),
        naming: Naming::Is("a".parse().unwrap()),
        record: InstanceRecord::new(at().ip(), 3_000.try_into().unwrap()),
        address: AddressChoice::Auto,
        leave_max: LEAVE_MAX,
        linger: Duration::from_secs(15),
    };
    let members: Vec<_> = services.iter().map(member).collect();
    let probers = services.iter().map(|_| Prober::new(&probe(), NOW, 1)).collect();
    let policy = |restart| Policy { restart, restarts_max: Some(2), stop_grace: Duration::from_secs(10) };
    let programs: Vec<_> = app.iter().map(|restart| Program::new(policy(*restart), 1)).collect();
    let app = app.map(|_| 0);
    let supervisor = Supervisor::new(programs, app);
    let members = Members::new(&members, "me", &Prefix::default(), 1);
    let mut registrar = Registrar::new(supervisor, probers, members, app);
    let spawned: Vec<_> = app.iter().map(|number| Action::Spawn(*number)).collect();
    assert_eq!(registrar.step(NOW, Input::Start), spawned);
    registrar
}

/// The registrar of a healthy app that is registered as one instance of `web`.
fn registered(restart: Restart) -> Registrar {
    let mut registrar = registrar(&["web"], Some(restart));
    assert_eq!(registrar.step(NOW, Input::Located(0, at())), [Action::Check(0, at())]);
    assert_eq!(puts(&registrar.step(NOW, Input::Checked(0, Ok(())))), [InstanceState::Up]);
    registrar.step(NOW, Input::Members(members::Input::Queued(0, 1)));
    let lease = LeaseStatus { lease: Some(1), settled: true, seq: 1, ..LeaseStatus::default() };
    registrar.step(NOW, Input::Members(members::Input::Lease(lease)));
    assert!(registrar.statuses()[0].1.registered);
    registrar
}

/// The lease says that it is revoked.
fn released() -> Input {
    let lease = LeaseStatus { released: true, ..LeaseStatus::default() };
    Input::Members(members::Input::Lease(lease))
}

/// The states of the records that are put.
fn puts(actions: &[Action]) -> Vec<InstanceState> {
    let put = |action: &Action| match action {
        Action::Members(members::Action::Member(_, member::machine::Action::Put { state, .. })) => {
            Some(*state)
        }
        _ => None,
    };
    actions.iter().filter_map(put).collect()
}

/// `actions` without puts, follows and reports of members.
fn others(actions: Vec<Action>) -> Vec<Action> {
    let other = |action: &Action| {
        !matches!(action, Action::Members(members::Action::Member(..) | members::Action::Report { .. }))
    };
    actions.into_iter().filter(other).collect()
}

const RELEASE: Action = Action::Members(members::Action::Release);

#[test]
fn a_stop_leaves_then_stops_the_app_then_releases_then_ends() {
    let mut registrar = registered(Restart::No);
    let actions = registrar.step(NOW, Input::Stop);
    assert_eq!(puts(&actions), [InstanceState::Draining]);
    assert_eq!(others(actions), []);
    assert!(!registrar.is_running());
    let deadline = NOW.plus(LEAVE_MAX);
    assert_eq!(others(registrar.step(deadline, Input::Woke)), [Action::Check(0, at()), Action::Term(0)]);
    assert_eq!(others(registrar.step(deadline, Input::Exited(0, EXIT))), [RELEASE]);
    assert_eq!(registrar.step(deadline, released()), [Action::End(3)]);
    assert_eq!(registrar.step(deadline, Input::PartEnded), [], "the lease's task has ended");
}

#[test]
fn an_app_that_ends_is_down_before_the_lease_is_released() {
    let mut registrar = registered(Restart::No);
    let actions = registrar.step(NOW, Input::Exited(0, EXIT));
    assert_eq!(puts(&actions), [InstanceState::Down]);
    let put = actions.iter().position(|action| !puts(std::slice::from_ref(action)).is_empty());
    let release = actions.iter().position(|action| *action == RELEASE);
    assert!(put < release && release.is_some(), "{actions:?}");
}

#[test]
fn an_app_that_is_restarted_is_checked_before_its_record_says_up() {
    let mut registrar = registered(Restart::Always);
    let actions = registrar.step(NOW, Input::Exited(0, EXIT));
    assert_eq!(puts(&actions), [InstanceState::Down]);
    let mut due = registrar.wake_at().unwrap();
    assert_eq!(others(registrar.step(due, Input::Woke)), [Action::Spawn(0)]);
    // It cannot be started: that counts as one more end.
    let actions = registrar.step(due, Input::Exited(0, Exit::Code(127)));
    assert!(matches!(actions[..], [Action::ReportRestart(0, Exit::Code(127), _)]), "{actions:?}");
    due = registrar.wake_at().unwrap();
    assert_eq!(registrar.step(due, Input::Woke), [Action::Spawn(0)]);
    assert_eq!(registrar.step(due, Input::Spawned(0)), [Action::Check(0, at())]);
    assert_eq!(puts(&registrar.step(due, Input::Checked(0, Ok(())))), [InstanceState::Up]);
}

#[test]
fn a_process_without_services_stops_without_a_wait() {
    let mut registrar = registrar(&[], Some(Restart::No));
    assert_eq!(registrar.step(NOW, Input::Stop), [Action::Term(0)]);
    assert_eq!(registrar.step(NOW, Input::Exited(0, EXIT)), [Action::End(3)]);
}

#[test]
fn a_part_that_ends_too_early_stops_everything_and_says_so() {
    let mut registrar = registered(Restart::No);
    let actions = registrar.step(NOW, Input::PartEnded);
    assert_eq!(puts(&actions), [InstanceState::Draining], "an app that is being stopped gets no traffic");
    assert_eq!(others(actions), [Action::ReportBroken, Action::Term(0)]);
    assert_eq!(others(registrar.step(NOW, Input::Exited(0, Exit::Code(0)))), [RELEASE]);
    assert_eq!(registrar.step(NOW, released()), [Action::End(1)]);
}

#[test]
fn a_signal_is_forwarded_to_the_app_only() {
    let forward = Input::Forward(Signal::SIGHUP);
    assert_eq!(
        registrar(&["web"], Some(Restart::No)).step(NOW, forward.clone()),
        [Action::Forward(0, Signal::SIGHUP)]
    );
    assert_eq!(registrar(&["web"], None).step(NOW, forward), []);
}

#[test]
fn a_plain_sidecar_waits_for_every_member() {
    let mut registrar = registrar(&["web", "admin"], None);
    registrar.step(NOW, Input::Located(0, at()));
    registrar.step(NOW, Input::Checked(0, Ok(())));
    assert_eq!(
        others(registrar.step(NOW, Input::Stop)),
        [],
        "`web` waits for balancers, `admin` never joined"
    );
    assert_eq!(others(registrar.step(NOW.plus(LEAVE_MAX), Input::Woke)), [Action::Check(0, at()), RELEASE]);
    assert_eq!(registrar.step(NOW, released()), [Action::End(0)]);
}

fn inputs() -> impl Strategy<Value = Input> {
    let outcome = prop_oneof![Just(Ok(())), Just(Err("refused".to_owned()))];
    let lease = (any::<bool>(), any::<bool>(), 0..4_u64).prop_map(|(held, settled, seq)| LeaseStatus {
        lease: held.then_some(1),
        settled,
        seq,
        ..LeaseStatus::default()
    });
    prop_oneof![
        1 => Just(Input::Stop),
        1 => Just(Input::Exited(0, EXIT)),
        1 => Just(Input::Spawned(0)),
        2 => (0..3_usize).prop_map(|index| Input::Located(index, at())),
        4 => (0..3_usize, outcome).prop_map(|(index, outcome)| Input::Checked(index, outcome)),
        2 => lease.prop_map(|lease| Input::Members(members::Input::Lease(lease))),
        1 => (0..3_usize, 0..4_u64).prop_map(|(index, seq)| Input::Members(members::Input::Queued(index, seq))),
        1 => Just(Input::Members(members::Input::Member(0, MemberInput::Woke))),
        1 => Just(released()),
        1 => Just(Input::PartEnded),
        2 => Just(Input::Woke),
    ]
}

proptest! {
    /// Whatever happens: no record says `up` after a stop, one release, one end; and time alone ends a stop.
    #[test]
    fn a_stop_is_final_and_ends(
        restart in prop_oneof![Just(Restart::No), Just(Restart::OnFailure), Just(Restart::Always)],
        inputs in proptest::collection::vec((0..4_000_u64, inputs()), 0..60),
    ) {
        let mut registrar = registrar(&["web", "admin"], Some(restart));
        let (mut now, mut stopped, mut releases, mut ends) = (NOW, false, 0, 0);
        let (mut lives, mut spawning) = (true, false);
        let stop = [Input::Stop, Input::Stop, Input::Stop].map(|input| (0, input));
        for (ms, input) in inputs.into_iter().chain(stop) {
            now = now.plus(Duration::from_millis(ms));
            match input {
                // Only a program that lives can end, and only one that is to be spawned can start.
                Input::Exited(..) if !lives => continue,
                Input::Spawned(_) if !spawning => continue,
                Input::Exited(..) => (lives, spawning) = (false, false),
                Input::Spawned(_) => spawning = false,
                _ => {}
            }
            stopped |= input == Input::Stop;
            let actions = registrar.step(now, input);
            if actions.contains(&Action::Spawn(0)) {
                (lives, spawning) = (true, true);
            }
            prop_assert!(ends == 0 || others(actions.clone()).iter().all(|action| matches!(action, Action::Check(..) | Action::ReportBroken)));
            prop_assert!(!(stopped && puts(&actions).contains(&InstanceState::Up)));
            releases += actions.iter().filter(|action| **action == RELEASE).count();
            ends += actions.iter().filter(|action| matches!(action, Action::End(_))).count();
        }
        for _ in 0..40 {
            let Some(due) = registrar.wake_at() else { break };
            let actions = registrar.step(due.max(now), Input::Woke);
            releases += actions.iter().filter(|action| **action == RELEASE).count();
            ends += actions.iter().filter(|action| matches!(action, Action::End(_))).count();
            now = due.max(now);
        }
        prop_assert!(releases <= 1);
        prop_assert_eq!(ends, 1);
    }
}
