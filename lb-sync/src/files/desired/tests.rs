use std::time::Duration;

use registry::follow::{Entry, Event};
use registry::key::{Key, Prefix};
use registry::time::Tick;

use super::*;
use crate::plan::FirstCheck;
use crate::plan::observed::Backend;
use haproxy::answer::flags::{AdminState, CheckState, OpState};
use haproxy::{Check, CheckInterval};

const MAINT: u32 = 0x01;
const DRAIN: u32 = 0x08;

fn view(records: &[(&str, &str)]) -> View {
    let mut view = View::new(Prefix::default());
    let entry = |(revision, (name, value)): (i64, &(&str, &str))| Entry {
        key: Prefix::default().text(&Key::Instance(name.parse().unwrap())).into_bytes(),
        value: (*value).into(),
        lease: 7,
        create_revision: revision,
        mod_revision: revision,
    };
    let entries = (1..).zip(records).map(entry).collect();
    view.fold_instances(Tick::default(), Event::Listed { cluster: 1, revision: 100, entries });
    view.fold_overrides(Tick::default(), Event::Listed { cluster: 1, revision: 100, entries: vec![] });
    view
}

fn observed(servers: &[(&str, u32, u32, u16)]) -> Observed {
    let mut observed = Observed::default();
    for (name, id, admin, port) in servers {
        let path: InstanceId = name.parse().unwrap();
        let backend = observed.backends.entry(path.service).or_insert_with(Backend::default);
        let server = Server {
            id: (*id).try_into().unwrap(),
            addr: std::net::SocketAddr::from(([10, 0, 0, 1], *port)).try_into().ok(),
            admin: AdminState::from_bits(*admin),
            op: OpState::Running,
            weight: 100.try_into().unwrap(),
            check: CheckState::from_bits(6),
            health: 2,
            check_said: None,
            sessions: None,
        };
        backend.servers.insert(path.instance, server);
    }
    observed
}

fn policy() -> Policy {
    let check = Check {
        inter: CheckInterval::try_from(Duration::from_secs(2)).unwrap(),
        rise: 1.try_into().unwrap(),
        fall: 2.try_into().unwrap(),
        down_inter: None,
    };
    let id_base = 10_000.try_into().unwrap();
    Policy {
        check: Some(check),
        id_base,
        first_check: FirstCheck::Skip,
        init_state: false,
        restart_gap: Duration::ZERO,
    }
}

/// The lines of `web`, without their options.
fn lines(view: &View, observed: &Observed, connected: bool) -> Vec<String> {
    let policy = policy();
    let mut ids = Ids::new(policy.id_base);
    ids.read_state(observed, &crate::scope::Scope::All);
    let known = Known { view, observed, connected, made: &BTreeSet::new(), policy: &policy };
    let section = known.section(&"web".parse().unwrap(), &mut ids).unwrap();
    let options = " check inter 2000ms rise 1 fall 2 pool-purge-delay 5s pool-max-conn -1";
    section.lines.iter().map(|line| line.to_string().replace(options, "")).collect()
}

#[test]
fn a_restart_brings_back_the_members_and_none_that_was_leaving() {
    let leaving = r#"{"address":"10.0.0.1","port":4,"state":"draining","drain":{"sticky_s":60}}"#;
    let view = view(&[
        ("web/down", r#"{"address":"10.0.0.1","port":2,"state":"down"}"#),
        ("web/drains", leaving),
        ("web/left", r#"{"address":"10.0.0.1","port":5,"state":"draining"}"#),
        ("web/new", r#"{"address":"10.0.0.1","port":6,"weight":7,"slow_start_s":9}"#),
        ("web/serves", r#"{"address":"10.0.0.1","port":7}"#),
        ("web-2/other", r#"{"address":"10.0.0.1","port":8}"#),
    ]);
    let observed = observed(&[
        ("web/by-hand", 17, 0, 1),
        ("web/down", 10_002, MAINT, 2),
        ("web/drains", 10_003, DRAIN, 4),
        ("web/kept", 10_004, 0, 9),
        ("web/removed", 10_005, MAINT, 10),
        ("web/serves", 10_001, 0, 3),
    ]);
    assert_eq!(
        lines(&view, &observed, true),
        [
            "server down 10.0.0.1:2 id 10002 weight 100 disabled",
            "server drains 10.0.0.1:4 id 10003 weight 0",
            "server kept 10.0.0.1:9 id 10004 weight 100",
            "server new 10.0.0.1:6 id 10006 weight 7 check inter 2000ms rise 1 fall 2 slowstart 9s pool-purge-delay 5s pool-max-conn -1",
            "server serves 10.0.0.1:7 id 10001 weight 100",
        ]
    );
    let while_away = lines(&view, &observed, false);
    assert_eq!(
        while_away.len(),
        4,
        "what HAProxy served and the registry lacks is not brought back: {while_away:?}"
    );
}

#[test]
fn a_service_is_told_by_whether_haproxy_has_it() {
    let view = view(&[("web/web-1", r#"{"address":"10.0.0.1","port":1}"#)]);
    let policy = policy();
    let presence = |observed: &Observed, connected| {
        let known = Known { view: &view, observed, connected, made: &BTreeSet::new(), policy: &policy };
        known.section(&"web".parse().unwrap(), &mut Ids::new(policy.id_base)).unwrap().presence
    };
    assert_eq!(presence(&observed(&[]), true), Presence::Absent);
    assert_eq!(presence(&observed(&[]), false), Presence::Unknown);
    assert_eq!(presence(&observed(&[("web/a", 5, 0, 1)]), true), Presence::Present { ours: false });
    assert_eq!(presence(&observed(&[("web/web-1", 10_000, 0, 1)]), true), Presence::Present { ours: true });
    let unregistered = Known {
        view: &view,
        observed: &Observed::default(),
        connected: true,
        made: &BTreeSet::new(),
        policy: &policy,
    };
    assert!(unregistered.section(&"api".parse().unwrap(), &mut Ids::new(policy.id_base)).is_none());
    assert_eq!(unregistered.services().count(), 1);
}
