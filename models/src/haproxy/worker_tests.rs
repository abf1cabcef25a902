use std::time::Duration;

use ::haproxy::answer::info::Info;

use super::tests::{ADD, Lab, VERSIONS};
use super::*;

const READY: &str = "set server web/a state ready";
const MAINT: &str = "set server web/a state maint";
const DELETE: &str = "del server web/a";

fn serving(version: Version) -> Lab {
    let mut lab = Lab::new(version);
    lab.ask(&[
        ADD,
        READY,
        "add server web/b 10.0.0.2:80 id 10001 weight 100",
        "set server web/b state ready",
    ]);
    lab
}

fn files() -> Files {
    let section = "backend web\n    balance leastconn\n    server a 10.0.0.1:80 id 10000 weight 100 check inter 2000ms rise 1 fall 2 pool-purge-delay 5s pool-max-conn -1\n    server b 10.0.0.2:80 id 10001 weight 100 disabled\n";
    Files {
        sections: [("web".to_owned(), section.to_owned()), ("new".to_owned(), String::new())].into(),
        maps: [("routes.map".to_owned(), "# ours\nshop.example/ web\n".to_owned())].into(),
    }
}

fn info(lab: &mut Lab, worker: WorkerId) -> Info {
    Info::parse(&lab.haproxy.ask(lab.now, worker, "show info").unwrap()).unwrap()
}

#[test]
fn a_reload_leaves_the_old_worker_with_its_servers_streams_and_sessions() {
    let mut lab = serving(Version::V3_0);
    let stream = lab.open(Some("a")).unwrap();
    lab.now = lab.now.plus(Duration::from_secs(1));
    lab.haproxy.reload(lab.now, &files(), Pid::Fresh);
    let (old, new) = (lab.worker, lab.haproxy.worker().unwrap());
    let (old_info, new_info) = (info(&mut lab, old), info(&mut lab, new));
    assert!(old_info.stopping && !new_info.stopping && !old_info.is_same_process(&new_info));
    assert_eq!(lab.haproxy.streams(old).map(|it| it.id).collect::<Vec<_>>(), [stream.id]);
    let answer = lab.haproxy.ask(lab.now, old, "add server web/c 10.0.0.3:80 id 3 weight 1").unwrap();
    assert_eq!(answer, "New server registered.\n", "to no effect");
    assert_eq!(lab.haproxy.servers(new).map(|it| it.name).collect::<Vec<_>>(), ["a", "b"]);
    lab.haproxy.close_stream(lab.now, stream.id, false);
    assert!(lab.haproxy.is_alive(old), "the session holds it up");
    lab.haproxy.disconnect(old);
    assert!(!lab.haproxy.is_alive(old));
}

#[test]
fn a_start_reads_sections_and_maps() {
    let mut lab = serving(Version::V2_6);
    lab.ask(&["add map #0 a 1"]);
    lab.haproxy.reload(lab.now, &files(), Pid::Same);
    lab.worker = lab.haproxy.connect().unwrap();
    let shown = lab.ask(&["show map #0", "show map #2", "show map #3", "show backend"]);
    assert_eq!((shown[0].as_str(), shown[3].as_str()), ("", "# name\nweb\napi\nnew\n"));
    assert!(shown[2].is_empty() || shown[2].ends_with("shop.example/ web\n"), "{shown:?}");
    assert!(lab.server("a").selectable && lab.server("a").checked);
    assert_eq!(lab.server("b").admin.bits(), 0x05);
    lab.ask(&["set server web/b state ready"]);
    assert!(lab.server("b").selectable);
}

#[test]
fn a_worker_in_a_container_may_have_the_pid_of_the_last_one() {
    let mut lab = serving(Version::V2_6);
    let before = info(&mut lab, WorkerId(1));
    lab.haproxy.kill();
    assert_eq!(lab.haproxy.worker(), None);
    lab.now = lab.now.plus(Duration::from_secs(3));
    lab.haproxy.start(lab.now, &Files::default(), Pid::Same);
    let worker = lab.haproxy.worker().unwrap();
    let after = info(&mut lab, worker);
    assert_eq!(after.pid, before.pid);
    assert!(!after.is_same_process(&before) && lab.haproxy.servers(worker).next().is_none());
}

