//! The binary ends when it is told to, whatever is missing.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longest wait: above the deadline of a call to etcd that is under way.
const END_MAX: Duration = Duration::from_secs(10);

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn told_to_stop_it_ends_without_etcd_without_haproxy_and_with_nobody_reading_its_log() {
    let args = "run --listen 127.0.0.1:0 --balancer b --haproxy-socket /no/such.sock";
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb-sync"));
    command.args(args.split(' ')).args(["--etcd-endpoints", "http://127.0.0.1:1"]);
    let mut running = Killed(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut log = BufReader::new(running.0.stderr.take().unwrap());
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    // Whoever read the log is gone: each further line meets a closed pipe.
    drop(log);
    kill(Pid::from_raw(i32::try_from(running.0.id()).unwrap()), Signal::SIGTERM).unwrap();
    let code = until(END_MAX, || running.0.try_wait().unwrap());
    assert_eq!(code.and_then(|status| status.code()), Some(0));
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

#[expect(clippy::disallowed_methods, reason = "a test of a process waits for it by the clock")]
fn until<T>(bound: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    while start.elapsed() < bound {
        if let Some(seen) = look() {
            return Some(seen);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}
