//! A running `registrar`, its log, and the scripts it runs as apps.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::until;

/// The binary under test.
pub(crate) const REGISTRAR: &str = env!("CARGO_BIN_EXE_registrar");

/// A running registrar; it is killed with the test, however that ends.
pub(crate) struct Registrar {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

/// A port that takes connections: what the registrar checks.
pub(crate) fn app_port() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    (listener, port)
}

impl Registrar {
    /// `registrar run` for `web/web-1`, with quick checks, and `args` more.
    pub(crate) fn run(endpoint: &str, port: &str, args: &[&str]) -> Self {
        let of_web_1 = ["--service", "web", "--instance", "web-1", "--port", port, "--interval", "50ms"];
        Self::run_as(endpoint, &[&of_web_1[..], args].concat(), Stdio::inherit())
    }

    /// `registrar run` with `args`, its output to `stdout`.
    pub(crate) fn run_as(endpoint: &str, args: &[&str], stdout: Stdio) -> Self {
        let mut child = Command::new(REGISTRAR)
            .args(["run", "--ttl", "5s", "--listen", "127.0.0.1:0", "--log-format", "json"])
            .args(["--etcd-endpoints", endpoint])
            .args(args)
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(vec![]));
        let lines = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        Self { child, log }
    }

    /// The first line of the log that holds `text`, once it is there.
    pub(crate) fn until_logged(&self, text: &str) -> Value {
        let line = until(&format!("{text:?} is logged"), || {
            self.log.lock().unwrap().iter().find(|line| line.contains(text)).cloned()
        });
        serde_json::from_str(&line).unwrap()
    }

    /// Whether the log holds `text` so far.
    pub(crate) fn has_logged(&self, text: &str) -> bool {
        self.log.lock().unwrap().iter().any(|line| line.contains(text))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Its exit status, once it has ended.
    pub(crate) fn until_ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        let log = &self.log;
        until(&format!("the registrar ends; its log: {:#?}", log.lock().unwrap()), || {
            child.try_wait().unwrap()
        })
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Where it serves health.
    pub(crate) fn health_addr(&self) -> SocketAddr {
        let started = self.until_logged("registrar started");
        started["listen"].as_str().unwrap().parse().unwrap()
    }

    /// What it answers to a GET of `path` on its port, head and body.
    pub(crate) fn get(&self, path: &str) -> String {
        let addr = self.health_addr();
        let mut stream = TcpStream::connect(addr).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// The exit code of `registrar probe` for `service`.
    pub(crate) fn probe(&self, service: &str) -> i32 {
        let addr = self.health_addr().to_string();
        let output =
            Command::new(REGISTRAR).args(["probe", "--addr", &addr, "--service", service]).output().unwrap();
        output.status.code().unwrap()
    }

    /// Waits until the probe for `service` exits with `code`.
    pub(crate) fn until_probe(&self, service: &str, code: i32) {
        until(&format!("the probe of {service:?} gives {code}"), || {
            (self.probe(service) == code).then_some(())
        });
    }
}

impl Drop for Registrar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("the registrar's log:\n{}", self.log.lock().unwrap().join("\n"));
        }
    }
}

/// A script that says `started` in `dir`, on TERM says `term`, waits for the file `go`, and exits with `code`. It
/// ends by itself when the file `end` is there, or when `dir` is gone with the test.
pub(crate) fn app_script(dir: &Path, code: u8) -> String {
    let dir = dir.display();
    format!(
        "trap 'touch {dir}/term; while [ -d {dir} ] && [ ! -e {dir}/go ]; do sleep 0.02; done; exit {code}' TERM; \
         touch {dir}/started; while [ -d {dir} ] && [ ! -e {dir}/end ]; do sleep 0.02; done; exit {code}"
    )
}
