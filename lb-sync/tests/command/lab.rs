//! A real etcd and a real HAProxy in a folder of their own; all that is started here ends with its guard.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Longest that anything here may take.
pub(crate) const WITHIN: Duration = Duration::from_secs(30);

/// A process, killed when its guard goes.
pub(crate) struct Guard(Child);

impl Guard {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }

    /// TERM, and its exit code.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGTERM).unwrap();
        until("the process ends", || self.0.try_wait().unwrap()).code()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a command said, and how it ended.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// Fails unless it ended so, and said all of `parts`.
    #[track_caller]
    pub(crate) fn is(&self, code: i32, parts: &[&str]) -> &Self {
        let Self { out, err, .. } = self;
        assert_eq!(self.code, code, "{out}{err}");
        for part in parts {
            assert!(out.contains(part) || err.contains(part), "{part:?} is not in:\n{out}{err}");
        }
        self
    }
}

/// etcd and HAProxy.
pub(crate) struct Lab {
    folder: TempDir,
    pub(crate) etcd: String,
    _haproxy: Guard,
    _etcd: Guard,
}

impl Lab {
    /// Starts both. HAProxy has the backends `web` and `empty`, and `more` of its configuration.
    pub(crate) fn start(more: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("lb-sync-").tempdir().unwrap();
        let (etcd, url) = etcd(folder.path());
        let haproxy = haproxy(folder.path(), more);
        let lab = Self { folder, etcd: url, _haproxy: haproxy, _etcd: etcd };
        until("etcd answers", || lab.etcdctl_try(&["get", "x"]).status.success().then_some(()));
        until("HAProxy answers", || UnixStream::connect(lab.socket("admin")).ok());
        lab
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn socket(&self, level: &str) -> PathBuf {
        self.folder.path().join(format!("{level}.sock"))
    }

    /// Runs `etcdctl`.
    #[track_caller]
    pub(crate) fn etcdctl(&self, args: &[&str]) {
        let output = self.etcdctl_try(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn etcdctl_try(&self, args: &[&str]) -> Output {
        let mut etcdctl = Command::new("etcdctl");
        etcdctl.env("ETCDCTL_API", "3").args(["--endpoints", &self.etcd, "--command-timeout", "5s"]);
        etcdctl.args(args).output().unwrap()
    }

    /// Writes an instance's record.
    pub(crate) fn put(&self, id: &str, record: &str) {
        self.etcdctl(&["put", &format!("/leasehold/v1/instances/{id}"), record]);
    }

    /// Writes the record of an instance that is at `port` of loopback, with `more` fields.
    pub(crate) fn put_at(&self, id: &str, port: u16, more: &str) {
        self.put(id, &format!(r#"{{"address":"127.0.0.1","port":{port}{more}}}"#));
    }

    /// Gives `id` a record under a lease of its own, whose id is returned.
    pub(crate) fn put_leased(&self, id: &str, port: u16) -> String {
        let granted = self.etcdctl_try(&["lease", "grant", "600"]);
        let granted = String::from_utf8(granted.stdout).unwrap();
        let lease = granted.split_whitespace().nth(1).unwrap().to_owned();
        let (key, record) =
            (format!("/leasehold/v1/instances/{id}"), format!(r#"{{"address":"127.0.0.1","port":{port}}}"#));
        self.etcdctl(&["put", &key, &record, "--lease", &lease]);
        lease
    }

    /// HAProxy's answer to one command.
    pub(crate) fn ask(&self, command: &str) -> String {
        let mut stream = UnixStream::connect(self.socket("admin")).unwrap();
        stream.set_read_timeout(Some(WITHIN)).unwrap();
        writeln!(stream, "{command}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// `lb-sync VERB` with the options of this lab, and `args`, which win.
    fn lb_sync(&self, verb: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lb-sync"));
        let socket = self.socket("admin");
        let defaults = [
            ("--etcd-endpoints", &*self.etcd),
            ("--haproxy-socket", socket.to_str().unwrap()),
            ("--listen", "127.0.0.1:0"),
            ("--balancer", "b"),
            ("--check-interval", "100ms"),
        ];
        command.arg(verb).args(args);
        for (flag, value) in defaults.into_iter().filter(|(flag, _)| !args.contains(flag)) {
            command.args([flag, value]);
        }
        command
    }

    /// Runs `lb-sync VERB` to its end.
    pub(crate) fn say(&self, verb: &str, args: &[&str]) -> Said {
        self.said(self.lb_sync(verb, args))
    }

    /// Runs `lb-sync probe`, which needs no etcd and no HAProxy.
    pub(crate) fn probe(&self, args: &[&str]) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lb-sync"));
        command.arg("probe").args(args);
        self.said(command)
    }

    fn said(&self, mut command: Command) -> Said {
        let (out, err) = (self.folder().join("out"), self.folder().join("err"));
        let to = |path| Stdio::from(fs::File::create(path).unwrap());
        let mut running = Guard::start(command.stdout(to(&out)).stderr(to(&err)));
        let code = until("lb-sync ends", || running.0.try_wait().unwrap()).code().unwrap();
        Said { code, out: fs::read_to_string(&out).unwrap(), err: fs::read_to_string(&err).unwrap() }
    }

    /// Starts `lb-sync run`.
    pub(crate) fn run(&self, args: &[&str], env: &[(&str, &str)]) -> Guard {
        let log = Stdio::from(fs::File::create(self.folder().join("lb-sync.log")).unwrap());
        Guard::start(self.lb_sync("run", args).envs(env.iter().copied()).stderr(log))
    }

    /// Runs `lb-sync run` until `plan` finds nothing to do.
    pub(crate) fn settle(&self) -> Guard {
        let running = self.run(&[], &[]);
        until("there is nothing left to do", || (self.say("plan", &[]).code == 0).then_some(()));
        running
    }
}

fn etcd(folder: &Path) -> (Guard, String) {
    let [client, peer] = [free_port(), free_port()].map(|port| format!("http://127.0.0.1:{port}"));
    let log = Stdio::from(fs::File::create(folder.join("etcd.log")).unwrap());
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(folder.join("etcd"));
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("default={peer}"), "--logger", "zap"]);
    (Guard::start(command.stdout(Stdio::null()).stderr(log)), client)
}

fn haproxy(folder: &Path, more: &str) -> Guard {
    let path = folder.display();
    let config = format!(
        "global\n stats socket {path}/admin.sock mode 600 level admin\n \
         stats socket {path}/open.sock mode 666 level admin\n \
         stats socket {path}/operator.sock mode 600 level operator\n\
         defaults\n mode http\n timeout connect 1s\n timeout client 5s\n timeout server 5s\n\
         backend web\n balance leastconn\nbackend empty\n{more}\n"
    );
    fs::write(folder.join("haproxy.cfg"), config).unwrap();
    let mut command = Command::new("haproxy");
    command.args(["-db", "-f", "haproxy.cfg"]).current_dir(folder);
    Guard::start(command.stdout(Stdio::null()).stderr(Stdio::null()))
}

/// A port below those that the kernel gives to outgoing connections, such that no other process's connection is in
/// its way a moment later.
pub(crate) fn free_port() -> u16 {
    (0..1_000)
        .map(|_| 14_000 + fastrand::u16(..6_000))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
}

/// What `look` sees once it sees something.
#[expect(clippy::disallowed_methods, reason = "a test of processes waits for them by the clock")]
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    while start.elapsed() < WITHIN {
        if let Some(seen) = look() {
            return seen;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("not within {WITHIN:?}: {what}");
}
