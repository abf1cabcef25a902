//! A real etcd and a real HAProxy in a folder of their own; all that is started here ends with its guard.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use testkit::blocking::{Etcd, Guard, ask, until};

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
pub(crate) struct Fixture {
    folder: TempDir,
    pub(crate) etcd: Etcd,
    _haproxy: Guard,
}

impl Fixture {
    /// Starts both. HAProxy has the backends `web` and `empty`, and `more` of its configuration.
    pub(crate) fn start(more: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("lb-sync-").tempdir().unwrap();
        let haproxy = haproxy(folder.path(), more);
        let fixture = Self { folder, etcd: Etcd::start(), _haproxy: haproxy };
        until("HAProxy answers", || UnixStream::connect(fixture.socket("admin")).ok());
        fixture
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn socket(&self, level: &str) -> PathBuf {
        self.folder.path().join(format!("{level}.sock"))
    }

    /// Writes an instance's record.
    pub(crate) fn put(&self, id: &str, record: &str) {
        self.etcd.put(&format!("instances/{id}"), record);
    }

    /// Gives `id` a record under a lease of its own, whose id is returned.
    pub(crate) fn put_leased(&self, id: &str, port: u16) -> String {
        let granted = self.etcd.ctl(&["lease", "grant", "600"]);
        let lease = granted.split_whitespace().nth(1).unwrap().to_owned();
        let (key, record) =
            (format!("/leasehold/v1/instances/{id}"), format!(r#"{{"address":"127.0.0.1","port":{port}}}"#));
        self.etcd.ctl(&["put", &key, &record, "--lease", &lease]);
        lease
    }

    /// HAProxy's answer to one command.
    pub(crate) fn ask(&self, command: &str) -> String {
        ask(&self.socket("admin"), command).unwrap()
    }

    /// `lb-sync VERB` with the options of this fixture, and `args`, which win.
    fn lb_sync(&self, verb: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lb-sync"));
        let socket = self.socket("admin");
        let defaults = [
            ("--etcd-endpoints", &*self.etcd.endpoint),
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
        let code = running.wait().code().unwrap();
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
