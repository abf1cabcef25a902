//! The machine with a HAProxy that answers in text: what it asks, what it publishes, and what it does when the process
//! behind the session is another one.

use std::collections::BTreeMap;

use haproxy::{Check, CheckInterval, ServerId, ServerPath, ServerState};
use registry::follow::{Change, Entry};
use registry::key::Key;

use super::fake::FakeHaproxy;
use super::held_acks::HeldAcks;
use registry::record::AckState;

use super::*;
use crate::plan::FirstCheck;

/// Longest that a scenario may take, in steps.
const STEPS_MAX: usize = 10_000;

struct World {
    now: Tick,
    revision: i64,
    balancer: Balancer,
    haproxy: FakeHaproxy,
    /// The commands of the request that is under way.
    asked: Option<Vec<Command>>,
    connecting: bool,
    acks: BTreeMap<InstanceId, AckState>,
    events: Vec<String>,
    /// The name of the presence record that was put last, until it is said to stand.
    present: Option<BalancerName>,
    /// Whether etcd takes writes.
    writable: bool,
    /// The numbers of the drawings of the files.
    drawings: Vec<u64>,
}

fn config() -> BalancerConfig {
    let check = Check {
        inter: CheckInterval::try_from(Duration::from_secs(2)).unwrap(),
        rise: 1.try_into().unwrap(),
        fall: 2.try_into().unwrap(),
        down_inter: None,
    };
    let policy = Policy {
        check: Some(check),
        id_base: ServerId::try_from(10_000).unwrap(),
        first_check: FirstCheck::Skip,
        init_state: false,
        restart_gap: Duration::ZERO,
    };
    let (socket, prefix, guard) = ("haproxy.sock".into(), Prefix::default(), GuardPolicy::default());
    BalancerConfig {
        socket,
        prefix,
        policy,
        guard,
        backend_defaults: None,
        snapshot: None,
        has_master: false,
    }
}

fn life(name: BalancerName) -> Life {
    let (id, host, boot, status) = ("a life".into(), "host".into(), "boot".into(), "127.0.0.1:7100".into());
    Life { name, id, host, boot, socket: "haproxy.sock".into(), status }
}

impl World {
    /// In sync with a registry that is empty, and connected.
    fn new() -> Self {
        Self::begin(FakeHaproxy::new(&["web"]), vec![])
    }

    /// A first life of lb-sync with this HAProxy, in sync with a registry that has these entries.
    fn begin(haproxy: FakeHaproxy, entries: Vec<Entry>) -> Self {
        let mut world = Self::unheard(haproxy, config());
        world.hear(entries);
        world.settle();
        world
    }

    /// Before etcd was heard.
    fn unheard(haproxy: FakeHaproxy, config: BalancerConfig) -> Self {
        Self::with_files(haproxy, config, Files::default())
    }

    fn with_files(haproxy: FakeHaproxy, config: BalancerConfig, files: Files) -> Self {
        let (now, name) = (Tick::from_ms(1), "lb".parse().unwrap());
        let balancer = Balancer::new(now, 1, config, life(name), (files, None));
        Self {
            now,
            revision: 100,
            balancer,
            haproxy,
            asked: None,
            connecting: false,
            acks: BTreeMap::new(),
            events: vec![],
            present: None,
            writable: true,
            drawings: vec![],
        }
    }

    /// etcd is heard: it has these instances, and no balancer.
    fn hear(&mut self, entries: Vec<Entry>) {
        let list = |entries| Event::Listed { cluster: 1, revision: 100, entries };
        let empty = [Input::Overrides, Input::Balancers];
        let empty = empty.into_iter().map(|input: fn(Event) -> Input| input(list(vec![])));
        let lists = std::iter::once(Input::Instances(list(entries))).chain(empty);
        let synced = [Input::Instances, Input::Overrides, Input::Balancers];
        self.step(lists.chain(synced.into_iter().map(|input: fn(Event) -> Input| input(Event::InSync))));
    }

