//! Nothing is left behind: no process, no zombie, no lease, however often and however it is started, stopped and killed.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::etcd::Etcd;
use crate::program::REGISTRAR;
use crate::until;

/// Starts, in all.
const ROUNDS: usize = 200;
/// Stands in the environment of everything that a round starts.
const MARK: &str = "LEASEHOLD_LEFTOVERS";

/// A registrar as process 1 of its own, as in a container: what it does not reap stays a zombie, and what it leaves behind
/// ends only with it.
struct Container {
    /// `unshare`, which waits for it.
    outside: Child,
    registrar: Pid,
}

impl Container {
    fn start(etcd: &Etcd, dir: &Path) -> Self {
        let path = dir.display();
        // An app with a child of its own, and an orphan, which process 1 inherits.
        let app = format!("(sleep 600 & ) ; (sleep 0.01 & ) ; touch {path}/started; exec sleep 600");
        let outside = Command::new("unshare")
            .args(["--map-root-user", "--user", "--pid", "--fork", "--kill-child", "--mount-proc", REGISTRAR])
            .args(["run", "--service=web", "--instance=web-1", "--port=1", "--check=none", "--ttl=2s"])
            .args(["--address=127.0.0.1", "--listen=127.0.0.1:0", "--etcd-endpoints", &etcd.endpoint])
            .arg("--config")
            .arg(dir.join("leasehold.toml"))
            .args(["--", "sh", "-c", &app])
            .env(MARK, dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("unshare is installed");
        let registrar = until("there is a registrar", || children(outside.id()).into_iter().next());
        until("the app is started", || dir.join("started").exists().then_some(()));
        Self { outside, registrar: Pid::from_raw(registrar.try_into().unwrap()) }
    }

    fn signal(&self, signal: Signal) {
        // Gone already, where an earlier signal was quick.
        let _ = kill(self.registrar, signal);
    }

    fn until_ended(mut self) {
        until("it has ended", || self.outside.try_wait().unwrap());
    }
}

fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Processes with our mark, and those whose parent is `parent` and that are not reaped.
fn marked(dir: &Path) -> Vec<u32> {
    let mark = format!("{MARK}={}", dir.display());
    let pids =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let has_mark = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|one| one == mark.as_bytes())
    };
    pids.filter(has_mark).collect()
}

fn zombies_below(pid: u32) -> usize {
    let dead = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
    };
    children(pid).iter().filter(|pid| dead(pid)).count()
}

#[test]
fn two_hundred_starts_stops_and_kills_leave_nothing_behind() {
    let etcd = Etcd::start();
    let dir = tempfile::tempdir().unwrap();
    let side = "[[side]]\nname = \"side\"\ncommand = [\"sleep\", \"600\"]\n";
    fs::write(dir.path().join("leasehold.toml"), side).unwrap();
    for round in 0..ROUNDS {
        let _ = fs::remove_file(dir.path().join("started"));
        let container = Container::start(&etcd, dir.path());
        let pid = container.registrar.as_raw().unsigned_abs();
        until("the orphan that has ended is reaped", || (zombies_below(pid) == 0).then_some(()));
        match round % 5 {
            0 => container.signal(Signal::SIGTERM),
            1 => {
                container.signal(Signal::SIGTERM);
                container.signal(Signal::SIGTERM);
            }
            // The app, or the process beside it, which is started again.
            2 | 3 => {
                let below = children(pid);
                if let Some(one) = below.get(round % below.len().max(1)) {
                    let _ = kill(Pid::from_raw((*one).try_into().unwrap()), Signal::SIGKILL);
                }
                container.signal(Signal::SIGTERM);
            }
            _ => container.signal(Signal::SIGKILL),
        }
        container.until_ended();
        until("no process is left", || marked(dir.path()).is_empty().then_some(()));
    }
    // Those of the killed ones end with their ttl.
    until("no lease is left", || etcd.leases().is_empty().then_some(()));
    assert_eq!(etcd.record("instances/web/web-1"), None);
}
