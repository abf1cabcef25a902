//! The app is started again; others run beside it; what they print is handed on.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::etcd::Etcd;
use crate::program::{Registrar, app_port, app_script};
use crate::until;
use testkit::blocking::free_url;

const KEY: &str = "instances/web/web-1";

fn exists(path: &Path) -> Option<()> {
    path.exists().then_some(())
}

#[test]
fn an_app_that_fails_is_started_again_under_its_name_and_lease() {
    let etcd = Etcd::start();
    let (_listener, port) = app_port();
    let dir = tempfile::tempdir().unwrap();
    let script = app_script(dir.path(), 3);
    let options = ["--restart", "on-failure", "--", "sh", "-c", &script];
    let mut registrar = Registrar::run(&etcd.endpoint, &port, &options);
    etcd.until_state(KEY, "up");
    let (owner, lease) = (etcd.record(KEY).unwrap()["owner"].clone(), etcd.only_lease());

    std::fs::write(dir.path().join("end"), "").unwrap();
    registrar.until_logged("exited with code 3; it is started again in");
    // The port still takes connections: only the process's end can have told it.
    registrar.until_logged("down: the app exited with code 3");
    std::fs::remove_file(dir.path().join("end")).unwrap();

    etcd.until_state(KEY, "up");
    assert_eq!((&etcd.record(KEY).unwrap()["owner"], etcd.only_lease()), (&owner, lease));
    std::fs::write(dir.path().join("go"), "").unwrap();
    registrar.signal(Signal::SIGTERM);
    assert_eq!(registrar.until_ended().code(), Some(3));
    assert_eq!(etcd.leases(), [""; 0]);
}

#[test]
fn an_app_that_fails_again_and_again_is_given_up_with_its_code() {
    let (_listener, port) = app_port();
    let options = ["--restart", "always", "--restarts-max", "2", "--", "sh", "-c", "exit 9"];
    let mut registrar = Registrar::run(&free_url(), &port, &options);
    assert_eq!(registrar.until_ended().code(), Some(9));
    assert!(registrar.has_logged("giving up"));

    // 125: it does not want to be started again.
    let options = ["--restart", "always", "--", "sh", "-c", "exit 125"];
    let mut registrar = Registrar::run(&free_url(), &port, &options);
    assert_eq!(registrar.until_ended().code(), Some(125));
    assert!(!registrar.has_logged("started again"));
}

/// A file with a forwarder before the app and another process after it, all of which note their ends in `order`.
fn beside(dir: &Path) -> String {
    let path = dir.display();
    format!(
        r#"
        [[side]]
        name = "forwarder"
        command = ["sh", "-c", "trap 'echo forwarder >> {path}/order; exit 0' TERM; touch {path}/first; while [ -d {path} ]; do while read -r line; do echo \"$line\" >> {path}/central; done < {path}/log; done"]

        [[side]]
        name = "late"
        start = "after"
        command = ["sh", "-c", "trap 'echo late >> {path}/order; exit 0' TERM; touch {path}/late; echo late is here >&2; while [ -d {path} ]; do sleep 0.02; done"]
        "#
    )
}

#[test]
fn those_beside_the_app_are_stopped_in_reverse_and_a_forwarder_gets_every_line() {
    let etcd = Etcd::start();
    let (_listener, port) = app_port();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display();
    let config = dir.path().join("leasehold.toml");
    std::fs::write(&config, beside(dir.path())).unwrap();
    let output = File::create(dir.path().join("output")).unwrap();
    let log = dir.path().join("log");
    let script = format!(
        "trap 'echo app >> {path}/order; exit 6' TERM; while [ ! -e {path}/late ]; do sleep 0.02; done; \
         echo started >> {path}/started; n=0; while [ -d {path} ]; do n=$((n+1)); echo line $n; sleep 0.02; done"
    );
    let args = [
        "--config",
        config.to_str().unwrap(),
        "--service=web",
        "--instance=web-1",
        "--port",
        &port,
        "--app-output=json",
        "--app-output-copy",
        log.to_str().unwrap(),
        "--",
        "sh",
        "-c",
        &script,
    ];
    let mut registrar = Registrar::run_as(&etcd.endpoint, &args, Stdio::from(output));
    until("the app is started, after both", || exists(&dir.path().join("started")));
    assert!(dir.path().join("first").exists());
    let central = || std::fs::read_to_string(dir.path().join("central")).unwrap_or_default();
    until("the forwarder has lines", || central().contains("line 15").then_some(()));

    let forwarded = central().lines().find(|line| line.contains("line 1")).map(serde_json::from_str::<Value>);
    let forwarded = forwarded.unwrap().unwrap();
    assert_eq!((&forwarded["service"], &forwarded["instance"]), (&"web".into(), &"web-1".into()));
    assert_eq!((&forwarded["process"], &forwarded["stream"]), (&"app".into(), &"stdout".into()));
    assert!(forwarded["line"].as_str().unwrap().starts_with("line "));
    registrar.until_logged("late is here");

    registrar.signal(Signal::SIGTERM);
    assert_eq!(registrar.until_ended().code(), Some(6));
    let order = std::fs::read_to_string(dir.path().join("order")).unwrap();
    assert_eq!(order, "late\napp\nforwarder\n");
    let printed = std::fs::read_to_string(dir.path().join("output")).unwrap();
    for line in printed.lines() {
        serde_json::from_str::<Value>(line).expect("every line is an object");
    }
}

#[test]
fn only_processes_may_be_supervised_and_need_no_etcd() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("leasehold.toml");
    let text = "[[side]]\nname = \"failing\"\ncommand = [\"sh\", \"-c\", \"exit 3\"]\nrestarts_max = 1\n";
    std::fs::write(&config, text).unwrap();
    let args = ["--config", config.to_str().unwrap(), "--", "sleep", "600"];
    let mut registrar = Registrar::run_as(&free_url(), &args, Stdio::inherit());
    registrar.until_logged("it ends again and again");
    assert_eq!(registrar.until_ended().code(), Some(3), "a limit means that all depends on it");
    assert!(!registrar.has_logged("etcd"));
}

#[test]
fn one_beside_the_app_that_cannot_be_run_is_told_before_anything_is_registered() {
    let etcd = Etcd::start();
    let (_listener, port) = app_port();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("leasehold.toml");
    std::fs::write(&config, "[[side]]\nname = \"x\"\nstart = \"after\"\ncommand = [\"/no/such/program\"]\n")
        .unwrap();
    let started = dir.path().join("started");
    let script = format!("touch {}; sleep 600", started.display());
    let options = ["--config", config.to_str().unwrap(), "--check", "none", "--", "sh", "-c", &script];
    let mut registrar = Registrar::run(&etcd.endpoint, &port, &options);
    assert_eq!(registrar.until_ended().code(), Some(127));
    assert!(registrar.has_logged("cannot run \"/no/such/program\""));
    assert_eq!((etcd.record(KEY), etcd.leases()), (None, vec![]));
}
