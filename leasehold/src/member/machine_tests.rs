//! A member joins, fails, recovers, leaves, and stands down.

use proptest::prelude::*;
use registry::follow::{Change, Entry};
use registry::key::Prefix;
use registry::record::{AckRecord, AckState, BalancerRecord, to_value};

use super::*;

const NOW: Tick = Tick::from_ms(1_000);
const LEAVE_MAX: Duration = Duration::from_mins(1);
const STANDS: RecordStatus = RecordStatus { held: true, settled: true, superseded: false, revision: None };
const SUPERSEDED: RecordStatus = RecordStatus { held: true, settled: true, superseded: true, revision: None };

const BOUNDS: Bounds =
    Bounds { leave_max: LEAVE_MAX, linger: Duration::from_secs(15), inflight: Duration::from_secs(5) };

fn at() -> SocketAddr {
    "10.0.0.5:3000".parse().unwrap()
}

fn machine() -> Machine {
    registrant(Naming::Is("web-1".parse().unwrap()))
}

fn registrant(naming: Naming) -> Machine {
    let (service, owner) = ("web".parse().unwrap(), "me".into());
    Machine::new(Registrant { service, naming, owner, prefix: Prefix::default() }, BOUNDS, 1)
}

/// A status of `web-1`.
fn status() -> Status {
    Status { name: Some("web-1".parse().unwrap()), ..Status::default() }
}

fn up() -> Input {
    Input::Health(AppHealth::Up(at()))
}

fn down() -> Input {
    Input::Health(AppHealth::Down("refused".into()))
}

/// What is to be written, of `actions`.
fn puts(actions: &[Action]) -> Vec<InstanceState> {
    let put = |action: &Action| match action {
        Action::Put { state, .. } => Some(*state),
        _ => None,
    };
    actions.iter().filter_map(put).collect()
}

fn registered() -> Machine {
    let mut machine = machine();
    machine.step(NOW, up());
    machine.step(NOW, Input::Record(STANDS));
    assert_eq!(machine.status(), Status { wants_traffic: true, healthy: true, registered: true, ..status() });
    machine
}

fn put(name: &str, expected: Option<i64>) -> Action {
    let key = format!("/leasehold/v1/instances/web/{name}");
    Action::Put { key, at: at(), state: InstanceState::Up, expected }
}

fn follow_own(name: &str) -> Action {
    Action::FollowOwn { key: format!("/leasehold/v1/instances/web/{name}") }
}

/// It stands down, and looks after the name.
fn superseded(name: &str) -> [Action; 2] {
    let key = format!("/leasehold/v1/instances/web/{name}");
    [Action::Report(Report::Superseded), Action::FollowRival { key }]
}

fn follow_presence() -> Action {
    Action::FollowPresence { presence: "/leasehold/v1/balancers/".into() }
}

/// The key of an ack by a balancer of 0.1.0.
const ACK: &str = "/leasehold/v1/acks/web/web-1/lb-1";

fn follow_balancers() -> Action {
    Action::FollowBalancers { presence: "/leasehold/v1/balancers/".into() }
}

fn follow_ack() -> Action {
    Action::FollowAck { key: ACK.into() }
}

fn lb_1() -> Entry {
    let record = BalancerRecord { services: vec!["web".parse().unwrap()], ..BalancerRecord::default() };
    entry("balancers/lb-1", to_value(&record))
}

fn list_names() -> Action {
    Action::ListNames { prefix: "/leasehold/v1/instances/web/".into() }
}

fn entry(key: &str, value: Vec<u8>) -> Entry {
    let key = format!("/leasehold/v1/{key}").into();
    Entry { key, value, lease: 1, create_revision: 1, mod_revision: 1 }
}

fn own(value: &str) -> Input {
    Input::Own(Event::Changed(vec![Change::Put(entry("instances/web/web-1", value.into()))]))
}

fn listed(entries: Vec<Entry>) -> Event {
    Event::Listed { cluster: 1, revision: 1, entries }
}

