use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use registry::follow::{Change, Entry, Event};
use registry::key::{Key, Prefix};
use registry::lease::TimeToLive;
use registry::name::{InstanceId, InstanceName};
use registry::record::{AckState, Intent};
use registry::time::Tick;

use super::model::{Model, ModelServer, Tree};
use super::target::target;
use super::*;
use crate::scope::Scope;
use crate::view::View;
use haproxy::{Check, CheckInterval, Reply, ServerId, ServerWeight};

const ALIVE: TimeToLive = TimeToLive { granted: Duration::from_secs(10), left: Duration::from_secs(9) };
const SERVICES: [&str; 2] = ["web", "api"];
/// Long enough for every limit in these tests to pass.
const ENOUGH: Duration = Duration::from_mins(2);

/// How long clients wait for an instance that is away.
const GAP: Duration = Duration::from_secs(30);

fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

fn policy() -> Policy {
    let check = Check {
        inter: CheckInterval::try_from(Duration::from_secs(2)).unwrap(),
        rise: 1.try_into().unwrap(),
        fall: 2.try_into().unwrap(),
        down_inter: None,
    };
    let id_base = ServerId::try_from(10_000).unwrap();
    Policy { check: Some(check), id_base, first_check: FirstCheck::Skip, init_state: false, restart_gap: GAP }
}

/// A registry, a HAProxy, and the pass between them, with a clock of their own.
struct World {
    now: Tick,
    revision: i64,
    view: View,
    model: Model,
    planner: Planner,
    policy: Policy,
    acks: BTreeMap<InstanceId, AckValue>,
}

impl World {
    fn new() -> Self {
        Self::with(policy())
    }

    fn with(policy: Policy) -> Self {
        let mut view = View::new(Prefix::default());
        let now = Tick::from_ms(0);
        let empty = || Event::Listed { cluster: 1, revision: 1, entries: vec![] };
        view.fold_instances(now, empty());
        view.fold_overrides(now, empty());
        let mut world = Self {
            now,
            revision: 1,
            view,
            model: Model::with_services(&SERVICES),
            planner: Planner::new(policy),
            policy,
            acks: BTreeMap::new(),
        };
        world.sync(true);
        world
    }

    fn sync(&mut self, on: bool) {
        let event = || if on { Event::InSync } else { Event::OutOfSync };
        self.view.fold_instances(self.now, event());
        self.view.fold_overrides(self.now, event());
    }

    fn put(&mut self, name: &str, value: &str) {
        self.revision += 1;
        let key = Prefix::default().text(&Key::Instance(id(name))).into_bytes();
        let entry = Entry {
            key,
            value: value.into(),
            lease: 7,
            create_revision: self.revision,
            mod_revision: self.revision,
        };
        self.view.fold_instances(self.now, Event::Changed(vec![Change::Put(entry)]));
    }

    /// Its key is deleted, and its lease lives: on purpose.
    fn remove(&mut self, name: &str) {
        self.delete(name);
        self.view.lease_lives(self.now, &id(name), 7, ALIVE);
    }

    fn delete(&mut self, name: &str) {
        self.revision += 1;
        let key = Prefix::default().text(&Key::Instance(id(name))).into_bytes();
        let change = Change::Delete { key, mod_revision: self.revision };
        self.view.fold_instances(self.now, Event::Changed(vec![change]));
    }

    /// Plans everything once; `None` when there is nothing to do.
    fn plan(&mut self) -> Plan {
        let mut observed = self.model.observe();
        self.planner.read_state(self.now, &observed, &Scope::All);
        let mut plan = self.planner.plan(self.now, &self.view, &observed, &Scope::All);
        if !plan.reads.is_empty() {
            for id in &plan.reads {
                self.model.read_sessions(&mut observed, id, self.now);
            }
            plan = self.planner.plan(self.now, &self.view, &observed, &Scope::All);
        }
        for id in &plan.failed {
            self.view.check_failed(id);
        }
        for (id, ack) in &plan.acks {
            match ack {
                Some(ack) => self.acks.insert(id.clone(), ack.clone()),
                None => self.acks.remove(id),
            };
        }
        plan
    }

