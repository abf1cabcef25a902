use std::fs;
use std::net::TcpListener;

use super::app;
use super::fixture::Fixture;

#[test]
fn all_well_is_told_line_by_line() {
    let fixture = Fixture::start("");
    let (_app, port) = app();
    fixture.etcd.put_instance("web/web-1", port, "");
    let said = fixture.say("check", &["--state-dir", fixture.folder().to_str().unwrap()]);
    said.is(
        0,
        &[
            "ok       configuration: balancer b, keys below /leasehold/v1",
            "may read instances/, overrides/ and balancers/, and write balancers/b and acks/b/",
            "ok       registry: 1 instance of 1 service",
            "admin.sock: level admin, mode 600, of ",
            "ok       HAProxy version: ",
            "ok       backends: of a registered service: web; of no registered service: empty",
            "ok       status port: 127.0.0.1:0 is free",
            "ok       state directory: may write to ",
        ],
    );
    assert!(said.out.lines().all(|line| line.starts_with("ok ")), "{}", said.out);
    assert!(!fixture.ask("show servers state").contains("lb-sync.check"), "nothing is left in HAProxy");
    let left = fixture.etcd.ctl(&["get", "--prefix", "--keys-only", "/leasehold/v1/balancers"]);
    assert_eq!(left.trim(), "", "nothing is left in etcd");

    let json = fixture.say("check", &["--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json.is(0, &[]).out).unwrap();
    assert_eq!((&json["ok"], &json["checks"][0]["outcome"]), (&true.into(), &"ok".into()));
}

#[test]
fn a_socket_that_will_not_do_is_told_with_its_remedy() {
    let fixture = Fixture::start("");
    let with =
        |level: &str| fixture.say("check", &["--haproxy-socket", fixture.socket(level).to_str().unwrap()]);
    with("operator")
        .is(1, &["failed   HAProxy socket: ", "level `operator`", "-> set `level admin` on `stats socket`"]);
    with("missing")
        .is(1, &["failed   HAProxy socket: ", "no such socket -> HAProxy makes it when it starts"]);
    with("open")
        .is(0, &["warning  HAProxy socket: ", "mode 666", "everybody on this host may command HAProxy"]);
    fs::write(fixture.socket("file"), "").unwrap();
    with("file").is(1, &["failed   HAProxy socket: ", "is not a socket"]);
}

#[test]
fn each_endpoint_of_etcd_is_asked_by_itself() {
    let fixture = Fixture::start("");
    let endpoints = format!("{},http://127.0.0.1:1", fixture.etcd.endpoint);
    let answers = format!("ok       etcd {}: ", fixture.etcd.endpoint);
    fixture
        .say("check", &["--etcd-endpoints", &endpoints])
        .is(1, &[&answers, "failed   etcd http://127.0.0.1:1: cannot", "ok       registry: "]);
    fixture.say("check", &["--etcd-endpoints", "here"]).is(1, &["failed   configuration: "]);
}

#[test]
fn a_wrong_password_and_a_missing_right_are_told_apart() {
    let fixture = Fixture::start("");
    let setup: [&[&str]; 8] = [
        &["user", "add", "root:r"],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "lb:secret"],
        &["role", "add", "lb"],
        &["role", "grant-permission", "lb", "--prefix=true", "read", "/leasehold/v1/"],
        &["role", "grant-permission", "lb", "--prefix=true", "readwrite", "/leasehold/v1/balancers/"],
        &["user", "grant-role", "lb", "lb"],
        &["auth", "enable"],
    ];
    // A cluster that has just been started may not have its root role yet.
    fixture.etcd.ctl(&["role", "add", "root"]);
    for args in setup {
        fixture.etcd.ctl(args);
    }
    let password = fixture.folder().join("password");
    let check = |text: &str| {
        fs::write(&password, text).unwrap();
        fixture.say("check", &["--etcd-user", "lb", "--etcd-password-file", password.to_str().unwrap()])
    };
    check("wrong").is(1, &["failed   etcd http", "invalid user ID or password", "-> check --etcd-user"]);
    check("secret\n").is(1, &["answers, logged in as lb", "permission denied -> grant this user's role"]);
    let acks = ["role", "grant-permission", "lb", "--prefix=true", "readwrite", "/leasehold/v1/acks/b/"];
    fixture.etcd.ctl(&[&["--user", "root:r"], &acks[..]].concat());
    check("secret\n").is(0, &["answers, logged in as lb", "and write balancers/b and acks/b/"]);
    fixture.say("check", &[]).is(1, &["this etcd asks for a login"]);
    fixture.say("plan", &[]).is(78, &["this etcd asks for a login"]);
}

#[test]
fn backends_that_cannot_be_served_are_found() {
    let fixture = Fixture::start(
        "backend api\n balance static-rr\nbackend old\n balance source\n server old-1 127.0.0.1:9",
    );
    let (_app, port) = app();
    fixture.etcd.put_instance("api/api-1", port, "");
    fixture.etcd.put_instance("lost/lost-1", port, "");
    fixture.etcd.put_instance("old/old-1", port, "");
    fixture.put("web/odd", "nonsense");
    let said = fixture.say("check", &[]);
    said.is(
        1,
        &[
            "warning  registry: 3 instances of 3 services",
            "ignored: /leasehold/v1/instances/web/odd (",
            "warning  backends: registered services without a backend here: lost",
            "failed   backends: the balance algorithm takes no servers while HAProxy runs: api, old -> use roundrobin",
            "warning  backends: instances with a server of their name that lb-sync did not make: old/old-1",
        ],
    );
}

#[test]
fn a_status_port_in_use_is_fine_only_if_it_is_lb_syncs() {
    let fixture = Fixture::start("");
    let (taken, port) = app();
    let listen = format!("127.0.0.1:{port}");
    fixture.say("check", &["--listen", &listen]).is(1, &["failed   status port: cannot listen on"]);
    drop(taken);
    let _running = fixture.run(&["--listen", &listen], &[]);
    testkit::blocking::until("it listens", || TcpListener::bind(&listen).is_err().then_some(()));
    fixture.say("check", &["--listen", &listen]).is(0, &["ok       status port: an lb-sync runs at"]);
}
