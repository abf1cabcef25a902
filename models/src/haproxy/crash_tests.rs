use super::tests::{ADD, Lab, VERSIONS};
use super::*;

const READY: &str = "set server web/a state ready";
const DRAIN: &str = "set server web/a state drain";
const MAINT: &str = "set server web/a state maint";

/// A server that has gone through `lines`, and then got a request that sticks to it.
fn after(version: Version, lines: &[&str]) -> Lab {
    let mut lab = Lab::new(version);
    lab.ask(lines);
    let stream = lab.open(Some("a")).unwrap();
    lab.haproxy.close_stream(lab.now, stream.id, false);
    lab
}

#[test]
fn a_server_that_was_never_usable_kills_haproxy_when_it_is_deleted() {
    for version in VERSIONS {
        let mut lab = after(version, &[ADD, DRAIN]);
        assert!(lab.server("a").endangers_haproxy() && lab.server("a").tree == Tree::Phantom);
        lab.ask(&[MAINT]);
        let why = lab.crash("del server web/a").unwrap();
        assert!(why.starts_with("web/a: took requests that stick to it, was never usable"), "{why}");
        assert_eq!(lab.haproxy.worker(), None);
        assert_eq!(lab.haproxy.ask(lab.now, lab.worker, "show info"), Err(NoAnswer::Gone));
    }
}

#[test]
fn and_when_it_becomes_usable() {
    let mut lab = after(Version::V3_2, &[ADD, DRAIN]);
    assert!(lab.crash(READY).is_some());
    let mut lab = after(Version::V2_6, &["add server web/a 10.0.0.1:80 id 10000 weight 0", READY]);
    assert!(lab.crash("set server web/a weight 10").is_some());
}

#[test]
fn and_when_its_check_brings_it_up() {
    let add = "add server web/a 10.0.0.1:80 id 10000 weight 0 check inter 100ms rise 1 fall 1";
    let mut lab = after(Version::V2_6, &[add, READY, "enable health web/a"]);
    lab.ask(&["set server web/a health down", "set server web/a weight 10"]);
    let due = lab.haproxy.next_check().unwrap();
    let crashed = lab.haproxy.run_checks(due, |_| true).unwrap_err();
    assert!(crashed.worker == lab.worker && crashed.why.contains("it comes up"), "{crashed:?}");
    assert_eq!(lab.haproxy.worker(), None);
}

#[test]
fn once_it_was_usable_nothing_happens() {
    for version in VERSIONS {
        let mut lab = after(version, &[ADD, READY, DRAIN]);
        assert!(!lab.server("a").endangers_haproxy());
        lab.ask(&["set server web/a weight 0", "set server web/a weight 5", READY, MAINT]);
        assert_eq!(lab.crash("del server web/a"), None);
        assert_eq!(lab.haproxy.worker(), Some(lab.worker));
    }
}

#[test]
fn without_a_request_nothing_happens_but_the_danger_shows() {
    let mut lab = Lab::new(Version::V3_2);
    lab.ask(&[ADD, DRAIN]);
    assert!(lab.server("a").endangers_haproxy());
    lab.ask(&[MAINT]);
    assert!(!lab.server("a").endangers_haproxy(), "no request sticks to it in MAINT");
    assert_eq!(lab.crash("del server web/a"), None);
}

#[test]
fn configured_servers_are_safe() {
    let files = Files {
        sections: [("web".to_owned(), "server a 10.0.0.1:80 id 10000 weight 0".to_owned())].into(),
        ..Files::default()
    };
    let mut lab = Lab::new(Version::V3_0);
    lab.haproxy.start(lab.now, &files, Pid::Fresh);
    lab.worker = lab.haproxy.connect().unwrap();
    lab.open(Some("a")).unwrap();
    assert_eq!(lab.crash("set server web/a weight 10"), None);
}

#[test]
fn a_crash_of_an_old_worker_is_its_own() {
    let mut lab = after(Version::V3_0, &[ADD, DRAIN]);
    lab.haproxy.reload(lab.now, &Files::default(), Pid::Fresh);
    assert!(lab.crash(READY).is_some());
    assert!(!lab.haproxy.is_alive(lab.worker) && lab.haproxy.worker().is_some());
}
