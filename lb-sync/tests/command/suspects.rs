use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::app;
use super::fixture::Fixture;
use testkit::blocking::{WITHIN, free_port, until};

/// What the status port answers to a GET.
fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(WITHIN)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn suspects_are_told_by_explain_plan_metrics_page_and_events() {
    let fixture = Fixture::start("");
    let apps: Vec<_> = (0..3).map(|_| app()).collect();
    let leases: Vec<String> =
        (1..=3).zip(&apps).map(|(n, (_, port))| fixture.put_leased(&format!("web/web-{n}"), *port)).collect();
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let _running = fixture.run(&["--listen", &listen], &[]);
    until("all serve", || {
        get_ok(port, "leasehold_lb_instances{reason=\"registered\",service=\"web\",state=\"up\"} 3")
    });
    for lease in &leases {
        fixture.etcd.ctl(&["lease", "revoke", lease]);
    }
    until("all are suspects", || get_ok(port, "leasehold_lb_suspects{service=\"web\"} 3"));
    // Those that were believed gone at first are put back, and start down.
    let up = "leasehold_lb_instances{reason=\"suspect\",service=\"web\",state=\"up\"} 3";
    until("all are up", || get_ok(port, up));

    let listen: &[&str] = &["--listen", &listen];
    fixture.say("explain", &[&["web/web-1"], listen].concat()).is(
        0,
        &[
            "web/web-1 was registered at",
            "kept as a suspect",
            "It gets traffic: it has expired with much",
            "There is nothing to do.",
            "added: it is registered and up",
        ],
    );
    fixture.say("plan", listen).is(0, &["nothing to do"]);
    let page = get(port, "/");
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("suspect, "), "{page}");
    let events = get(port, "/events");
    assert!(events.contains("\"what\":\"added\"") && events.contains("add server web/web-1"), "{events}");

    // It is said when another one answers, or none.
    let elsewhere = format!("127.0.0.1:{}", free_port());
    fixture.say("plan", &["--listen", &elsewhere]).is(2, &["not registered", "note: no lb-sync answers at"]);
    fixture
        .say("plan", &[listen, &["--balancer", "other"]].concat())
        .is(2, &["is that of balancer b, not of other"]);
    fixture
        .say("explain", &["web/web-1"])
        .is(0, &["as a suspect is not known: no running lb-sync was asked"]);
}

fn get_ok(port: u16, line: &str) -> Option<()> {
    TcpStream::connect(("127.0.0.1", port)).ok()?;
    get(port, "/metrics").lines().any(|one| one == line).then_some(())
}