    fn apply(&mut self, plan: &Plan, commands_max: usize) {
        let mut left = commands_max;
        for step in &plan.steps {
            let mut refused = None;
            for command in step.commands.iter().take(left) {
                let reply = self.model.take(command);
                refused = (reply != Reply::Ok).then_some(reply).or(refused);
            }
            left = left.saturating_sub(step.commands.len());
            match refused {
                Some(reply) => {
                    self.planner.record_refusal(self.now, &step.id, &format!("{reply:?}"));
                }
                None => self.planner.record_success(&step.id),
            }
        }
    }

    /// Passes until nothing is left to do, letting time go by; returns how many plans had commands.
    fn settle(&mut self) -> usize {
        let end = self.now.plus(ENOUGH);
        let mut busy = 0;
        for _ in 0..100_000 {
            let plan = self.plan();
            if !plan.steps.is_empty() {
                busy += 1;
                self.apply(&plan, usize::MAX);
                continue;
            }
            if !plan.failed.is_empty() {
                continue;
            }
            match self.planner.wake_at() {
                Some(at) if at < end => self.now = self.now.max(at),
                Some(_) | None => return busy,
            }
        }
        panic!("does not come to rest");
    }

    fn restart_lb_sync(&mut self) {
        self.planner = Planner::new(self.policy);
    }

    fn listed(&self) -> Vec<&str> {
        self.model.maps.values().flatten().map(InstanceName::as_str).collect()
    }

    /// HAProxy serves what the registry says, and nothing else of ours is there.
    fn assert_follows(&self) {
        for (id, server) in &self.model.servers {
            if server.id.get() < 10_000 {
                continue;
            }
            let target = target(&self.view, id).unwrap_or_else(|| panic!("{id} is gone and still a server"));
            let ready = self.model.is_ready(id);
            if target.suspect && target.intent == Intent::Serve {
                assert!(!(ready && server.down), "{id}: a suspect whose check fails does not stay");
                continue;
            }
            assert_eq!(ready, target.serves(), "{id}");
            if ready {
                assert_eq!((server.addr, server.weight), (target.addr, target.weight.into()), "{id}");
                assert_eq!(server.check, 6, "{id} is checked");
            }
        }
        for id in self.view.instances().keys() {
            let has_backend = SERVICES.contains(&id.service.as_str());
            let wanted = has_backend && target(&self.view, id).is_some_and(|target| target.serves());
            let foreign = self.model.servers.get(id).is_some_and(|server| server.id.get() < 10_000);
            assert!(!wanted || foreign || self.model.is_ready(id), "{id} is not served");
        }
    }
}

