use std::os::unix::net::UnixDatagram;

use super::fixture::Fixture;
use testkit::blocking::{WITHIN, until};

/// Receives until a message has come that holds all of `parts`.
#[track_caller]
fn heard(manager: &UnixDatagram, parts: &[&str]) {
    until(parts.first().unwrap(), || {
        let mut bytes = [0; 4096];
        let length = manager.recv(&mut bytes).unwrap();
        let message = String::from_utf8_lossy(&bytes[..length]);
        parts.iter().all(|part| message.contains(part)).then_some(())
    });
}

#[test]
fn the_service_manager_hears_that_it_is_ready_that_it_lives_and_that_it_stops() {
    let fixture = Fixture::start("");
    let path = fixture.folder().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(WITHIN)).unwrap();
    let env = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "1000000")];

    let running = fixture.run(&[], &env);
    heard(&manager, &["READY=1\n", "in sync with etcd; 0 instances\n"]);
    heard(&manager, &["WATCHDOG=1\n"]);
    assert_eq!(running.terminate(), Some(0));
    heard(&manager, &["STOPPING=1\n"]);

    // With neither etcd nor HAProxy a start is not held up for long, and the pass goes on.
    let unreachable = ["--etcd-endpoints", "http://127.0.0.1:1", "--haproxy-socket", "/no/such.sock"];
    let _running = fixture.run(&unreachable, &env);
    heard(&manager, &["STATUS=HAProxy does not answer; out of sync with etcd"]);
    heard(&manager, &["READY=1\n"]);
    heard(&manager, &["WATCHDOG=1\n"]);
}
