//! Numbered names, several services under one lease, addresses by interface.

use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::etcd::Etcd;
use crate::program::{Registrar, app_port};
use crate::until;

fn numbered(etcd: &Etcd, port: &str) -> Registrar {
    let args = [
        "--service",
        "web",
        "--instance",
        "auto",
        "--port",
        port,
        "--check",
        "none",
        "--address",
        "127.0.0.1",
    ];
    Registrar::run_as(&etcd.endpoint, &args, Stdio::inherit())
}

fn port_of(etcd: &Etcd, name: &str) -> Option<String> {
    Some(etcd.record(&format!("instances/web/{name}"))?["port"].to_string())
}

#[test]
fn a_numbered_name_is_the_lowest_free_one_and_an_earlier_life_s_comes_first() {
    let etcd = Etcd::start();
    let mut registrars = vec![];
    for n in 1..=3 {
        registrars.push(numbered(&etcd, &(5_000 + n).to_string()));
        etcd.until_state(&format!("instances/web/web-{n}"), "up");
    }
    registrars[1].signal(Signal::SIGTERM);
    registrars[1].until_ended();
    let second = numbered(&etcd, "5009");
    until("the free number is taken", || (port_of(&etcd, "web-2")? == "5009").then_some(()));

    // Killed, and back at its address while the old lease still stands.
    let owner = etcd.record("instances/web/web-3").unwrap()["owner"].clone();
    registrars.pop().unwrap().kill();
    let third = numbered(&etcd, "5003");
    until("its name is taken over", || {
        let record = etcd.record("instances/web/web-3")?;
        (record["owner"] != owner && record["port"] == 5_003).then_some(())
    });
    assert_eq!(etcd.record("instances/web/web-4"), None);
    drop((second, third));
}

/// Two hosts of one name (a cloned machine): the second displaces none, says why, and is registered when the first has ended.
#[test]
fn the_hosts_name_is_not_taken_from_one_that_lives() {
    let etcd = Etcd::start();
    let named_by_host = |port: &str| {
        let args = ["--service", "web", "--port", port, "--check", "none", "--address", "127.0.0.1"];
        Registrar::run_as(&etcd.endpoint, &args, Stdio::inherit())
    };
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let key = format!("instances/web/{host}");
    let first = named_by_host("5001");
    etcd.until_state(&key, "up");
    let second = named_by_host("5002");
    second.until_logged("lives: not registered before its lease has missed a beat");
    assert_eq!(port_of(&etcd, &host).unwrap(), "5001");
    first.kill();
    until("the second has the name", || (port_of(&etcd, &host)? == "5002").then_some(()));
}

#[test]
fn twenty_that_start_at_once_get_twenty_names() {
    let etcd = Etcd::start();
    let registrars: Vec<_> = (0..20).map(|n| numbered(&etcd, &(6_000 + n).to_string())).collect();
    until("all are registered", || {
        let keys = etcd.ctl(&["get", "--prefix", "--keys-only", "/leasehold/v1/instances/web/"]);
        (keys.split_whitespace().count() == 20).then_some(())
    });
    let mut ports: Vec<_> = (1..=20).map(|n| port_of(&etcd, &format!("web-{n}")).unwrap()).collect();
    ports.sort();
    assert_eq!(ports, (6_000..6_020).map(|port| port.to_string()).collect::<Vec<_>>());
    drop(registrars);
}

#[test]
fn two_services_stand_under_one_lease_and_leave_together() {
    let etcd = Etcd::start();
    let (_listener, port) = app_port();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("leasehold.toml");
    let text = format!(
        "[[service]]\nname = \"web\"\nport = {port}\ninstance = \"a\"\n\n\
         [[service]]\nname = \"admin\"\nport = {port}\nweight = 7\nlabels = {{ zone = \"b\" }}\ninstance = \"auto\"\n"
    );
    std::fs::write(&file, text).unwrap();
    let args = ["--config", file.to_str().unwrap(), "--interval", "50ms", "--address", "lo"];
    let mut registrar = Registrar::run_as(&etcd.endpoint, &args, Stdio::inherit());
    etcd.until_state("instances/web/a", "up");
    etcd.until_state("instances/admin/admin-1", "up");
    let record = etcd.record("instances/admin/admin-1").unwrap();
    assert_eq!((&record["weight"], &record["labels"]), (&json!(7), &json!({"zone": "b"})));
    assert_eq!(record["address"], "127.0.0.1", "an interface's");
    etcd.only_lease();
    registrar.until_probe("", 0);
    assert_eq!([registrar.probe("web"), registrar.probe("admin"), registrar.probe("registry")], [0, 0, 0]);

    let metrics = registrar.get("/metrics");
    for line in [
        r#"leasehold_registrar_registered{name="a",service="web"} 1"#,
        r#"leasehold_registrar_registered{name="admin-1",service="admin"} 1"#,
        r#"leasehold_registrar_lease_held{name="admin-1",service="admin"} 1"#,
    ] {
        assert!(metrics.lines().any(|one| one == line), "{line} is not in {metrics}");
    }

    registrar.signal(Signal::SIGTERM);
    assert_eq!(registrar.until_ended().code(), Some(0));
    assert_eq!(etcd.leases(), [""; 0]);
}