#[test]
fn nothing_is_registered_before_the_app_is_healthy() {
    let mut machine = machine();
    assert_eq!(machine.step(NOW, Input::Health(AppHealth::Starting)), []);
    let not_yet = machine.step(NOW, Input::Health(AppHealth::NotYet("refused".into())));
    assert_eq!(not_yet, [Action::Report(Report::NotYet { cause: "refused".into() })]);
    assert_eq!(machine.step(NOW, Input::Record(RecordStatus { held: true, ..RecordStatus::default() })), []);
    assert_eq!(machine.status(), status());

    let actions = machine.step(NOW, up());
    assert_eq!(actions[1], put("web-1", None));
    assert!(machine.status().wants_traffic && !machine.status().registered);
    let actions = machine.step(NOW, Input::Record(STANDS));
    assert_eq!(actions, [Action::Report(Report::Registered), follow_own("web-1"), follow_presence()]);
    assert!(machine.status().registered);
}

#[test]
fn a_sick_app_keeps_its_record_and_gets_no_traffic() {
    let mut machine = registered();
    assert_eq!(puts(&machine.step(NOW, down())), [InstanceState::Down]);
    assert_eq!(machine.status(), status());
    assert_eq!(machine.step(NOW, down()), []);
    machine.step(NOW, Input::Record(STANDS));
    assert!(machine.status().registered && !machine.status().wants_traffic);
    assert_eq!(puts(&machine.step(NOW, up())), [InstanceState::Up]);
    assert_eq!(machine.step(NOW, up()), []);
}

#[test]
fn leaving_waits_for_the_record_then_for_the_balancers() {
    let mut machine = registered();
    assert_eq!(puts(&machine.step(NOW, Input::Leave)), [InstanceState::Draining]);
    assert!(!machine.status().wants_traffic && !machine.status().left);
    // The app may do what it likes from here on.
    assert_eq!(machine.step(NOW, down()), []);
    assert_eq!(machine.step(NOW, Input::Record(RecordStatus { settled: false, ..STANDS })), []);
    assert_eq!(machine.step(NOW, Input::Record(STANDS)), [follow_balancers()]);

    let presence = listed(vec![lb_1()]);
    assert_eq!(machine.step(NOW, Input::Presence(presence)), [follow_ack()]);
    assert_eq!(machine.step(NOW, Input::Presence(Event::InSync)), []);
    let acks = |event| Input::Acks(ACK.into(), event);
    assert_eq!(machine.step(NOW, acks(listed(vec![]))), []);
    let awaited = BTreeSet::from(["lb-1".parse().unwrap()]);
    assert_eq!(machine.step(NOW, acks(Event::InSync)), [Action::Report(Report::Awaiting(awaited.clone()))]);
    assert_eq!(machine.step(NOW, acks(Event::InSync)), [], "it is said once");

    let ack = AckRecord { owner: "me".into(), revision: None, state: AckState::Drained, at: String::new() };
    let ack = Event::Changed(vec![Change::Put(entry("acks/web/web-1/lb-1", to_value(&ack)))]);
    assert_eq!(machine.step(NOW, acks(ack)), [Action::Report(Report::Left)]);
    assert!(machine.status().left);
    assert_eq!(machine.wake_at(), None);
}

