//! Leaving: the record first, then the balancers, then the app, then the lease.

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::etcd::Etcd;
use crate::program::{Registrar, app_port, app_script};
use crate::until;

const KEY: &str = "instances/web/web-1";

/// A registered app in its directory, and what it needs.
struct Stage {
    etcd: Etcd,
    registrar: Registrar,
    dir: TempDir,
    _port: std::net::TcpListener,
}

impl Stage {
    /// An app that exits with 5; these balancers, with their services, are there already.
    fn set(balancers: &[(&str, &[&str])], options: &[&str]) -> Self {
        let etcd = Etcd::start();
        for (balancer, services) in balancers {
            etcd.put(&format!("balancers/{balancer}"), &json!({ "services": services }));
        }
        let (listener, port) = app_port();
        let dir = tempfile::tempdir().unwrap();
        let script = app_script(dir.path(), 5);
        let args: Vec<&str> = options.iter().copied().chain(["--", "sh", "-c", &script]).collect();
        let registrar = Registrar::run(&etcd.endpoint, &port, &args);
        etcd.until_state(KEY, "up");
        until("the app is started", || dir.path().join("started").exists().then_some(()));
        Self { etcd, registrar, dir, _port: listener }
    }

    fn says(&self, word: &str) -> bool {
        self.dir.path().join(word).exists()
    }

    fn tell(&self, word: &str) {
        std::fs::write(self.dir.path().join(word), "").unwrap();
    }

    fn ack(&self, balancer: &str, owner: &Value, state: &str) {
        let ack = json!({ "owner": owner, "state": state, "at": "2026-01-01T00:00:00Z" });
        self.etcd.put(&format!("acks/web/web-1/{balancer}"), &ack);
    }
}

#[test]
fn the_record_then_the_acks_then_the_app_then_the_lease() {
    let mut stage = Stage::set(&[("lb-1", &["web"]), ("lb-2", &["web", "api"]), ("lb-3", &["api"])], &[]);
    let owner = stage.etcd.record(KEY).unwrap()["owner"].clone();

    stage.registrar.signal(Signal::SIGTERM);
    stage.etcd.until_state(KEY, "draining");
    stage.registrar.until_logged("waiting for lb-1, lb-2 to drain");
    stage.registrar.until_probe("", 4);
    assert_eq!(stage.registrar.probe("web"), 0, "it serves on while it drains");

    stage.ack("lb-1", &json!("an owner before"), "drained");
    stage.ack("lb-2", &owner, "drained");
    stage.registrar.until_logged("waiting for lb-1 to drain");
    assert!(!stage.says("term"));

    stage.ack("lb-1", &owner, "drained");
    until("the app is asked to end", || stage.says("term").then_some(()));
    assert_eq!(stage.etcd.state(KEY).as_deref(), Some("draining"), "the lease outlives the app");
    stage.tell("go");
    assert_eq!(stage.registrar.until_ended().code(), Some(5));
    assert_eq!(stage.etcd.record(KEY), None);
    assert_eq!(stage.etcd.leases(), [""; 0]);
}

#[test]
fn without_a_balancer_none_is_waited_for() {
    let mut stage = Stage::set(&[("lb-3", &["api"])], &[]);
    stage.tell("go");
    stage.registrar.signal(Signal::SIGTERM);
    assert_eq!(stage.registrar.until_ended().code(), Some(5));
    assert!(stage.registrar.has_logged("left: no balancer is waited for"));
    assert_eq!(stage.etcd.record(KEY), None);
}

#[test]
fn a_balancer_that_never_answers_is_waited_for_so_long_and_no_longer() {
    let mut stage = Stage::set(&[("lb-1", &["web"])], &["--leave-timeout", "300ms"]);
    stage.tell("go");
    stage.registrar.signal(Signal::SIGTERM);
    assert_eq!(stage.registrar.until_ended().code(), Some(5));
    stage.registrar.until_logged("left late: lb-1 did not say drained in time");
}

#[test]
fn a_balancer_that_vanishes_is_waited_for_a_time_only() {
    let mut stage = Stage::set(&[("lb-1", &["web"])], &[]);
    stage.tell("go");
    stage.registrar.signal(Signal::SIGINT);
    stage.registrar.until_logged("waiting for lb-1 to drain");
    stage.etcd.ctl(&["del", "/leasehold/v1/balancers/lb-1"]);
    assert_eq!(stage.registrar.until_ended().code(), Some(5));
}

#[test]
fn a_second_stop_skips_the_balancers_and_a_third_kills() {
    let mut stage = Stage::set(&[("lb-1", &["web"])], &[]);
    stage.registrar.signal(Signal::SIGTERM);
    stage.registrar.until_logged("waiting for lb-1 to drain");
    stage.registrar.signal(Signal::SIGTERM);
    until("the app is asked to end", || stage.says("term").then_some(()));
    stage.registrar.signal(Signal::SIGTERM);
    assert_eq!(stage.registrar.until_ended().code(), Some(137));
    assert_eq!(stage.etcd.record(KEY), None);
}

#[test]
fn an_app_that_ignores_term_is_killed_after_its_grace() {
    let mut stage = Stage::set(&[], &["--stop-grace", "100ms"]);
    stage.registrar.signal(Signal::SIGTERM);
    assert_eq!(stage.registrar.until_ended().code(), Some(137));
    assert!(stage.says("term"), "it was asked first");
    assert_eq!(stage.etcd.record(KEY), None);
}

#[test]
fn an_app_that_ends_is_out_at_once() {
    let mut stage = Stage::set(&[("lb-1", &["web"])], &[]);
    stage.tell("end");
    assert_eq!(stage.registrar.until_ended().code(), Some(5));
    assert_eq!(stage.etcd.record(KEY), None);
    assert!(!stage.registrar.has_logged("waiting for"));
}

#[test]
fn an_app_that_ends_while_it_drains_waits_for_none() {
    let mut stage = Stage::set(&[("lb-1", &["web"])], &[]);
    stage.registrar.signal(Signal::SIGTERM);
    stage.registrar.until_logged("waiting for lb-1 to drain");
    stage.tell("end");
    assert_eq!(stage.registrar.until_ended().code(), Some(5));
    stage.etcd.until_gone(KEY);
}