    fn step(&mut self, inputs: impl IntoIterator<Item = Input>) {
        for action in self.balancer.step(self.now, inputs) {
            match action {
                Action::Connect => self.connecting = true,
                Action::Disconnect => self.asked = None,
                Action::Ask(commands) => {
                    assert!(self.asked.is_none(), "one request at a time");
                    assert_eq!(commands.last(), Some(&Command::ShowInfo), "every answer says who gave it");
                    self.asked = Some(commands);
                }
                Action::PutAck(key, ack) => drop(self.acks.insert(key.id, ack.state)),
                Action::RemoveAck(key) => drop(self.acks.remove(&key.id)),
                Action::PutPresence { name, .. } => self.present = Some(name),
                Action::Record(event) => self.events.push(event.what),
                Action::WriteFiles(desired) => self.drawings.push(desired.drawing()),
                _ => {}
            }
        }
    }

    /// Answers what is under way; returns whether there was anything.
    fn answer(&mut self) -> bool {
        if std::mem::take(&mut self.connecting) {
            self.step([Input::Connected]);
            return true;
        }
        if self.writable && self.present.take().is_some() {
            self.revision += 1;
            let revision = Some(self.revision);
            self.step([Input::Presence(PresenceStatus {
                stands: true,
                superseded: false,
                revision,
                histories: 0,
            })]);
            return true;
        }
        let Some(commands) = self.asked.take() else { return false };
        let answers = self.haproxy.answers(&commands);
        self.step([Input::Answers(answers)]);
        true
    }

    /// Answers and lets time go by for a second.
    fn settle(&mut self) {
        let end = self.now.plus(Duration::from_secs(1));
        for _ in 0..STEPS_MAX {
            if !self.answer() {
                let Some(at) = self.balancer.wake_at().filter(|at| *at <= end) else { return };
                self.now = self.now.max(at);
                self.step([Input::Woke]);
            }
        }
        panic!("it does not come to rest");
    }