fn up(port: u16) -> String {
    format!(r#"{{"address":"10.0.0.5","port":{port}}}"#)
}

fn lines(plan: &Plan) -> Vec<String> {
    plan.steps.iter().flat_map(|step| step.commands.iter().map(ToString::to_string)).collect()
}

#[test]
fn a_registered_instance_is_added_checked_and_made_ready() {
    let mut world = World::new();
    world.put("web/web-1", &up(3000));
    let plan = world.plan();
    assert_eq!(
        lines(&plan),
        [
            "add server web/web-1 10.0.0.5:3000 id 10000 weight 100 check inter 2000ms rise 1 fall 2 \
             pool-purge-delay 5s pool-max-conn -1",
            "enable health web/web-1",
            "set server web/web-1 state ready",
        ]
    );
    world.apply(&plan, usize::MAX);
    assert!(world.plan().is_empty());
    assert_eq!(world.acks[&id("web/web-1")].state, AckState::Serving);
}

#[test]
fn where_the_first_check_is_waited_for_a_server_starts_down() {
    let waiting = |init_state| {
        let mut world = World::new();
        let policy = Policy { first_check: FirstCheck::Wait, init_state, ..policy() };
        world.planner = Planner::new(policy);
        world.put("web/web-1", &up(3000));
        lines(&world.plan())
    };
    let old = waiting(false);
    assert_eq!(old[2..], ["set server web/web-1 state ready", "set server web/web-1 health down"]);
    let new = waiting(true);
    assert!(new.len() == 3 && new[0].contains(" init-state fully-down "), "{new:?}");
}

#[test]
fn a_new_address_or_weight_is_one_command() {
    let mut world = World::new();
    world.put("web/web-1", &up(3000));
    world.settle();
    world.put("web/web-1", &up(3001));
    assert_eq!(lines(&world.plan()), ["set server web/web-1 addr 10.0.0.5 port 3001"]);
    world.settle();
    world.put("web/web-1", r#"{"address":"10.0.0.5","port":3001,"weight":7}"#);
    assert_eq!(lines(&world.plan()), ["set server web/web-1 weight 7"]);
}

#[test]
fn a_leave_is_maint_then_drained_then_deleted_with_its_key() {
    let mut world = World::new();
    world.put("web/web-1", &up(3000));
    world.settle();
    world.model.servers.get_mut(&id("web/web-1")).unwrap().sessions = 2;
    world.put("web/web-1", r#"{"address":"10.0.0.5","port":3000,"state":"draining"}"#);
    let plan = world.plan();
    assert_eq!(lines(&plan), ["set server web/web-1 state maint"]);
    world.apply(&plan, usize::MAX);
    assert!(world.plan().steps.is_empty());
    assert_eq!(world.acks[&id("web/web-1")].state, AckState::Draining);
    world.model.servers.get_mut(&id("web/web-1")).unwrap().sessions = 0;
    world.settle();
    assert_eq!(world.acks[&id("web/web-1")].state, AckState::Drained);
    world.delete("web/web-1");
    assert_eq!(lines(&world.plan()), ["del server web/web-1"]);
    world.settle();
    assert!(world.acks.is_empty());
}

#[test]
fn an_instance_that_goes_is_listed_first_and_struck_off_once_it_is_back() {
    let mut world = World::new();
    world.model.maps.insert("web".into(), BTreeSet::new());
    world.put("web/web-1", &up(3000));
    world.settle();
    world.remove("web/web-1");
    let plan = world.plan();
    assert_eq!(lines(&plan), ["add map #0 web-1 1", "set server web/web-1 state maint"]);
    world.apply(&plan, usize::MAX);
    let plan = world.plan();
    assert_eq!(lines(&plan), ["del server web/web-1"]);
    world.apply(&plan, usize::MAX);
    assert!(world.plan().is_empty());
    assert_eq!(world.listed(), ["web-1"]);
    world.put("web/web-1", &up(3009));
    let plan = world.plan();
    assert!(lines(&plan).iter().all(|line| !line.contains(" map ")), "kept until it serves: {plan:?}");
    world.apply(&plan, usize::MAX);
    assert_eq!(lines(&world.plan()), ["del map #0 web-1"]);
}

#[test]
fn who_does_not_return_is_listed_for_its_time_also_over_restarts() {
    let mut world = World::new();
    world.model.maps.insert("web".into(), BTreeSet::new());
    world.put("web/web-1", &up(3000));
    world.put("web/web-2", r#"{"address":"10.0.0.6","port":3000}"#);
    world.settle();
    world.put("web/web-1", r#"{"address":"10.0.0.5","port":3000,"state":"down"}"#);
    let plan = world.plan();
    world.apply(&plan, usize::MAX);
    assert_eq!(world.listed(), ["web-1"]);
    // HAProxy starts again, with its map as the file has it: empty.
    world.model.maps.insert("web".into(), BTreeSet::new());
    let plan = world.plan();
    assert_eq!(lines(&plan), ["add map #0 web-1 1"]);
    world.apply(&plan, usize::MAX);
    world.restart_lb_sync();
    let start = world.now;
    world.settle();
    assert!(world.listed().is_empty());
    assert!(world.now.since(start) >= GAP, "{:?}", world.now.since(start));
}

/// One that registers another service's address neither takes its instance out nor holds its leave up.
#[test]
fn an_address_in_two_services_concerns_neither() {
    let mut world = World::new();
    let at = |owner: &str, state: &str| {
        format!(r#"{{"address":"10.0.0.5","port":3000,"owner":"{owner}","state":"{state}"}}"#)
    };
    world.put("web/web-1", &at("its own", "up"));
    world.put("api/api-1", &at("a stranger", "up"));
    world.settle();
    assert_eq!(world.acks[&id("web/web-1")].state, AckState::Serving);
    assert_eq!(world.acks[&id("api/api-1")].state, AckState::Serving);
    world.put("web/web-1", &at("its own", "draining"));
    world.put("api/api-1", &at("a stranger", "up"));
    world.settle();
    assert_eq!(world.acks[&id("web/web-1")].state, AckState::Drained);
}

/// Of one whose address a later one of its service has: its leave is answered, and done once nothing is sent there.
#[test]
fn a_shadowed_instance_that_leaves_is_answered() {
    let mut world = World::new();
    let at = |owner: &str, port: u16, state: &str| {
        format!(r#"{{"address":"10.0.0.5","port":{port},"owner":"{owner}","state":"{state}"}}"#)
    };
    world.put("web/web-1", &at("the earlier", 3000, "draining"));
    world.put("web/web-2", &at("the later", 3000, "up"));
    world.settle();
    assert_eq!(world.acks[&id("web/web-1")].state, AckState::Draining);
    world.put("web/web-2", &at("the later", 3001, "up"));
    // Minutes have passed.
    world.sync(true);
    world.settle();
    assert_eq!(world.acks[&id("web/web-1")].state, AckState::Drained);
}

/// HAProxy says "stopped" of a server in MAINT, where no check runs: that is no failed check.
#[test]
fn a_suspect_that_was_long_in_maint_is_taken_back_and_checked() {
    let mut world = World::new();
    world.put("web/a", &up(3000));
    world.put("web/b", &up(3001));
    world.settle();
    world.model.servers.get_mut(&id("web/a")).unwrap().sessions = 1;
    world.delete("web/a");
    let plan = world.plan();
    assert_eq!(lines(&plan), ["set server web/a state maint"]);
    world.apply(&plan, usize::MAX);
    world.plan();
    world.now = world.now.plus(Duration::from_secs(10));
    world.sync(true);
    world.plan();
    // The last one: both are suspects.
    world.delete("web/b");
    let plan = world.plan();
    assert!(lines(&plan).contains(&"set server web/a state ready".to_owned()), "{:?}", lines(&plan));
    assert!(plan.failed.is_empty());
    world.apply(&plan, usize::MAX);
    assert!(world.plan().failed.is_empty() && world.view.is_suspect(&id("web/a")));
}

#[test]
fn a_refusal_of_one_wish_does_not_hold_up_another() {
    let mut world = World::new();
    world.put("web/web-1", &up(3000));
    world.settle();
    for _ in 0..20 {
        world.planner.record_refusal(world.now, &id("web/web-1"), "No such thing.");
    }
    world.put("web/web-1", &up(3001));
    assert_eq!(lines(&world.plan()), [""; 0], "left alone for 30 s");
    world.put("web/web-1", r#"{"address":"10.0.0.5","port":3001,"state":"down"}"#);
    assert_eq!(lines(&world.plan()), ["set server web/web-1 state maint"]);
}

/// A server that is given another address has requests in flight to the one before, which HAProxy does not count apart.
#[test]
fn a_leave_waits_for_requests_of_a_server_that_was_moved_away() {
    let at = |port: u16, state: &str| {
        let drain = r#""drain":{"sticky_s":0,"inflight_s":3}"#;
        format!(r#"{{"address":"10.0.0.5","port":{port},"state":"{state}",{drain}}}"#)
    };
    // Planned before the server that was moved, or after it.
    for leaver in ["web/web-0", "web/web-2"] {
        let mut world = World::new();
        world.put("web/web-1", &at(3000, "up"));
        world.settle();
        world.put("web/web-1", &at(3001, "up"));
        world.put(leaver, &at(3000, "draining"));
        let start = world.now;
        world.settle();
        assert_eq!(world.acks[&id(leaver)].state, AckState::Drained);
        let waited = world.now.since(start);
        assert!((Duration::from_secs(3)..Duration::from_secs(4)).contains(&waited), "{leaver}: {waited:?}");
    }
}

#[test]
fn whom_an_operator_takes_out_is_not_waited_for() {
    let mut world = World::new();
    world.model.maps.insert("web".into(), BTreeSet::new());
    world.put("web/web-1", &up(3000));
    world.settle();
    let key = Prefix::default().text(&Key::Override(id("web/web-1"))).into_bytes();
    let value = br#"{"mode":"maintenance"}"#.to_vec();
    let entry = Entry { key, value, lease: 0, create_revision: 9, mod_revision: 9 };
    world.view.fold_overrides(world.now, Event::Changed(vec![Change::Put(entry)]));
    assert_eq!(lines(&world.plan()), ["set server web/web-1 state maint"]);
}

#[test]
fn who_leaves_in_order_hands_its_clients_over() {
    let mut world = World::new();
    world.model.maps.insert("web".into(), BTreeSet::new());
    world.put("web/web-1", &up(3000));
    world.settle();
    world.put("web/web-1", r#"{"address":"10.0.0.5","port":3000,"state":"draining"}"#);
    world.settle();
    world.delete("web/web-1");
    world.settle();
    assert!(world.model.lines.iter().all(|line| !line.contains(" map ")), "{:?}", world.model.lines);
    assert!(world.model.servers.is_empty());
}

#[test]
fn sticky_clients_stay_their_time_and_a_stuck_request_ends_with_its_own() {
    let mut world = World::new();
    world.put("web/web-1", &up(3000));
    world.settle();
    world.model.servers.get_mut(&id("web/web-1")).unwrap().sessions = 1;
    let leaving =
        r#"{"address":"10.0.0.5","port":3000,"state":"draining","drain":{"sticky_s":5,"inflight_s":3}}"#;
    world.put("web/web-1", leaving);
    let start = world.now;
    assert_eq!(lines(&world.plan()), ["set server web/web-1 state drain"]);
    world.model.lines.clear();
    world.settle();
    assert_eq!(
        world.model.lines,
        [
            "set server web/web-1 state drain",
            "set server web/web-1 state maint",
            "shutdown sessions server web/web-1"
        ]
    );
    assert!(world.now.since(start) >= Duration::from_secs(8), "{:?}", world.now.since(start));
    assert_eq!(world.acks[&id("web/web-1")].state, AckState::Drained);
}

#[test]
fn a_server_that_was_never_up_leaves_without_drain() {
    let mut world = World::with(Policy { first_check: FirstCheck::Wait, init_state: true, ..policy() });
    let sticky = |state: &str| {
        format!(r#"{{"address":"10.0.0.1","port":1,"state":"{state}","drain":{{"sticky_s":5}}}}"#)
    };
    world.put("web/a", &sticky("up"));
    let plan = world.plan();
    world.apply(&plan, usize::MAX);
    world.put("web/a", &sticky("draining"));
    assert_eq!(lines(&world.plan()), ["set server web/a state maint"], "its check has never passed");

    world.put("web/a", &sticky("up"));
    world.model.servers.get_mut(&id("web/a")).unwrap().set_down(false);
    world.plan();
    world.put("web/a", &sticky("draining"));
    assert_eq!(lines(&world.plan()), ["set server web/a state drain"], "it has been up");
    world.model.servers.get_mut(&id("web/a")).unwrap().set_down(true);
    assert_eq!(lines(&world.plan()), ["set server web/a state maint"], "it is down");
}

#[test]
fn an_idle_connection_that_holds_a_server_is_dropped_by_moving_it_nowhere() {
    let mut world = World::new();
    world.put("web/web-1", &up(3000));
    world.settle();
    world.model.servers.get_mut(&id("web/web-1")).unwrap().pooled = true;
    world.remove("web/web-1");
    world.model.lines.clear();
    world.settle();
    assert_eq!(
        world.model.lines,
        [
            "set server web/web-1 state maint",
            "del server web/web-1",
            "set server web/web-1 addr 127.0.0.9 port 2",
            "del server web/web-1"
        ]
    );
}

#[test]
fn a_server_that_is_not_ours_is_never_touched() {
    let mut world = World::new();
    let server = ModelServer {
        id: ServerId::try_from(1).unwrap(),
        addr: "10.9.9.9:80".parse::<std::net::SocketAddr>().unwrap().try_into().unwrap(),
        admin: 0,
        weight: ServerWeight::try_from(1).unwrap(),
        check: 0,
        sessions: 0,
        pooled: false,
        down: false,
        tree: Tree::Entered,
    };
    world.model.servers.insert(id("web/static"), server.clone());
    world.put("web/static", &up(3000));
    let plan = world.plan();
    assert_eq!((plan.steps.len(), plan.foreign.as_slice()), (0, [id("web/static")].as_slice()));
    assert!(world.plan().foreign.is_empty(), "told once");
    world.delete("web/static");
    world.settle();
    assert_eq!(world.model.servers[&id("web/static")], server);
}

#[test]
fn out_of_sync_a_restarted_haproxy_is_filled_and_nothing_is_taken_away() {
    let mut world = World::new();
    world.put("web/web-1", &up(3000));
    world.put("web/web-2", &up(3001));
    world.settle();
    world.sync(false);
    world.delete("web/web-2");
    world.model.servers.remove(&id("web/web-1"));
    world.settle();
    assert!(world.model.is_ready(&id("web/web-1")), "served again");
    assert!(world.model.is_ready(&id("web/web-2")), "not drained on old news");
    world.sync(true);
    world.settle();
    world.assert_follows();
}

#[test]
fn what_is_known_from_the_disk_only_is_added_and_nothing_is_changed() {
    let mut world = World::new();
    world.put("web/web-1", &up(3000));
    world.put("web/web-2", &up(3001));
    world.settle();
    let old = world.view.snapshot().unwrap();
    // Changed since that snapshot; then lb-sync is started again, and HAProxy has lost a server.
    world.put("web/web-1", &up(3009));
    world.settle();
    world.model.servers.remove(&id("web/web-2"));
    world.restart_lb_sync();
    world.view = View::new(Prefix::default());
    world.view.restore(old);
    let plan = lines(&world.plan());
    assert!(plan[0].starts_with("add server web/web-2 ") && plan.len() == 3, "{plan:?}");
    world.settle();
    assert_eq!(world.model.servers[&id("web/web-1")].addr.port(), 3009, "not moved back");
}

/// Something that happens to the registry, to HAProxy, or to lb-sync.
#[derive(Clone, Debug)]
enum Happens {
    Put {
        name: String,
        value: String,
    },
    Delete(String),
    Sync(bool),
    Sessions {
        at: usize,
        count: u64,
    },
    Pooled(usize),
    CheckFails {
        at: usize,
        down: bool,
    },
    HandEdit {
        at: usize,
        admin: u32,
        weight: u16,
    },
    HaproxyRestarts,
    LbSyncRestarts,
    /// A pass that is cut off after so many commands.
    Pass(usize),
    TimeGoesBy(u64),
}

fn names() -> impl Strategy<Value = String> {
    ("(web|api|nobackend)", 0..5_u8).prop_map(|(service, n)| format!("{service}/i-{n}"))
}

fn values() -> impl Strategy<Value = String> {
    let state = prop_oneof![6 => Just("up"), 1 => Just("down"), 2 => Just("draining")];
    let record = (0..4_u8, 3000..3003_u16, 1..=256_u16, state, 0..4_u8, 0..4_u8, "[ab]").prop_map(
        |(host, port, weight, state, sticky, inflight, owner)| {
            format!(
                r#"{{"address":"10.0.0.{}","port":{port},"weight":{weight},"state":"{state}","owner":"{owner}",
                "drain":{{"sticky_s":{sticky},"inflight_s":{inflight}}}}}"#,
                host + 1
            )
        },
    );
    prop_oneof![9 => record, 1 => "\\PC{0,40}"]
}

fn happenings() -> impl Strategy<Value = Happens> {
    prop_oneof![
        8 => (names(), values()).prop_map(|(name, value)| Happens::Put { name, value }),
        3 => names().prop_map(Happens::Delete),
        1 => any::<bool>().prop_map(Happens::Sync),
        2 => (0..10_usize, 0..3_u64).prop_map(|(at, count)| Happens::Sessions { at, count }),
        1 => (0..10_usize).prop_map(Happens::Pooled),
        2 => (0..10_usize, any::<bool>()).prop_map(|(at, down)| Happens::CheckFails { at, down }),
        1 => (0..10_usize, prop_oneof![Just(0_u32), Just(1), Just(8)], 0..=256_u16)
            .prop_map(|(at, admin, weight)| Happens::HandEdit { at, admin, weight }),
        1 => Just(Happens::HaproxyRestarts),
        1 => Just(Happens::LbSyncRestarts),
        6 => (0..8_usize).prop_map(Happens::Pass),
        2 => (0..5_000_u64).prop_map(Happens::TimeGoesBy),
    ]
}

/// How a new server starts: taken for up, down by `health down` (before 3.1), or down by `init-state`.
fn first_checks() -> impl Strategy<Value = (FirstCheck, bool)> {
    prop_oneof![
        Just((FirstCheck::Skip, false)),
        Just((FirstCheck::Wait, false)),
        Just((FirstCheck::Wait, true)),
    ]
}

fn takes_away(line: &str) -> bool {
    ["state maint", "state drain", "del server", "shutdown"].iter().any(|part| line.contains(part))
}

impl World {
    fn happen(&mut self, happens: Happens) {
        let nth = |model: &Model, at: usize| model.servers.keys().nth(at).cloned();
        match happens {
            Happens::Put { name, value } => self.put(&name, &value),
            Happens::Delete(name) => self.delete(&name),
            Happens::Sync(on) => self.sync(on),
            Happens::Sessions { at, count } => {
                // Nothing new comes to a server in MAINT: that is what MAINT is.
                if let Some(server) = nth(&self.model, at).and_then(|id| self.model.servers.get_mut(&id)) {
                    server.sessions = if server.admin & 1 == 0 { count } else { count.min(server.sessions) };
                }
            }
            Happens::Pooled(at) => {
                if let Some(server) = nth(&self.model, at).and_then(|id| self.model.servers.get_mut(&id)) {
                    server.pooled = true;
                }
            }
            Happens::CheckFails { at, down } => {
                if let Some(server) = nth(&self.model, at).and_then(|id| self.model.servers.get_mut(&id)) {
                    server.set_down(down);
                }
            }
            Happens::HandEdit { at, admin, weight } => {
                if let Some(server) = nth(&self.model, at).and_then(|id| self.model.servers.get_mut(&id)) {
                    server.admin = admin;
                    server.weight = ServerWeight::try_from(weight).unwrap();
                    server.tree = Tree::ByHand;
                }
            }
            Happens::HaproxyRestarts => {
                self.model.servers.clear();
                self.model.maps.values_mut().for_each(BTreeSet::clear);
            }
            Happens::LbSyncRestarts => self.restart_lb_sync(),
            Happens::Pass(commands_max) => {
                self.model.lines.clear();
                let plan = self.plan();
                self.apply(&plan, commands_max);
                let away = self.model.lines.iter().any(|line| takes_away(line));
                assert!(self.view.in_sync() || !away, "{:?}", self.model.lines);
            }
            Happens::TimeGoesBy(ms) => self.now = self.now.plus(Duration::from_millis(ms)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Invariants 3, 5, 6 and 7: whatever happened, cut off wherever it was, planning on converges to what the
    /// registry says; planning again is empty. On the way the model refuses every illegal deletion, and every server
    /// that takes persistent requests without ever having been in the balancing tree.
    #[test]
    fn whatever_happens_it_converges(
        script in proptest::collection::vec(happenings(), 0..60),
        (first_check, init_state) in first_checks(),
    ) {
        let mut world = World::with(Policy { first_check, init_state, ..policy() });
        world.model.maps.insert("web".into(), BTreeSet::new());
        for happens in script {
            world.happen(happens);
        }
        world.sync(true);
        world.settle();
        world.assert_follows();
        prop_assert!(world.listed().is_empty(), "no instance is awaited any more: {:?}", world.listed());
        prop_assert!(world.plan().steps.is_empty(), "planning again is empty");
        // A restarted lb-sync finds nothing to do either, but for what is leaving already.
        world.restart_lb_sync();
        world.model.lines.clear();
        world.settle();
        prop_assert!(world.model.lines.is_empty(), "{:?}", world.model.lines);
    }

    /// Invariant 7: the order of what is listed does not matter.
    #[test]
    fn the_order_of_input_does_not_matter(
        records in proptest::collection::btree_map(names(), values(), 0..10),
        seed in any::<u64>(),
    ) {
        let entries: Vec<Entry> = records.iter().enumerate().map(|(n, (name, value))| {
            let revision = i64::try_from(n).unwrap() + 2;
            let key = Prefix::default().text(&Key::Instance(id(name))).into_bytes();
            Entry { key, value: value.clone().into(), lease: 7, create_revision: revision, mod_revision: revision }
        }).collect();
        let mut shuffled = entries.clone();
        let len = shuffled.len().max(1);
        shuffled.rotate_left(usize::try_from(seed % len as u64).unwrap());
        if seed % 2 == 0 { shuffled.reverse(); }
        let plan = |entries: Vec<Entry>| {
            let mut world = World::new();
            world.view.fold_instances(world.now, Event::Listed { cluster: 1, revision: 50, entries });
            world.sync(true);
            lines(&world.plan())
        };
        prop_assert_eq!(plan(entries), plan(shuffled));
    }

    /// Invariant 6: a value never reaches the socket but as parsed (the model checks every line).
    #[test]
    fn hostile_values_stay_out(name in "(web|api)/[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", value in "\\PC{0,80}") {
        let mut world = World::new();
        world.put(&name, &value);
        world.put(&name, &format!(r#"{{"address":"{value}","port":80}}"#));
        world.put(&name, &format!(r#"{{"address":"10.0.0.1","port":80,"owner":{value:?}}}"#));
        world.settle();
        world.assert_follows();
    }
}