#[test]
fn an_old_worker_serves_one_last_request_on_each_kept_connection() {
    let mut lab = serving(Version::V3_2);
    lab.haproxy.keep_connection(lab.worker);
    lab.haproxy.disconnect(lab.worker);
    lab.haproxy.reload(lab.now, &files(), Pid::Fresh);
    assert!(lab.haproxy.is_alive(lab.worker));
    let last = lab.open(None).unwrap();
    assert_eq!(lab.open(None), Err(NoStream::Refused));
    lab.haproxy.close_stream(lab.now, last.id, false);
    assert!(!lab.haproxy.is_alive(lab.worker));
}

#[test]
fn old_workers_check_no_more() {
    let mut lab = Lab::new(Version::V3_0);
    lab.ask(&[&format!("{ADD} check inter 100ms rise 1 fall 1"), "enable health web/a", READY]);
    lab.haproxy.reload(lab.now, &Files::default(), Pid::Fresh);
    assert_eq!(lab.haproxy.next_check(), None);
    lab.now = lab.now.plus(Duration::from_mins(1));
    lab.haproxy.run_checks(lab.now, |_| false).unwrap();
    assert!(lab.server("a").selectable);
}

#[test]
fn a_kill_cuts_every_stream() {
    let mut lab = serving(Version::V3_0);
    let streams = [lab.open(None).unwrap().id, lab.open(None).unwrap().id];
    lab.haproxy.kill();
    let cut: Vec<StreamId> = lab.haproxy.take_cut().iter().map(|cut| cut.stream).collect();
    assert_eq!(cut, streams);
    assert!(lab.haproxy.take_cut().is_empty());
    assert_eq!(lab.open(None), Err(NoStream::Refused));
}

#[test]
fn a_hung_worker_takes_what_it_was_sent_when_it_resumes() {
    let mut lab = serving(Version::V3_0);
    lab.haproxy.hang(lab.worker);
    assert_eq!(lab.haproxy.ask(lab.now, lab.worker, MAINT), Err(NoAnswer::Hung));
    assert_eq!(lab.haproxy.ask(lab.now, lab.worker, DELETE), Err(NoAnswer::Hung));
    assert_eq!(lab.open(None), Err(NoStream::Hung));
    assert!(lab.server("a").selectable);
    let answers = lab.haproxy.resume(lab.now, lab.worker);
    assert_eq!(answers, [Ok(String::new()), Ok("Server deleted.\n".to_owned())]);
    assert!(lab.haproxy.resume(lab.now, lab.worker).is_empty());
}

#[test]
fn a_server_is_deleted_only_from_maint_and_with_nothing_in_flight() {
    for version in VERSIONS {
        let mut lab = serving(version);
        let stream = lab.open(Some("a")).unwrap();
        let answers = lab.ask(&[DELETE, MAINT, DELETE]);
        assert!(answers[0].starts_with("Only servers in maintenance mode"), "{answers:?}");
        assert!(answers[2].starts_with("Server still has connections"), "{answers:?}");
        lab.haproxy.close_stream(lab.now, stream.id, false);
        assert_eq!(lab.ask(&[DELETE])[0].trim_end(), "Server deleted.");
    }
}

#[test]
fn a_pooled_connection_of_2_6_goes_by_itself_in_the_end() {
    let mut lab = serving(Version::V2_6);
    let stream = lab.open(Some("a")).unwrap();
    lab.ask(&[MAINT]);
    lab.haproxy.close_stream(lab.now, stream.id, true);
    assert!(lab.ask(&[DELETE])[0].starts_with("Server still has"));
    lab.now = lab.now.plus(Duration::from_secs(15));
    assert_eq!(lab.ask(&[DELETE]), ["Server deleted."]);
}

