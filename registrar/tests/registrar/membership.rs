//! Joining, staying, falling ill, and being taken over.

use nix::sys::signal::Signal;
use serde_json::json;

use crate::etcd::Etcd;
use crate::program::{Registrar, app_port, app_script};
use crate::until;
use testkit::blocking::free_url;

const KEY: &str = "instances/web/web-1";

#[test]
fn an_app_is_registered_once_its_check_passes_and_not_before() {
    let etcd = Etcd::start();
    let (listener, port) = app_port();
    drop(listener);
    let options = ["--weight", "7", "--label", "zone=a", "--sticky", "3s", "--slow-start", "4s"];
    let mut registrar = Registrar::run(&etcd.endpoint, &port, &options);
    registrar.until_logged("not healthy yet");
    assert_eq!(etcd.record(KEY), None);
    assert_eq!([registrar.probe(""), registrar.probe("web"), registrar.probe("registry")], [4, 4, 4]);

    let listener = std::net::TcpListener::bind(format!("127.0.0.1:{port}")).unwrap();
    etcd.until_state(KEY, "up");

    let record = etcd.record(KEY).unwrap();
    assert_eq!(record["address"], "127.0.0.1", "the route to etcd is local here");
    assert_eq!((&record["port"], &record["weight"]), (&json!(port.parse::<u16>().unwrap()), &json!(7)));
    assert_eq!((&record["labels"], &record["slow_start_s"]), (&json!({"zone": "a"}), &json!(4)));
    assert_eq!(record["drain"], json!({"sticky_s": 3, "inflight_s": 30}));
    assert!(record["owner"].as_str().unwrap().len() >= 16);
    registrar.until_probe("registry", 0);
    assert_eq!([registrar.probe(""), registrar.probe("web"), registrar.probe("unknown")], [0, 0, 3]);

    drop(listener);
    etcd.until_state(KEY, "down");
    registrar.until_probe("registry", 0);
    assert_eq!([registrar.probe(""), registrar.probe("web")], [4, 4]);
    let _listener = std::net::TcpListener::bind(format!("127.0.0.1:{port}")).unwrap();
    etcd.until_state(KEY, "up");

    registrar.signal(Signal::SIGTERM);
    assert_eq!(registrar.until_ended().code(), Some(0), "a sidecar has no app whose code it could pass on");
    assert_eq!(etcd.record(KEY), None);
    assert_eq!(etcd.leases(), [""; 0]);
}

#[test]
fn a_revoked_lease_is_replaced_under_the_same_name() {
    let etcd = Etcd::start();
    let (_listener, port) = app_port();
    let registrar = Registrar::run(&etcd.endpoint, &port, &[]);
    etcd.until_state(KEY, "up");
    let owner = etcd.record(KEY).unwrap()["owner"].clone();
    let lease = etcd.only_lease();

    etcd.ctl(&["lease", "revoke", &lease]);

    until("there is another lease", || (!etcd.leases().is_empty()).then_some(()));
    etcd.until_state(KEY, "up");
    assert_eq!(etcd.record(KEY).unwrap()["owner"], owner);
    assert_ne!(etcd.only_lease(), lease);
    registrar.until_probe("registry", 0);
}

#[test]
fn a_newer_registrar_of_the_name_wins_and_the_older_stands_down() {
    let etcd = Etcd::start();
    let (_listener, port) = app_port();
    let dir = tempfile::tempdir().unwrap();
    let script = app_script(dir.path(), 6);
    // What is in flight at the older one's address when traffic moves away has so long.
    let options = ["--check", "none", "--inflight", "1s", "--", "sh", "-c", &script];
    let mut older = Registrar::run(&etcd.endpoint, &port, &options);
    etcd.until_state(KEY, "up");
    older.until_logged("the record stands");

    let newer = Registrar::run(&etcd.endpoint, &port, &[]);
    newer.until_logged("the record stands");
    let record = etcd.record(KEY).unwrap();

    older.until_logged("another registrar took over this name");
    older.until_probe("", 4);
    assert_eq!([older.probe("web"), older.probe("registry")], [0, 4], "its app is well, and left alone");
    assert!(!dir.path().join("term").exists());
    older.signal(Signal::SIGTERM);
    until("the app is stopped", || dir.path().join("term").exists().then_some(()));
    std::fs::write(dir.path().join("go"), "").unwrap();
    assert_eq!(older.until_ended().code(), Some(6));
    assert_eq!(etcd.record(KEY), Some(record), "the newer one's record was never touched");
    newer.until_probe("registry", 0);
}

#[test]
fn a_slip_of_the_hand_over_the_record_is_put_right() {
    let etcd = Etcd::start();
    let (_listener, port) = app_port();
    let registrar = Registrar::run(&etcd.endpoint, &port, &[]);
    registrar.until_logged("the record stands");

    etcd.put(KEY, &json!("oops"));

    until("the record is back", || etcd.record(KEY)?.get("owner").map(drop));
    registrar.until_probe("", 0);
}

#[test]
fn an_etcd_that_is_away_does_not_touch_the_app() {
    let (_listener, port) = app_port();
    let dir = tempfile::tempdir().unwrap();
    let script = app_script(dir.path(), 3);
    let options = ["--leave-timeout", "200ms", "--", "sh", "-c", &script];
    let mut registrar = Registrar::run(&free_url(), &port, &options);
    until("the app is started", || dir.path().join("started").exists().then_some(()));
    registrar.until_probe("web", 0);
    registrar.until_logged("cannot get a lease from etcd");
    assert_eq!([registrar.probe(""), registrar.probe("registry")], [0, 4]);
    assert!(registrar.runs() && !dir.path().join("term").exists());

    std::fs::write(dir.path().join("go"), "").unwrap();
    registrar.signal(Signal::SIGTERM);
    assert_eq!(registrar.until_ended().code(), Some(3), "and the leave is bounded");
    assert!(registrar.has_logged("etcd does not answer") && registrar.has_logged("left late"));
}

#[test]
fn healthz_says_the_same_as_health() {
    let (_listener, port) = app_port();
    let registrar = Registrar::run(&free_url(), &port, &[]);
    registrar.until_probe("", 0);
    let answer = registrar.get("/healthz");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.ends_with("(all): serving\nregistry: not serving\nweb: serving\n"), "{answer}");
}