/// A process that was paused meets its timer first, and may have missed that the balancer is back.
#[test]
fn a_vanished_balancer_whose_time_is_over_is_looked_for_once_more() {
    let mut machine = registered();
    machine.step(NOW, Input::Presence(listed(vec![lb_1()])));
    machine.step(NOW, Input::Presence(Event::InSync));
    machine.step(NOW, Input::Leave);
    let stands = RecordStatus { revision: Some(9), ..STANDS };
    assert_eq!(machine.step(NOW, Input::Record(stands)), [follow_balancers(), follow_ack()]);
    machine.step(NOW, Input::Presence(listed(vec![])));
    machine.step(NOW, Input::Presence(Event::InSync));
    machine.step(NOW, Input::Acks(ACK.into(), listed(vec![])));
    machine.step(NOW, Input::Acks(ACK.into(), Event::InSync));
    let due = machine.wake_at().unwrap();
    assert_eq!(due, NOW.plus(BOUNDS.linger));
    assert_eq!(machine.step(due, Input::Woke), [follow_balancers()]);
    assert!(!machine.status().left);
    machine.step(due, Input::Presence(listed(vec![lb_1()])));
    assert_eq!(machine.step(due, Input::Presence(Event::InSync)), [], "it is awaited as before");
    machine.step(
        due,
        Input::Presence(Event::Changed(vec![Change::Delete { key: lb_1().key, mod_revision: 10 }])),
    );
    let again = due.plus(BOUNDS.linger);
    assert_eq!(machine.step(again, Input::Woke), [follow_balancers()]);
    machine.step(again, Input::Presence(listed(vec![])));
    assert_eq!(machine.step(again, Input::Presence(Event::InSync)), [Action::Report(Report::Left)]);
}

#[test]
fn leaving_is_bounded_whatever_is_missing() {
    let mut machine = registered();
    machine.step(NOW, Input::Leave);
    let due = machine.wake_at().unwrap();
    assert_eq!(due, NOW.plus(LEAVE_MAX));
    assert_eq!(machine.step(NOW, Input::Woke), []);
    assert_eq!(machine.step(due, Input::Woke), [Action::Report(Report::TimedOut(None))]);
    assert!(machine.status().left);
}

#[test]
fn an_instance_that_was_never_registered_leaves_at_once() {
    let mut machine = machine();
    assert_eq!(machine.step(NOW, Input::Leave), []);
    assert!(machine.status().left);
    assert_eq!(machine.step(NOW, up()), [], "and does not join any more");
}

#[test]
fn a_leave_without_etcd_says_so() {
    let mut machine = machine();
    machine.step(NOW, up());
    let actions = machine.step(NOW, Input::Leave);
    assert_eq!(actions[0], Action::Report(Report::LeavingBlind));
    assert!(!machine.status().left);
}

