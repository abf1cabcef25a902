use std::net::SocketAddr;
use std::time::Duration;

use ::haproxy::answer::info::Info;
use ::haproxy::answer::maps;
use ::haproxy::answer::servers_state::ServersState;
use registry::time::Tick;

use super::*;

/// A HAProxy with the backends `web` and `api`, and a clock that a test winds.
pub(super) struct Lab {
    pub(super) haproxy: Haproxy,
    pub(super) worker: WorkerId,
    pub(super) now: Tick,
}

pub(super) const VERSIONS: [Version; 3] = [Version::V2_6, Version::V3_0, Version::V3_2];

impl Lab {
    pub(super) fn new(version: Version) -> Self {
        let now = Tick::from_ms(1_000_000);
        let backends = ["web", "api"].map(BackendSetup::named).to_vec();
        let mut haproxy = Haproxy::with_routes_map(version, backends, now);
        let worker = haproxy.connect().unwrap();
        Self { haproxy, worker, now }
    }

    /// The answers to lines of one write each, a millisecond apart.
    pub(super) fn ask(&mut self, lines: &[&str]) -> Vec<String> {
        let ask = |line: &&str| {
            self.now = self.now.plus(Duration::from_millis(1));
            self.haproxy.ask(self.now, self.worker, line).unwrap()
        };
        lines.iter().map(ask).collect()
    }

    /// Why the last of these lines makes HAProxy crash; `None` if it does not.
    pub(super) fn crash(&mut self, line: &str) -> Option<String> {
        match self.haproxy.ask(self.now, self.worker, line) {
            Err(NoAnswer::Crashed(crashed)) => Some(crashed.why),
            _ => None,
        }
    }

    pub(super) fn open(&mut self, cookie: Option<&str>) -> Result<Stream, NoStream> {
        self.open_where(cookie, |_| true)
    }

    pub(super) fn open_where(
        &mut self,
        cookie: Option<&str>,
        connects: impl FnMut(SocketAddr) -> bool,
    ) -> Result<Stream, NoStream> {
        let request = Request { backend: "web", cookie, choice: 0 };
        self.haproxy.open_stream(self.now, self.worker, request, connects)
    }

    pub(super) fn server(&self, name: &str) -> ServerView<'_> {
        self.haproxy.servers(self.worker).find(|server| server.name == name).unwrap()
    }

    /// Goes on to the next check; returns how long that took.
    fn check(&mut self, passes: bool) -> Duration {
        let due = self.haproxy.next_check().unwrap();
        let waited = due.since(self.now);
        self.now = self.now.max(due);
        self.haproxy.run_checks(self.now, |_| passes).unwrap();
        waited
    }
}

pub(super) const ADD: &str = "add server web/a 10.0.0.1:80 id 10000 weight 100";
const CHECK: &str = "check inter 2000ms rise 2 fall 2 downinter 100ms";
const READY: &str = "set server web/a state ready";
const MAINT: &str = "set server web/a state maint";

#[test]
fn the_real_parsers_read_what_is_shown() {
    for version in VERSIONS {
        let mut lab = Lab::new(version);
        lab.ask(&[ADD, READY, "add map #0 a 1", "add map #2 shop.example/ web"]);
        let shown = lab.ask(&["show info", "show servers state", "show map", "show map #0", "show map #2"]);
        let info = Info::parse(&shown[0]).unwrap();
        assert_eq!((info.version.text.as_str(), info.stopping), (version.text(), false));
        assert_eq!(ServersState::parse(&shown[1]).unwrap().servers.len(), 1);
        let listed = maps::list(&shown[2]).unwrap();
        assert_eq!(listed.iter().map(|map| map.is_empty).collect::<Vec<_>>(), [false, true]);
        assert_eq!(maps::routes(&shown[2]).unwrap().len(), 1);
        assert_eq!(maps::names(&shown[3]).unwrap(), ["a".parse().unwrap()]);
        assert_eq!(maps::entries(&shown[4]).unwrap(), [("shop.example/", "web")]);
    }
}

