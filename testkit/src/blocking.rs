//! For tests of one binary that wait by the clock, without a runtime: processes that end with their guard, an etcd spoken
//! to by `etcdctl`, HAProxy's socket, and ports of a block of this process's own.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::port::{Ports, loopback};
use crate::{PREFIX, program};

/// Longest that anything here may take; a test that reaches it has failed.
pub const WITHIN: Duration = Duration::from_secs(30);
/// Between two looks at something that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A process and its children, killed when its guard goes.
#[derive(Debug)]
pub struct Guard(Child);

impl Guard {
    /// Starts it in a process group of its own.
    pub fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).process_group(0).spawn().unwrap())
    }

    /// The process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        until("the process ends", || self.0.try_wait().unwrap())
    }

    /// TERM, and its exit code.
    #[track_caller]
    pub fn terminate(mut self) -> Option<i32> {
        kill(self.pid(), Signal::SIGTERM).unwrap();
        self.wait().code()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).unwrap())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = killpg(self.pid(), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// An etcd of the test's own.
#[derive(Debug)]
pub struct Etcd {
    /// `http://127.0.0.1:PORT`.
    pub endpoint: String,
    _running: Guard,
    _data: TempDir,
}

impl Etcd {
    /// One that answers.
    #[track_caller]
    pub fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let (endpoint, peer) = (free_url(), free_url());
        let mut command = Command::new(program::system("etcd").unwrap());
        command.arg("--data-dir").arg(data.path());
        command.args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}"), "--logger", "zap"]);
        let running = Guard::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
        let etcd = Self { endpoint, _running: running, _data: data };
        until("etcd answers", || etcd.try_ctl(&["endpoint", "health"]).status.success().then_some(()));
        etcd
    }

    /// The output of an `etcdctl` that is to succeed.
    #[track_caller]
    pub fn ctl(&self, args: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.try_ctl(args);
        assert!(status.success(), "etcdctl {args:?}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }

    /// An `etcdctl` with these arguments, to be run.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut etcdctl = Command::new(program::system("etcdctl").unwrap());
        etcdctl.env("ETCDCTL_API", "3").args(["--endpoints", &self.endpoint, "--command-timeout", "5s"]);
        etcdctl.args(args);
        etcdctl
    }

    fn try_ctl(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Writes `value` at `key` below the prefix, under no lease.
    #[track_caller]
    pub fn put(&self, key: &str, value: &str) {
        self.ctl(&["put", &format!("{PREFIX}/{key}"), value]);
    }

    /// Writes the record of an instance that is at `port` of loopback, with `more` fields.
    #[track_caller]
    pub fn put_instance(&self, id: &str, port: u16, more: &str) {
        self.put(&format!("instances/{id}"), &format!(r#"{{"address":"127.0.0.1","port":{port}{more}}}"#));
    }
}

/// HAProxy's answer to one command on its runtime socket.
pub fn ask(socket: &Path, command: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(WITHIN))?;
    writeln!(stream, "{command}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A port that is this process's alone.
#[track_caller]
pub fn free_port() -> u16 {
    static PORTS: LazyLock<Ports> = LazyLock::new(|| Ports::claim().unwrap());
    PORTS.free().unwrap()
}

/// The URL of a [`free_port`].
#[track_caller]
pub fn free_url() -> String {
    format!("http://{}", loopback(free_port()))
}

/// What `look` sees once it sees something; `what` completes "not within 30 s:".
#[expect(clippy::disallowed_methods, reason = "a test of processes waits for them by the clock")]
#[track_caller]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    while start.elapsed() < WITHIN {
        if let Some(seen) = look() {
            return seen;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    panic!("not within {WITHIN:?}: {what}");
}