#[test]
fn a_foreign_record_over_ours_is_a_question_and_a_newer_owner_ends_us() {
    let mut machine = registered();
    assert_eq!(machine.step(NOW, own(r#"{"address":"10.0.0.5","port":3000,"owner":"me"}"#)), []);
    let foreign = own(r#"{"address":"10.0.0.9","port":1,"owner":"newer"}"#);
    let actions = machine.step(NOW, foreign.clone());
    assert_eq!(actions[0], Action::Report(Report::WrittenOver));
    assert_eq!(puts(&actions), [InstanceState::Up]);

    assert_eq!(machine.step(NOW, Input::Record(SUPERSEDED)), superseded("web-1"));
    assert_eq!(machine.status(), Status { healthy: true, stood_down: true, ..status() });
    for input in [Input::Record(SUPERSEDED), foreign, down(), up(), Input::Record(STANDS)] {
        assert_eq!(machine.step(NOW, input), [], "it does not fight for the name");
    }
    assert_eq!(machine.step(NOW, Input::Leave), []);
    assert!(!machine.status().left, "requests that were in flight when traffic moved away are let finish");
    let due = machine.wake_at().unwrap();
    assert_eq!(due, NOW.plus(BOUNDS.inflight));
    machine.step(due, Input::Woke);
    assert!(machine.status().left);
}

#[test]
fn one_that_stood_down_is_back_when_the_newer_one_ends() {
    let mut machine = registered();
    machine.step(NOW, Input::Record(SUPERSEDED));
    let actions = machine.step(NOW, Input::Own(listed(vec![])));
    assert_eq!(actions, [Action::Report(Report::NameReturned), put("web-1", Some(0))]);
    assert!(machine.status().wants_traffic && !machine.status().stood_down);
    machine.step(NOW, Input::Record(STANDS));
    assert!(machine.status().registered);
    machine.step(NOW, Input::Record(SUPERSEDED));
    assert!(machine.status().stood_down, "a third one was quicker");
}

/// A restored backup brought back a rival's record, and another one ours.
#[test]
fn one_that_stood_down_is_back_where_its_own_record_stands_again() {
    let value = br#"{"address":"10.0.0.5","port":3000,"owner":"me"}"#;
    let ours = || Entry { mod_revision: 7, ..entry("instances/web/web-1", value.to_vec()) };
    let mut machine = registered();
    machine.step(NOW, Input::Record(SUPERSEDED));
    let change = Event::Changed(vec![Change::Put(ours())]);
    assert_eq!(machine.step(NOW, Input::Own(change)), [], "it may be of the past");
    let actions = machine.step(NOW, Input::Own(listed(vec![ours()])));
    assert_eq!(actions, [Action::Report(Report::NameReturned), put("web-1", Some(7))]);
}

/// A restored backup brings back an earlier value of our own record.
#[test]
fn a_list_with_an_earlier_value_of_ours_has_the_present_one_written_again() {
    let mut machine = registered();
    machine.step(NOW, down());
    let stands = RecordStatus { revision: Some(9), ..STANDS };
    machine.step(NOW, Input::Record(RecordStatus { settled: false, ..stands }));
    machine.step(NOW, Input::Record(stands));
    let up = r#"{"address":"10.0.0.5","port":3000,"owner":"me"}"#;
    assert_eq!(machine.step(NOW, own(up)), [], "a change that comes late tells of the past");
    let restored = Input::Own(listed(vec![entry("instances/web/web-1", up.into())]));
    assert_eq!(puts(&machine.step(NOW, restored)), [InstanceState::Down]);
}

/// The same value at an earlier revision: the balancers answer that one, and a leave waits for an answer to the later.
#[test]
fn a_list_with_our_value_at_an_earlier_revision_has_it_written_again() {
    let mut machine = registered();
    let stands = RecordStatus { revision: Some(9), ..STANDS };
    machine.step(NOW, Input::Record(RecordStatus { settled: false, ..stands }));
    machine.step(NOW, Input::Record(stands));
    let value = br#"{"address":"10.0.0.5","port":3000,"owner":"me"}"#;
    let at = |revision| Entry { mod_revision: revision, ..entry("instances/web/web-1", value.to_vec()) };
    assert_eq!(machine.step(NOW, Input::Own(listed(vec![at(9)]))), []);
    assert_eq!(puts(&machine.step(NOW, Input::Own(listed(vec![at(5)])))), [InstanceState::Up]);
}

/// The list comes before the lease is known to live on in the restored etcd.
#[test]
fn an_earlier_value_that_is_listed_while_etcd_is_in_doubt_is_written_over_afterwards() {
    let mut machine = registered();
    machine.step(NOW, down());
    let stands = RecordStatus { revision: Some(9), ..STANDS };
    machine.step(NOW, Input::Record(stands));
    machine.step(NOW, Input::Record(RecordStatus { settled: false, ..stands }));
    let up = r#"{"address":"10.0.0.5","port":3000,"owner":"me"}"#;
    let restored = Input::Own(listed(vec![entry("instances/web/web-1", up.into())]));
    assert_eq!(machine.step(NOW, restored), []);
    assert_eq!(puts(&machine.step(NOW, Input::Record(stands))), [InstanceState::Down]);
    machine.step(NOW, Input::Record(RecordStatus { settled: false, ..stands }));
    assert_eq!(puts(&machine.step(NOW, Input::Record(stands))), [], "once");
}

#[test]
fn a_neighbour_whose_name_begins_like_ours_is_no_news() {
    let mut machine = registered();
    let neighbour = entry("instances/web/web-10", br#"{"address":"10.0.0.9","port":1,"owner":"x"}"#.to_vec());
    assert_eq!(machine.step(NOW, Input::Own(Event::Changed(vec![Change::Put(neighbour.clone())]))), []);
    let gone = machine.step(NOW, Input::Own(listed(vec![neighbour])));
    assert_eq!(gone[0], Action::Report(Report::Gone), "only ours is missing");
    assert_eq!(puts(&gone), [InstanceState::Up], "what should stand is written again");
    assert!(!machine.status().registered);
    machine.step(NOW, Input::Record(STANDS));
    assert!(machine.status().registered);
}

/// The answer to a list, with these names taken at another address.
fn names(taken: &[&str]) -> Input {
    let value = br#"{"address":"10.0.0.9","port":1,"owner":"other"}"#;
    let taken = taken.iter().map(|name| entry(&format!("instances/web/{name}"), value.to_vec()));
    Input::Names(Ok(taken.collect()))
}

#[test]
fn an_instance_without_a_name_claims_one_when_healthy_and_another_when_it_is_lost() {
    let mut machine = registrant(Naming::Auto);
    assert_eq!(machine.step(NOW, up())[1], list_names());
    assert_eq!(machine.status().name, None);
    assert_eq!(machine.step(NOW, names(&[]))[1], put("web-1", Some(0)));
    // Another registrar was quicker.
    assert_eq!(machine.step(NOW, Input::Record(SUPERSEDED))[1], list_names());
    assert_eq!(machine.step(NOW, names(&["web-1"]))[1], put("web-2", Some(0)));
    let actions = machine.step(NOW, Input::Record(STANDS));
    assert_eq!(actions, [Action::Report(Report::Registered), follow_own("web-2"), follow_presence()]);
    assert_eq!(machine.status().name, Some("web-2".parse().unwrap()));

    // The lease was lost during a pause, and the name with it.
    let actions = machine.step(NOW, Input::Record(SUPERSEDED));
    assert_eq!(actions[0], Action::Report(Report::NameLost("web-2".parse().unwrap())));
    machine.step(NOW, down());
    assert_eq!(machine.step(NOW, names(&[])), [], "an unhealthy app is not registered");
    assert!(!machine.status().wants_traffic);
    assert_eq!(machine.step(NOW, up())[1], list_names());
    machine.step(NOW, Input::Leave);
    assert!(machine.status().left, "an instance without a record leaves at once");
    assert_eq!(machine.step(NOW, names(&[])), []);
}

/// The host's name: the quicker has it, and once it stands it is lost only to an instance that was given it.
#[test]
fn the_hosts_name_is_searched_again_when_another_was_quicker_and_given_up_when_it_stood() {
    let list = || Action::ListNames { prefix: "/leasehold/v1/instances/web/web-1".into() };
    let mut machine = registrant(Naming::Host("web-1".parse().unwrap()));
    assert_eq!(machine.step(NOW, up())[1], list());
    assert_eq!(machine.step(NOW, names(&[]))[1], put("web-1", Some(0)));
    assert_eq!(machine.step(NOW, Input::Record(SUPERSEDED))[1], list());
    assert_eq!(machine.step(NOW, names(&["web-1"])), [Action::AskLease(1)]);
    let ended = machine.step(NOW, Input::Lease(Ok(None)));
    assert_eq!(ended[1], put("web-1", Some(1)));
    machine.step(NOW, Input::Record(STANDS));
    assert_eq!(machine.step(NOW, Input::Record(SUPERSEDED)), superseded("web-1"));
    assert!(machine.status().stood_down);
}

#[test]
fn a_name_at_our_own_address_is_taken_again_at_the_start_and_not_after_it_was_lost() {
    let ours = || {
        let value = br#"{"address":"10.0.0.5","port":3000,"owner":"an earlier life"}"#.to_vec();
        Input::Names(Ok(vec![Entry { mod_revision: 7, ..entry("instances/web/web-3", value) }]))
    };
    let mut machine = registrant(Naming::Auto);
    machine.step(NOW, up());
    assert_eq!(machine.step(NOW, ours())[1], put("web-3", Some(7)));
    assert_eq!(machine.step(NOW, Input::Record(SUPERSEDED))[1], list_names());
    assert_eq!(machine.step(NOW, ours())[1], put("web-1", Some(0)), "two lives at one address do not fight");
}

#[test]
fn a_list_of_names_is_retried_while_etcd_does_not_answer() {
    let mut machine = registrant(Naming::Auto);
    machine.step(NOW, up());
    let cause = || "no answer".to_owned();
    let failed = machine.step(NOW, Input::Names(Err(cause())));
    assert_eq!(failed, [Action::Report(Report::NamesUnknown { cause: cause() })]);
    let due = machine.wake_at().unwrap();
    assert_eq!(machine.step(due, Input::Woke), [list_names()]);
    assert_eq!(machine.step(due, names(&[]))[1], put("web-1", Some(0)));
    assert_eq!(machine.wake_at(), None);
}

#[test]
fn a_lease_s_status_counts_only_from_our_own_command_on() {
    let key = "/leasehold/v1/instances/web/web-1";
    let lease = LeaseStatus {
        lease: Some(1),
        settled: true,
        seq: 4,
        superseded: [key.to_owned()].into(),
        ..LeaseStatus::default()
    };
    let held = RecordStatus { held: true, ..RecordStatus::default() };
    assert_eq!(RecordStatus::of(&lease, Some(key), None), held, "nothing was put");
    assert_eq!(RecordStatus::of(&lease, Some(key), Some(5)), held, "it is about an earlier command");
    assert_eq!(RecordStatus::of(&lease, Some(key), Some(4)), SUPERSEDED);
    assert_eq!(RecordStatus::of(&lease, Some("another"), Some(3)), STANDS);
    assert_eq!(RecordStatus::of(&lease, None, Some(3)), STANDS);
}

fn inputs() -> impl Strategy<Value = Input> {
    let standing = (any::<bool>(), any::<bool>(), proptest::bool::weighted(0.1));
    prop_oneof![
        4 => Just(up()),
        2 => Just(down()),
        1 => Just(Input::Health(AppHealth::NotYet("refused".into()))),
        4 => standing.prop_map(|(held, settled, superseded)| Input::Record(RecordStatus { held, settled, superseded, revision: None })),
        1 => Just(own(r#"{"address":"10.0.0.9","port":1,"owner":"other"}"#)),
        1 => Just(own("oops")),
        1 => Just(Input::Own(listed(vec![]))),
        2 => Just(Input::Presence(listed(vec![]))),
        2 => Just(Input::Presence(Event::InSync)),
        2 => Just(Input::Acks(ACK.into(), listed(vec![]))),
        2 => Just(Input::Acks(ACK.into(), Event::InSync)),
        1 => Just(Input::Acks(ACK.into(), Event::OutOfSync)),
        1 => Just(names(&["web-1"])),
        1 => Just(Input::Names(Err("no answer".into()))),
        1 => Just(Input::Leave),
        1 => Just(Input::Woke),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_the_record_never_comes_back_from_draining(
        auto in any::<bool>(), inputs in proptest::collection::vec((0..5_000_u64, inputs()), 0..120),
    ) {
        let mut machine = if auto { registrant(Naming::Auto) } else { machine() };
        let (mut now, mut draining, mut superseded) = (NOW, false, false);
        for (ms, input) in inputs {
            now = now.plus(Duration::from_millis(ms));
            let leave = input == Input::Leave;
            let is_gone = matches!(&input, Input::Own(Event::Listed { entries, .. }) if entries.is_empty());
            superseded |= !auto && matches!(input, Input::Record(RecordStatus { superseded: true, .. }));
            // The newer owner's end gives the name back, unless we are on our way out.
            superseded &= !is_gone || machine.status().left;
            let written = puts(&machine.step(now, input));
            prop_assert!(written.len() <= 1);
            for state in written {
                prop_assert!(!superseded, "a name that was taken over is not fought for");
                prop_assert!(!draining || state == InstanceState::Draining);
                draining |= state == InstanceState::Draining;
            }
            let status = machine.status();
            superseded |= status.stood_down;
            prop_assert!(!(status.wants_traffic && (draining || leave || superseded)));
            prop_assert!(!status.wants_traffic || status.healthy);
        }
        machine.step(now, Input::Leave);
        for _ in 0..3 {
            if let Some(due) = machine.wake_at() {
                machine.step(due, Input::Woke);
            }
        }
        prop_assert!(machine.status().left, "leaving ends");
    }
}
