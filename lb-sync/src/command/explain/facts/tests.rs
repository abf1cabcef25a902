use registry::record::{InstanceRecord, parse};

use super::*;
use crate::plan::Cause;
use haproxy::answer::flags::{AdminState, CheckState, OpState};
use haproxy::{Command, ServerState};

fn id() -> InstanceId {
    "web/web-1".parse().unwrap()
}

fn registered(record: &str) -> Registered {
    let record: InstanceRecord = parse(record.as_bytes()).unwrap();
    Registered { record, owner: "ab12".into(), create_revision: 7, mod_revision: 9, since: 9, lease: 1 }
}

fn server(admin: u32, op: OpState) -> Server {
    let at: std::net::SocketAddr = "10.0.0.5:3000".parse().unwrap();
    Server {
        id: 10_001.try_into().unwrap(),
        addr: at.try_into().ok(),
        admin: AdminState::from_bits(admin),
        op,
        weight: 100.try_into().unwrap(),
        check: CheckState::from_bits(6),
        health: 2,
        check_said: None,
        sessions: None,
    }
}

fn row(status: &str, check: &str) -> StatRow {
    let text = format!(
        "# pxname,svname,sid,status,addr,uweight,weight,scur,qcur,check_status\n\
         web,web-1,10001,{status},10.0.0.5:3000,100,100,3,0,{check}\n"
    );
    StatRow::parse(&text).unwrap().unwrap()
}

const UP: &str = r#"{"address":"10.0.0.5","port":3000}"#;

struct Case {
    id: InstanceId,
    version: Version,
    registered: Option<Registered>,
    overriding: Option<OverrideRecord>,
    server: Option<Server>,
    rival: Option<InstanceId>,
    suspect_for: Option<Duration>,
    row: Option<StatRow>,
    steps: Vec<Step>,
}

impl Case {
    fn new(record: Option<&str>, server: Option<Server>) -> Self {
        Self {
            id: id(),
            version: "2.6.12".parse().unwrap(),
            registered: record.map(registered),
            overriding: None,
            server,
            rival: None,
            suspect_for: None,
            row: None,
            steps: vec![],
        }
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            id: &self.id,
            registered: self.registered.as_ref(),
            unreadable: None,
            overriding: self.overriding.as_ref(),
            unreadable_wish: None,
            shadowed_by: self.rival.as_ref(),
            suspect_for: self.suspect_for,
            unasked: None,
            version: &self.version,
            has_backend: true,
            server: self.server.as_ref(),
            ours: true,
            row: self.row.clone(),
            steps: &self.steps,
            waiting: false,
        }
    }

    fn says(&self, parts: &[&str]) {
        let text = self.facts().paragraph();
        assert!(!text.contains('\n'), "one paragraph: {text}");
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in: {text}");
        }
    }
}

#[test]
fn a_serving_instance_is_told_whole() {
    let mut case = Case::new(Some(UP), Some(server(0, OpState::Running)));
    case.row = Some(row("UP", "L7OK"));
    assert_eq!(
        case.facts().paragraph(),
        "web/web-1 is registered at 10.0.0.5:3000 as up with weight 100, by owner ab12, since revision 7 (last \
         written at 9). HAProxy 2.6.12 has it as server 10001 at 10.0.0.5:3000, ready, weight 100, up (last check \
         L7OK), 3 in flight and 0 queued. It gets traffic: it is registered and up. There is nothing to do."
    );
    assert_eq!(case.facts().json()["traffic"], "yes");
}

#[test]
fn one_without_traffic_is_told_why() {
    let down = r#"{"address":"10.0.0.5","port":3000,"state":"down"}"#;
    Case::new(Some(down), Some(server(1, OpState::Stopped))).says(&[
        "as down",
        "in MAINT",
        "It gets no traffic: it says that it is unhealthy.",
    ]);

    let mut failing = Case::new(Some(UP), Some(server(0, OpState::Stopped)));
    failing.row = Some(row("DOWN", "* L4CON"));
    failing.says(&["down (last check L4CON)", "It gets no traffic: HAProxy's check fails (L4CON)."]);

    let mut drained = Case::new(Some(UP), Some(server(8, OpState::Running)));
    let overriding =
        br#"{"mode":"drain","weight":5,"reason":"kernel","by":"ann","at":"2026-01-01T00:00:00Z"}"#;
    drained.overriding = Some(parse(overriding).unwrap());
    drained.says(&[
        "ann wants it drained, and its weight to be 5 (since 2026-01-01T00:00:00Z): \"kernel\".",
        "It gets traffic of sticky clients only: an operator drains it.",
    ]);

    let mut shadowed = Case::new(Some(UP), None);
    shadowed.rival = Some("api/api-1".parse().unwrap());
    shadowed
        .says(&["api/api-1 has the same address", "It gets no traffic: a newer instance has its address."]);

    Case::new(Some(UP), Some(server(1, OpState::Stopped)))
        .says(&["HAProxy was told so, and not by the registry"]);
}

#[test]
fn what_comes_next_is_named_with_its_commands() {
    let mut case = Case::new(None, Some(server(0, OpState::Running)));
    let server = crate::plan::names::server_path(&id());
    let commands = vec![Command::SetState { server, state: ServerState::Maint }];
    case.steps = vec![Step { id: id(), why: Cause::Status(crate::status::Reason::NotRegistered), commands }];
    case.says(&[
        "web/web-1 is not registered.",
        "It gets traffic: still, though it is not registered.",
        "Next (it is not registered): `set server web/web-1 state maint`.",
    ]);
    assert_eq!(case.facts().json()["next"][0], "set server web/web-1 state maint");
}

#[test]
fn an_unknown_one_and_one_that_cannot_be_read() {
    let unknown = Case::new(None, None);
    assert!(!unknown.facts().is_known());
    unknown.says(&["web/web-1 is not known"]);

    let case = Case::new(None, None);
    let facts = Facts { unreadable: Some("missing field `port`"), ..case.facts() };
    assert!(facts.is_known());
    let text = facts.paragraph();
    assert!(text.contains("What stands at its key is ignored: missing field `port`."), "{text}");
    assert!(text.contains("It gets no traffic: its record cannot be read."), "{text}");
}

#[test]
fn a_suspect_is_told_as_one_and_not_as_gone() {
    let mut case = Case::new(Some(UP), Some(server(0, OpState::Running)));
    case.suspect_for = Some(Duration::from_secs(590));
    case.says(&[
        "web/web-1 was registered at 10.0.0.5:3000",
        "kept as a suspect: until it returns, HAProxy's own check fails, or 590 s have passed.",
        "It gets traffic: it has expired with much of its service",
    ]);
    assert_eq!(case.facts().json()["suspect_for_s"], 590);
    let text = case.facts().paragraph();
    assert!(!text.contains("still, though"), "{text}");

    let gone = Case::new(None, Some(server(0, OpState::Running)));
    let facts = Facts { unasked: Some("nothing answers at 127.0.0.1:7100"), ..gone.facts() };
    let text = facts.paragraph();
    assert!(text.contains("as a suspect is not known: nothing answers at 127.0.0.1:7100."), "{text}");
}