#[test]
fn shut_down_streams_are_over_after_the_write() {
    for version in VERSIONS {
        let mut lab = serving(version);
        let stream = lab.open(Some("a")).unwrap();
        lab.ask(&[MAINT]);
        let now = lab.now;
        let mut ask = |line: &str| lab.haproxy.ask(now, lab.worker, line).unwrap();
        ask("shutdown sessions server web/a");
        assert!(ask(DELETE).starts_with("Server still has"));
        let asks_again = version == Version::V2_6;
        assert_eq!(lab.haproxy.take_cut(), [Cut { stream: stream.id, asks_again }]);
        assert_eq!(lab.ask(&[DELETE])[0].trim_end(), "Server deleted.");
    }
}

#[test]
fn a_cookie_sticks_through_drain_and_weight_0_but_not_maint() {
    let mut lab = serving(Version::V3_0);
    lab.ask(&["set server web/a state drain"]);
    let stream = lab.open(Some("a")).unwrap();
    assert!(stream.server == "a" && !stream.sets_cookie);
    assert_eq!(lab.open(None).unwrap().server, "b");
    lab.ask(&[READY, "set server web/a weight 0"]);
    assert_eq!(lab.open(Some("a")).unwrap().server, "a");
    lab.ask(&[MAINT]);
    let moved = lab.open(Some("a")).unwrap();
    assert!(moved.server == "b" && moved.sets_cookie);
    lab.ask(&["add map #0 a 1"]);
    assert!(!lab.open(Some("a")).unwrap().sets_cookie, "it is waited for");
    lab.ask(&["set server web/b state maint"]);
    assert_eq!(lab.open(None), Err(NoStream::NoServer));
}

#[test]
fn the_least_loaded_goes_first_by_weight() {
    let mut lab = serving(Version::V3_0);
    lab.ask(&["set server web/b weight 200"]);
    let mut counts = BTreeMap::new();
    for _ in 0..30 {
        *counts.entry(lab.open(None).unwrap().server).or_insert(0) += 1;
    }
    assert_eq!(counts, [("a".to_owned(), 10), ("b".to_owned(), 20)].into());
}

#[test]
fn a_dead_address_costs_a_retry_elsewhere_and_three_are_all() {
    let mut lab = serving(Version::V3_0);
    let alive: SocketAddr = "10.0.0.2:80".parse().unwrap();
    let stream = lab.open_where(Some("a"), |addr| addr == alive).unwrap();
    assert_eq!((stream.server.as_str(), stream.retries, stream.sets_cookie), ("b", 1, true));
    let mut tried = Vec::new();
    let none = lab.open_where(Some("a"), |addr| {
        tried.push(addr.ip().to_string());
        false
    });
    assert_eq!(none, Err(NoStream::NotConnected));
    assert_eq!(tried, ["10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.2"]);
}

#[test]
fn an_empty_response_is_asked_again_until_retries_are_used_up() {
    let mut lab = serving(Version::V3_0);
    let mut stream = lab.open(Some("a")).unwrap();
    for server in ["b", "a", "b"] {
        stream = lab.haproxy.retry_stream(lab.now, stream.id, 0, |_| true).unwrap();
        assert_eq!(stream.server, server);
    }
    let end = lab.haproxy.retry_stream(lab.now, stream.id, 0, |_| true);
    assert_eq!(end, Err(NoStream::NotConnected));
    assert!(lab.haproxy.streams(lab.worker).next().is_none());
}

#[test]
fn an_upgrade_takes_effect_with_the_next_worker() {
    let mut lab = serving(Version::V2_6);
    lab.haproxy.upgrade(Version::V3_2);
    assert!(info(&mut lab, WorkerId(1)).version.text.starts_with("2.6"));
    lab.haproxy.reload(lab.now, &files(), Pid::Fresh);
    let new = lab.haproxy.worker().unwrap();
    assert!(info(&mut lab, new).version.text.starts_with("3.2"));
}