#[test]
fn a_move_takes_effect_after_its_write_from_3_0_on() {
    for version in VERSIONS {
        let mut lab = Lab::new(version);
        lab.ask(&[ADD]);
        let ask = |lab: &mut Lab, line: &str| lab.haproxy.ask(lab.now, lab.worker, line).unwrap();
        ask(&mut lab, "set server web/a addr 10.0.0.2 port 80");
        let again = ask(&mut lab, "set server web/a addr 10.0.0.1 port 80");
        let is_later = again == "nothing changed\n";
        assert_eq!(is_later, version.moves_later(), "{again}");
        lab.ask(&["show info"]);
        assert_eq!(lab.server("a").addr.ip().to_string(), if is_later { "10.0.0.2" } else { "10.0.0.1" });
    }
}

#[test]
fn a_server_that_starts_down_is_checked_soon() {
    let mut lab = Lab::new(Version::V3_2);
    let add = format!("{ADD} {CHECK} init-state fully-down");
    lab.ask(&[&add, "enable health web/a", READY]);
    assert!(!lab.server("a").selectable && lab.haproxy.next_check().is_some());
    assert!(lab.check(true) <= Duration::from_millis(100));
    assert!(!lab.server("a").selectable, "it rises by two");
    lab.check(true);
    assert!(lab.server("a").selectable);
    assert_eq!(lab.check(true), Duration::from_secs(2));
}

#[test]
fn health_down_lasts_until_checks_pass() {
    let mut lab = Lab::new(Version::V2_6);
    let add = format!("{ADD} {CHECK}");
    lab.ask(&[&add, "enable health web/a", READY, "set server web/a health down"]);
    assert!(!lab.server("a").selectable);
    lab.check(true);
    lab.check(true);
    assert!(lab.server("a").selectable);
    lab.ask(&[MAINT, "set server web/a health down", READY]);
    assert!(lab.server("a").selectable, "in MAINT it has no effect");
}

#[test]
fn failed_checks_take_a_server_out_and_maint_pauses_them() {
    let mut lab = Lab::new(Version::V3_0);
    let add = format!("{ADD} {CHECK}");
    lab.ask(&[&add, "enable health web/a", READY]);
    lab.check(true);
    lab.check(false);
    assert!(lab.server("a").selectable && lab.server("a").passes.is_none());
    lab.check(false);
    assert!(!lab.server("a").selectable && lab.server("a").passes == Some(false));
    lab.ask(&[MAINT]);
    assert_eq!(lab.haproxy.next_check(), None);
    lab.now = lab.now.plus(Duration::from_mins(10));
    lab.ask(&[READY]);
    assert!(lab.server("a").selectable, "up again, until a check fails");
    assert!(lab.check(false) <= Duration::from_secs(2));
    assert!(!lab.server("a").selectable, "one is enough after MAINT");
}

#[test]
fn slow_start_ends_by_itself() {
    let mut lab = Lab::new(Version::V3_0);
    let add = format!("{ADD} slowstart 4s");
    lab.ask(&[&add, READY]);
    let weight = |lab: &mut Lab| {
        let row = lab.ask(&["show stat -1 4 -1"]).remove(0);
        row.lines().nth(1).unwrap().split(',').nth(5).unwrap().parse::<u32>().unwrap()
    };
    let first = weight(&mut lab);
    lab.now = lab.now.plus(Duration::from_secs(2));
    let later = weight(&mut lab);
    lab.now = lab.now.plus(Duration::from_secs(2));
    assert_eq!((first < later, later < 100, weight(&mut lab)), (true, true, 100));
}

#[test]
fn what_init_state_and_ids_are_refused_for() {
    let mut lab = Lab::new(Version::V2_6);
    let answers = lab.ask(&[
        &format!("{ADD} init-state fully-down"),
        ADD,
        "add server web/b 10.0.0.2:80 id 10000 weight 1",
        "add server api/b 10.0.0.2:80 id 10000 weight 1",
        "add server nowhere/b 10.0.0.2:80 id 1 weight 1",
        "set server web/a weight 257",
    ]);
    assert!(answers[0].contains("unknown keyword 'init-state'"), "{answers:?}");
    assert_eq!(answers[1], "New server registered.\n");
    assert!(answers[2].starts_with("'id' : custom id 10000 already used"), "{answers:?}");
    assert_eq!(answers[3], "New server registered.\n", "ids are unique in a backend");
    assert_eq!(answers[4], "No such backend.");
    assert!(answers[5].starts_with("Absolute weight can only be"), "{answers:?}");
}