    fn put(&mut self, name: &str, state: &str) {
        self.revision += 1;
        let key = Prefix::default().text(&Key::Instance(name.parse().unwrap())).into_bytes();
        let value =
            format!(r#"{{"address":"10.0.0.1","port":{},"state":"{state}"}}"#, 3_000 + self.revision % 2);
        let (value, revision) = (value.into_bytes(), self.revision);
        let entry = Entry { key, value, lease: 7, create_revision: 2, mod_revision: revision };
        self.step([Input::Instances(Event::Changed(vec![Change::Put(entry)]))]);
    }

    fn ack(&self, name: &str) -> Option<AckState> {
        self.acks.get(&name.parse::<InstanceId>().unwrap()).copied()
    }

    fn is_ready(&self, name: &str) -> bool {
        self.haproxy.model.is_ready(&name.parse().unwrap())
    }
}

#[test]
fn an_instance_is_served_read_back_and_acked_and_then_nothing_is_asked_but_pings() {
    let mut world = World::new();
    world.put("web/web-1", "up");
    world.settle();
    assert!(world.is_ready("web/web-1"));
    assert_eq!(world.ack("web/web-1"), Some(AckState::Serving));
    world.haproxy.model.lines.clear();
    for _ in 0..20 {
        world.settle();
    }
    assert_eq!(world.haproxy.model.lines, [""; 0], "no command is needed any more");
}

/// The read back of many servers tells of the others of their backend, too. The next audit compares with that.
#[test]
fn what_was_changed_by_hand_is_repaired_also_where_a_read_back_finds_it() {
    let mut world = World::new();
    world.put("web/web-0", "up");
    world.settle();
    let server = ServerPath { backend: "web".parse().unwrap(), server: "web-0".parse().unwrap() };
    world.haproxy.model.take(&Command::SetState { server, state: ServerState::Maint });
    let put = |n: i64| {
        let key = Prefix::default().text(&Key::Instance(format!("web/web-{n}").parse().unwrap()));
        let value = format!(r#"{{"address":"10.0.0.2","port":{}}}"#, 4_000 + n).into_bytes();
        Change::Put(Entry {
            key: key.into_bytes(),
            value,
            lease: 7,
            create_revision: 2,
            mod_revision: 100 + n,
        })
    };
    world.step([Input::Instances(Event::Changed((1..=8).map(put).collect()))]);
    world.settle();
    assert!(world.is_ready("web/web-8"));
    assert!(world.is_ready("web/web-0"));
    assert!(world.events.iter().any(|what| what == "changed by hand"), "{:?}", world.events);
}

/// Within a check interval, with HAProxy's words, once for each change.
#[test]
fn what_haproxy_s_check_finds_is_said_in_acks_and_events() {
    let mut world = World::new();
    world.put("web/web-1", "up");
    world.settle();
    let fails = |world: &mut World, down: bool| {
        world.haproxy.model.servers.values_mut().for_each(|server| server.set_down(down));
        (0..3).for_each(|_| world.settle());
        world.ack("web/web-1")
    };
    assert_eq!(fails(&mut world, true), Some(AckState::Failing));
    assert_eq!(fails(&mut world, false), Some(AckState::Serving));
    let of_check = |what: &&String| what.starts_with("HAProxy's check");
    let events: Vec<&String> = world.events.iter().filter(of_check).collect();
    assert_eq!(events, ["HAProxy's check fails", "HAProxy's check passes"]);
    // A server in MAINT is not checked: that it leaves is no failed check.
    world.put("web/web-1", "draining");
    world.settle();
    assert_eq!(world.ack("web/web-1"), Some(AckState::Drained));
}

/// It gets traffic at once; who waits for the word that it serves waits for HAProxy's first check.
#[test]
fn an_instance_serves_by_its_ack_once_haproxy_s_first_check_has_passed() {
    let mut world = World::new();
    world.haproxy.unchecked = true;
    world.put("web/web-1", "up");
    (0..5).for_each(|_| world.settle());
    assert!(world.is_ready("web/web-1"));
    assert_eq!(world.ack("web/web-1"), None);
    world.haproxy.unchecked = false;
    (0..3).for_each(|_| world.settle());
    assert_eq!(world.ack("web/web-1"), Some(AckState::Serving));
    // Out and in again: the check that passed before says nothing of the app that is there now.
    world.put("web/web-1", "down");
    world.settle();
    assert_eq!(world.ack("web/web-1"), Some(AckState::Drained));
    world.haproxy.unchecked = true;
    world.put("web/web-1", "up");
    (0..5).for_each(|_| world.settle());
    assert_eq!(world.ack("web/web-1"), None, "it is not drained any more");
}

/// After a reload the session stays with the old worker, which takes every command to no effect.
#[test]
fn no_ack_rests_on_the_answer_of_a_worker_that_was_replaced() {
    let mut world = World::new();
    world.put("web/web-1", "up");
    world.settle();
    world.haproxy.stopping = true;
    world.put("web/web-1", "draining");
    while world.answer() {}
    assert_eq!(world.ack("web/web-1"), Some(AckState::Serving), "the old worker has no say");

    world.haproxy.restart(8);
    world.settle();
    assert_eq!(
        world.ack("web/web-1"),
        Some(AckState::Draining),
        "the old worker may have requests in flight"
    );
    world.now = world.now.plus(Duration::from_secs(30));
    world.step([Input::Instances(Event::InSync), Input::Overrides(Event::InSync)]);
    world.settle();
    assert_eq!(world.ack("web/web-1"), Some(AckState::Drained), "the new worker has no server of it");
    assert!(world.events.iter().any(|what| what == "HAProxy is lost"), "{:?}", world.events);
}

/// Revisions of two histories cannot be compared: the ack could be taken for the answer to a record that it never saw.
#[test]
fn drained_is_taken_back_where_etcd_has_another_history() {
    let leaving = |revision| {
        let key = Prefix::default().text(&Key::Instance("web/web-1".parse().unwrap())).into_bytes();
        let value = br#"{"address":"10.0.0.1","port":3000,"state":"draining"}"#.to_vec();
        Entry { key, value, lease: 7, create_revision: revision, mod_revision: revision }
    };
    let mut world = World::new();
    world.put("web/web-1", "up");
    world.settle();
    world.put("web/web-1", "draining");
    world.settle();
    assert_eq!(world.ack("web/web-1"), Some(AckState::Drained));

    let list = |revision, entries| Event::Listed { cluster: 1, revision, entries };
    world.step([Input::Instances(Event::OutOfSync)]);
    world.step([Input::Instances(list(200, vec![leaving(102)])), Input::Instances(Event::InSync)]);
    assert_eq!(world.ack("web/web-1"), Some(AckState::Drained), "the history goes on");
    // Restored from a backup: the record stands, at a revision that the history before had passed.
    world.step([Input::Instances(Event::OutOfSync)]);
    world.step([Input::Instances(list(50, vec![leaving(40)]))]);
    assert_eq!(world.ack("web/web-1"), None);
    world.step([Input::Instances(Event::InSync)]);
    world.settle();
    assert_eq!(world.ack("web/web-1"), Some(AckState::Drained), "said anew, of the record that stands now");
}

/// HAProxy may be reloaded while its files have the instance in rotation.
#[test]
fn drained_is_said_once_the_files_have_it_or_a_time_has_passed() {
    let leaving = || {
        let files = Files::kept(config().policy, false);
        let mut world = World::with_files(FakeHaproxy::new(&["web"]), config(), files);
        world.hear(vec![]);
        world.put("web/web-1", "up");
        world.settle();
        let up = world.drawings.pop().unwrap();
        world.step([Input::Files(WriterRequests::settled(up))]);
        world.put("web/web-1", "draining");
        world.settle();
        (world, up)
    };
    let (mut world, up) = leaving();
    assert!(!world.is_ready("web/web-1"));
    assert_eq!(world.ack("web/web-1"), Some(AckState::Draining));
    world.step([Input::Files(WriterRequests::settled(up))]);
    world.settle();
    assert_eq!(world.ack("web/web-1"), Some(AckState::Draining), "an earlier drawing");
    let last = world.drawings.pop().unwrap();
    world.step([Input::Files(WriterRequests::settled(last))]);
    world.settle();
    assert_eq!(world.ack("web/web-1"), Some(AckState::Drained));

    // It is put back while the files are written.
    let (mut world, _) = leaving();
    world.put("web/web-1", "up");
    let last = *world.drawings.last().unwrap();
    world.step([Input::Files(WriterRequests::settled(last + 1))]);
    world.settle();
    assert_eq!(world.ack("web/web-1"), Some(AckState::Serving));

    // The disk is full.
    let (mut world, _) = leaving();
    for _ in 0..5 {
        world.step([Input::Instances(Event::InSync), Input::Overrides(Event::InSync)]);
        world.now = world.now.plus(Duration::from_secs(1));
        world.settle();
    }
    assert_eq!(world.ack("web/web-1"), Some(AckState::Drained));
}

/// The instance came back, down by HAProxy's check, and leaves again: nothing that was held for the first leave counts.
#[test]
fn what_was_held_for_one_leave_says_nothing_of_the_next() {
    let (mut held, mut files) = (HeldAcks::default(), Files::kept(config().policy, false));
    files.mark_dirty(&Scope::All);
    let id: InstanceId = "web/web-1".parse().unwrap();
    let say = |held: &mut HeldAcks, at_s: u64, revision: i64| {
        let ack = AckValue { owner: "me".into(), revision, state: AckState::Drained };
        held.hold(Tick::from_ms(at_s * 1_000), &id, Some(&ack), false, &files).unwrap().state
    };
    assert_eq!(say(&mut held, 0, 5), AckState::Draining);
    assert_eq!(say(&mut held, 5, 6), AckState::Draining, "another record");
    assert_eq!(say(&mut held, 10, 6), AckState::Drained, "it has waited");
    // Drained by an operator: no other record. It was planned anew at 15 s, and was not drained then.
    assert_eq!(say(&mut held, 10, 6), AckState::Draining);
    assert!(!held.over(Tick::from_ms(15_000), &files).is_empty());
    held.over(Tick::from_ms(20_000), &files);
    assert_eq!(say(&mut held, 20, 6), AckState::Draining);
}

/// In a container a restarted worker has the process id that its predecessor had.
#[test]
fn a_restarted_worker_with_the_same_process_id_is_filled_anew() {
    let mut world = World::new();
    world.put("web/web-1", "up");
    world.settle();
    let pid = world.haproxy.pid;
    world.haproxy.restart(pid);
    world.settle();
    assert!(world.is_ready("web/web-1"));
    assert_eq!(world.events.iter().filter(|what| *what == "HAProxy answers").count(), 2);
}

#[test]
fn an_answer_of_a_session_that_was_given_up_is_passed_over() {
    let mut world = World::new();
    world.put("web/web-1", "up");
    let late = world.asked.take().map(|commands| world.haproxy.answers(&commands)).unwrap();
    world.step([Input::Lost(DialogueError::Closed)]);
    world.step([Input::Answers(late)]);
    world.haproxy.restart(9);
    world.settle();
    assert!(world.is_ready("web/web-1"), "all is read and planned anew");
    assert_eq!(world.ack("web/web-1"), Some(AckState::Serving));
}

#[test]
fn what_comes_during_a_request_is_planned_with_its_answer() {
    let mut world = World::new();
    world.put("web/web-1", "up");
    assert!(world.asked.is_some());
    world.put("web/web-1", "down");
    world.put("web/web-2", "up");
    world.settle();
    assert!(!world.is_ready("web/web-1") && world.is_ready("web/web-2"));
    assert_eq!(world.ack("web/web-1"), Some(AckState::Drained));
}

#[test]
fn out_of_sync_nothing_is_taken_away_and_a_restarted_haproxy_is_filled() {
    let mut world = World::new();
    world.put("web/web-1", "up");
    world.settle();
    world.step([Input::Instances(Event::OutOfSync)]);
    world.put("web/web-1", "draining");
    world.settle();
    assert!(world.is_ready("web/web-1"), "fail static");
    world.step([Input::Instances(Event::InSync)]);
    world.settle();
    assert!(!world.is_ready("web/web-1"));
}

fn entry(n: u16) -> Entry {
    let key = Prefix::default().text(&Key::Instance(format!("web/web-{n}").parse().unwrap())).into_bytes();
    let value = format!(r#"{{"address":"10.0.0.1","port":{}}}"#, 3_000 + n).into_bytes();
    Entry { key, value, lease: 7, create_revision: 2, mod_revision: 2 }
}

/// The servers that are ready when another life of lb-sync finds `kept` of the four that HAProxy has in etcd.
fn ready_in_next_life(kept: std::ops::RangeInclusive<u16>) -> Vec<u16> {
    let first = World::begin(FakeHaproxy::new(&["web"]), (1..=4).map(entry).collect());
    let mut next = World::begin(first.haproxy, kept.map(entry).collect());
    for _ in 0..3 {
        next.settle();
    }
    (1..=4).filter(|n| next.is_ready(&format!("web/web-{n}"))).collect()
}

/// etcd came back wiped, and no lb-sync lived that knew of them.
#[test]
fn servers_that_nothing_explains_stay_as_suspects_if_they_are_much_of_a_service() {
    assert_eq!(ready_in_next_life(1..=4), [1, 2, 3, 4]);
    assert_eq!(ready_in_next_life(1..=3), [1, 2, 3], "one of four has gone in the meantime");
    assert_eq!(ready_in_next_life(1..=1), [1, 2, 3, 4], "three of four may be a wiped etcd's");
    #[expect(clippy::reversed_empty_ranges, reason = "none")]
    let none = 1..=0;
    assert_eq!(ready_in_next_life(none), [1, 2, 3, 4]);
}

/// Shortly after etcd was away every expiry is doubted; one that came after the last snapshot and has gone is none.
#[test]
fn one_that_nothing_explains_is_removed_also_where_a_snapshot_was_served_from() {
    let entries = |n: u16| (1..=n).map(entry).collect::<Vec<_>>();
    let three = World::begin(FakeHaproxy::new(&["web"]), entries(3));
    let snapshot = three.balancer.view.snapshot();
    let four = World::begin(three.haproxy, entries(4));
    assert!(four.is_ready("web/web-4"));
    let mut next = World::unheard(four.haproxy, BalancerConfig { snapshot, ..config() });
    next.hear(entries(3));
    for _ in 0..3 {
        next.settle();
    }
    assert!(!next.is_ready("web/web-4") && next.is_ready("web/web-3"));
}

/// Finding of the simulation: servers were added, and presence was told afterwards. No leave in between was acked.
#[test]
fn no_server_is_added_before_presence_stands() {
    let mut world = World::unheard(FakeHaproxy::new(&["web"]), config());
    world.writable = false;
    world.hear(vec![]);
    world.put("web/web-1", "up");
    while world.answer() {}
    assert!(world.present.is_some(), "it is claimed");
    assert!(!world.is_ready("web/web-1"), "no leave would wait for it");
    world.writable = true;
    while world.answer() {}
    assert!(world.is_ready("web/web-1"), "at once");
    assert_eq!(world.ack("web/web-1"), Some(AckState::Serving));
}

#[test]
fn an_etcd_that_takes_no_writes_keeps_haproxy_empty_for_a_bounded_time() {
    let mut world = World::unheard(FakeHaproxy::new(&["web"]), config());
    world.writable = false;
    world.hear(vec![]);
    world.put("web/web-1", "up");
    for _ in 0..4 {
        world.settle();
        world.step([Input::Instances(Event::InSync), Input::Overrides(Event::InSync)]);
    }
    assert!(world.is_ready("web/web-1"));
    assert_eq!(world.ack("web/web-1"), None, "no name is known to be ours");
}
