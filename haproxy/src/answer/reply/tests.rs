use super::super::super::{ServerAddr, ServerOptions, ServerPath, ServerState, fixtures};
use super::*;

fn server() -> ServerPath {
    ServerPath::new("web".parse().unwrap(), "web-1".parse().unwrap())
}

fn addr() -> ServerAddr {
    ServerAddr::new("10.0.0.5".parse().unwrap(), 3000).unwrap()
}

fn add() -> Command {
    let (id, weight) = (10_001.try_into().unwrap(), 100.try_into().unwrap());
    Command::AddServer { server: server(), id, addr: addr(), weight, options: ServerOptions::default() }
}

fn every_version_says(command: &Command, cases: &[(&str, Reply)]) {
    for (name, meaning) in cases {
        for (version, text) in fixtures::every(name) {
            assert_eq!(Reply::read(command, &text), *meaning, "{name} of {version}: {text}");
        }
    }
}

#[test]
fn adding() {
    let cases = [
        ("reply-add-ok", Reply::Ok),
        ("reply-add-ok-ipv6", Reply::Ok),
        ("reply-add-ok-checked", Reply::Ok),
        ("reply-add-already-exists", Reply::AlreadyExists),
        ("reply-add-id-in-use", Reply::IdInUse),
        ("reply-add-no-such-backend", Reply::NoSuchBackend),
        ("reply-add-permission-denied", Reply::PermissionDenied),
    ];
    every_version_says(&add(), &cases);
}

#[test]
fn setting() {
    let ready = Command::SetState { server: server(), state: ServerState::Ready };
    let cases = [
        ("reply-state-ok", Reply::Ok),
        ("reply-state-no-such-server", Reply::NoSuchServer),
        ("reply-state-no-such-backend", Reply::NoSuchBackend),
        ("reply-state-permission-denied", Reply::PermissionDenied),
    ];
    every_version_says(&ready, &cases);
    let weight = Command::SetWeight { server: server(), weight: 256.try_into().unwrap() };
    let said = "Absolute weight can only be between 0 and 256 inclusive.";
    let cases = [
        ("reply-weight-ok", Reply::Ok),
        ("reply-weight-too-high", Reply::Other(Excerpt::of(said))),
        ("reply-weight-no-such-server", Reply::NoSuchServer),
        ("reply-weight-no-such-backend", Reply::NoSuchBackend),
        ("reply-weight-permission-denied", Reply::PermissionDenied),
    ];
    every_version_says(&weight, &cases);
}

#[test]
fn checking() {
    let cases = [
        ("reply-health-ok", Reply::Ok),
        ("reply-health-no-check", Reply::NoCheck),
        ("reply-health-no-such-server", Reply::NoSuchServer),
        ("reply-health-no-such-backend", Reply::NoSuchBackend),
        ("reply-health-permission-denied", Reply::PermissionDenied),
    ];
    every_version_says(&Command::EnableHealth { server: server() }, &cases);
}

#[test]
fn moving() {
    let cases = [
        ("reply-addr-ok-both", Reply::Ok),
        ("reply-addr-ok-ip", Reply::Ok),
        ("reply-addr-ok-port", Reply::Ok),
        ("reply-addr-ok-neither", Reply::Ok),
        ("reply-addr-ok-family", Reply::Ok),
        ("reply-addr-no-such-server", Reply::NoSuchServer),
        ("reply-addr-no-such-backend", Reply::NoSuchBackend),
        ("reply-addr-permission-denied", Reply::PermissionDenied),
    ];
    let command = Command::SetAddr { server: server(), addr: addr() };
    every_version_says(&command, &cases);
    for (_, text) in fixtures::every("reply-addr-malformed") {
        assert!(matches!(Reply::read(&command, &text), Reply::Other(_)), "{text}");
    }
}

#[test]
fn deleting() {
    let cases = [
        ("reply-del-ok", Reply::Ok),
        ("reply-del-not-in-maint", Reply::NotInMaint),
        ("reply-del-still-has-connections", Reply::StillHasConnections),
        ("reply-del-referenced", Reply::Referenced),
        ("reply-del-no-such-server", Reply::NoSuchServer),
        ("reply-del-no-such-backend", Reply::NoSuchBackend),
        ("reply-del-permission-denied", Reply::PermissionDenied),
    ];
    every_version_says(&Command::DelServer { server: server() }, &cases);
}

#[test]
fn listing() {
    let map = crate::MapId(2);
    let list = Command::AddToMap { map, server: server() };
    every_version_says(&list, &[("reply-add-map-ok", Reply::Ok)]);
    let strike = Command::DelFromMap { map, server: server() };
    every_version_says(&strike, &[("reply-del-map-ok", Reply::Ok), ("reply-del-map-absent", Reply::Ok)]);
    for (_, text) in fixtures::every("reply-del-map-nowhere") {
        assert!(matches!(Reply::read(&strike, &text), Reply::Other(_)), "{text}");
        assert!(matches!(Reply::read(&list, &text), Reply::Other(_)), "{text}");
    }
}

#[test]
fn ending_sessions() {
    let cases = [
        ("reply-shutdown-ok", Reply::Ok),
        ("reply-shutdown-no-such-server", Reply::NoSuchServer),
        ("reply-shutdown-no-such-backend", Reply::NoSuchBackend),
        ("reply-shutdown-permission-denied", Reply::PermissionDenied),
    ];
    every_version_says(&Command::ShutdownSessions { server: server() }, &cases);
}

#[test]
fn what_is_not_known_is_kept_short() {
    let Reply::Other(said) = Reply::read(&add(), &"backend uses a static algorithm ".repeat(100)) else {
        panic!()
    };
    assert_eq!(said.to_string().chars().count(), Excerpt::MAX + 1);
    assert_ne!(Reply::read(&add(), ""), Reply::Ok);
}

#[test]
fn reading_is_not_changing() {
    assert_eq!(Reply::read(&Command::ShowInfo, "Name: HAProxy\n"), Reply::Ok);
    assert_eq!(Reply::read(&Command::ShowInfo, "Permission denied\n"), Reply::PermissionDenied);
}
