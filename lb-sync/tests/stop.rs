//! The binary ends when it is told to, whatever is missing.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use testkit::blocking::Guard;

#[test]
fn told_to_stop_it_ends_without_etcd_without_haproxy_and_without_a_reader_of_its_log() {
    let args = "run --listen 127.0.0.1:0 --balancer b --haproxy-socket /no/such.sock";
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb-sync"));
    command.args(args.split(' ')).args(["--etcd-endpoints", "http://127.0.0.1:1"]);
    let mut running = Guard::start(command.stderr(Stdio::piped()));
    let mut log = BufReader::new(running.child().stderr.take().unwrap());
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    // The reader of the log is gone: each further line meets a closed pipe.
    drop(log);
    assert_eq!(running.terminate(), Some(0));
}

#[test]
fn a_malformed_log_filter_is_78_and_says_what_to_write() {
    for (flag, variable) in [(Some("--log=loud=very"), "info"), (None, "lb_sync=loud")] {
        let bad = Command::new(env!("CARGO_BIN_EXE_lb-sync"))
            .args(["run", "--listen=127.0.0.1:0", "--haproxy-socket=/no/such.sock"])
            .args(flag)
            .env("LEASEHOLD_LOG", variable)
            .output()
            .unwrap();
        let said = String::from_utf8(bad.stderr).unwrap();
        assert_eq!(bad.status.code(), Some(78), "{said}");
        assert!(said.contains("LEASEHOLD_LOG") && said.contains("write a level"), "{said}");
    }
}
