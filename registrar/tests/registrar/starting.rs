//! What is told at the start, and with which exit code.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use nix::sys::signal::Signal;

use crate::program::{REGISTRAR, Registrar, app_port};
use crate::until;
use testkit::blocking::free_url;

/// `registrar` with `args`, to its end.
fn registrar(args: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = Command::new(REGISTRAR).args(args).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_malformed_log_filter_is_78_and_says_what_to_write() {
    let bad = Command::new(REGISTRAR)
        .args([
            "run",
            "--service=web",
            "--instance=web-1",
            "--port=1",
            "--check=none",
            "--listen=127.0.0.1:0",
        ])
        .env("LEASEHOLD_LOG", "info,registry=loud")
        .output()
        .unwrap();
    let said = String::from_utf8(bad.stderr).unwrap();
    assert_eq!(bad.status.code(), Some(78), "{said}");
    assert!(said.contains("LEASEHOLD_LOG") && said.contains("registry=loud"), "{said}");
}

/// `registrar run` for `web` without an etcd, with `args`, to its end.
fn run(args: &[&str]) -> (Option<i32>, String) {
    let etcd = free_url();
    let usual =
        ["run", "--service=web", "--instance=web-1", "--port=1", "--check=none", "--listen=127.0.0.1:0"];
    let etcd = format!("--etcd-endpoints={etcd}");
    registrar(&usual.into_iter().chain([etcd.as_str()]).chain(args.iter().copied()).collect::<Vec<_>>())
}

#[test]
fn a_command_line_that_cannot_be_read_is_64_and_help_is_0() {
    for bad in [
        &["run"][..],
        &["run", "--service", "a b", "--port", "1"],
        &["run", "--service", "web", "--port", "1", "--instance=-x"],
        &["fly"],
        &[],
    ] {
        assert_eq!(registrar(bad).0, Some(64), "{bad:?}");
    }
    assert_eq!(registrar(&["--help"]).0, Some(0));
    assert_eq!(registrar(&["--version"]).0, Some(0));
}

#[test]
fn an_illegal_name_names_the_rule() {
    let (code, text) = registrar(&["run", "--service", "web/x", "--port", "1"]);
    assert_eq!(code, Some(64));
    assert!(text.contains("not a legal service name: use 1 to 64 of the characters"), "{text}");
}

#[test]
fn options_that_cannot_be_used_are_78() {
    for (bad, why) in [
        (&["--ttl=1s"][..], "--ttl is 1s"),
        (&["--etcd-endpoints=etcd:2379"], "write http://HOST:PORT"),
        (&["--etcd-cacert=/no/such/file"], "https"),
        (&["--log=a=b=c"], "is no filter"),
    ] {
        let mut args = vec!["run", "--service=web", "--instance=web-1", "--port=1"];
        args.extend(bad);
        let (code, text) = registrar(&args);
        assert_eq!(code, Some(78), "{text}");
        assert!(text.starts_with("error: ") && text.contains(why), "{text}");
    }
}

#[test]
fn a_port_in_use_is_told_before_the_app_is_started() {
    let dir = tempfile::tempdir().unwrap();
    let started = dir.path().join("started");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("--listen={}", taken.local_addr().unwrap());
    let args = ["run", "--service=web", "--instance=a", "--port=1", &listen, "--", "touch"];
    let (code, text) = registrar(&args.into_iter().chain([started.to_str().unwrap()]).collect::<Vec<_>>());
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("the port is in use") && text.contains("--listen ADDR:PORT"), "{text}");
    assert!(!started.exists());
}

#[test]
fn the_apps_code_is_ours_also_when_a_signal_ended_it() {
    assert_eq!(run(&["--", "sh", "-c", "exit 7"]).0, Some(7));
    assert_eq!(run(&["--", "true"]).0, Some(0));
    assert_eq!(run(&["--", "sh", "-c", "kill -USR1 $$"]).0, Some(138));
    assert_eq!(run(&["--", "sh", "-c", "kill -KILL $$"]).0, Some(137));
}

#[test]
fn a_command_that_cannot_be_run_is_127_or_126() {
    let (code, text) = run(&["--", "no-such-program-anywhere"]);
    assert_eq!(code, Some(127), "{text}");
    assert!(text.contains(r#"cannot run "no-such-program-anywhere": it is not there"#), "{text}");

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("app");
    std::fs::write(&file, "no program").unwrap();
    let (code, text) = run(&["--", file.to_str().unwrap()]);
    assert_eq!(code, Some(126), "{text}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (code, text) = run(&["--", file.to_str().unwrap()]);
    assert_eq!(code, Some(126), "{text}");
}

#[test]
fn signals_that_are_the_apps_business_reach_its_whole_group() {
    let (_listener, port) = app_port();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display();
    let wait = format!("while [ -d {path} ] && [ ! -e {path}/end ]; do sleep 0.02; done");
    // The outer trap first: once the inner one is set, both are.
    let script = format!(
        "trap 'touch {path}/outer' HUP; (trap 'touch {path}/inner' HUP; touch {path}/ready; {wait}) & {wait}; exit 4"
    );
    let mut registrar = Registrar::run(&free_url(), &port, &["--", "sh", "-c", &script]);
    until("the app is ready", || dir.path().join("ready").exists().then_some(()));
    until("the hang-up reaches both", || {
        registrar.signal(Signal::SIGHUP);
        (dir.path().join("inner").exists() && dir.path().join("outer").exists()).then_some(())
    });
    std::fs::write(dir.path().join("end"), "").unwrap();
    assert_eq!(registrar.until_ended().code(), Some(4));
}
