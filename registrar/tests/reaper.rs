//! The reaper, with real children. In a process of its own: it waits for every child there is.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by a panic, helpers included"
)]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use registrar::supervise::{Exit, Processes, SpawnError, start};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// One reaper at a time: two would take each other's children.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs `test` with a reaper of its own, then looks that no child of ours is left, dead or alive.
fn with_reaper(test: impl AsyncFnOnce(Processes)) {
    let _alone: MutexGuard<'_, ()> = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (processes, reaping) = start().unwrap();
        let reaping = tokio::spawn(reaping);
        tokio::time::timeout(PATIENCE, test(processes)).await.expect("the test ends in time");
        until("no child is left", || children().is_empty().then_some(())).await;
        reaping.await.unwrap();
    });
}

async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(seen) = look() {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking)
        .await
        .unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}

/// The process ids of our children, zombies included.
fn children() -> Vec<u32> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let of_task = |task: std::io::Result<fs::DirEntry>| {
        // A thread may end between the listing and the reading.
        let path = task.ok()?.path().join("children");
        fs::read_to_string(path).ok()
    };
    tasks
        .filter_map(of_task)
        .flat_map(|text| text.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>())
        .collect()
}

fn sh(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

/// The process id that a script wrote to `path`.
async fn pid_in(path: &Path) -> u32 {
    until("the script wrote its id", || fs::read_to_string(path).ok()?.trim().parse().ok()).await
}

async fn until_no_process(pid: u32) {
    until("it is gone, and no zombie", || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())).await;
}

#[test]
fn a_childs_end_is_told_by_code_or_by_signal() {
    with_reaper(async |processes| {
        for (script, expected) in [
            ("exit 0", Exit::Code(0)),
            ("exit 7", Exit::Code(7)),
            ("exit 255", Exit::Code(255)),
            ("kill -TERM $$", Exit::Signal(15)),
            ("kill -KILL $$", Exit::Signal(9)),
        ] {
            let child = processes.spawn(sh(script)).await.unwrap();
            assert_eq!(child.exit.await, Ok(expected), "{script}");
        }
    });
    assert_eq!((Exit::Code(7).code(), Exit::Signal(15).code()), (7, 143));
    assert_eq!(Exit::Signal(15).to_string(), "was ended by SIGTERM");
}

#[test]
fn many_that_end_together_are_all_told() {
    with_reaper(async |processes| {
        let mut children = vec![];
        for code in 0..50_u8 {
            children.push((code, processes.spawn(sh(&format!("exit {code}"))).await.unwrap()));
        }
        for (code, child) in children {
            assert_eq!(child.exit.await, Ok(Exit::Code(code)));
        }
    });
}

#[test]
fn the_zombie_of_a_stranger_is_reaped() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    with_reaper(async |processes| {
        // Its parent ends before it does, and it is in a group and session of its own: it is not known.
        let script = format!("(setsid sh -c 'echo $$ > {}; exit 3' &); exec sleep 1000", file.display());
        let child = processes.spawn(sh(&script)).await.unwrap();
        until_no_process(pid_in(&file).await).await;
        processes.signal(child.pid, Signal::SIGTERM).await;
        assert_eq!(child.exit.await, Ok(Exit::Signal(15)));
    });
}

#[test]
fn what_is_left_of_the_group_is_killed_with_its_leader() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    with_reaper(async |processes| {
        let script = format!(
            "sh -c 'trap \"\" TERM; echo $$ > {0}; while :; do sleep 1; done' & until [ -s {0} ]; do :; done; exit 3",
            file.display()
        );
        let child = processes.spawn(sh(&script)).await.unwrap();
        assert_eq!(child.exit.await, Ok(Exit::Code(3)));
        processes.settled(PATIENCE).await;
        let left = pid_in(&file).await;
        assert!(!Path::new(&format!("/proc/{left}")).exists());
    });
}

#[test]
fn a_signal_reaches_the_group_and_never_one_that_is_gone() {
    with_reaper(async |processes| {
        let child = processes.spawn(sh("sleep 1000; exit 9")).await.unwrap();
        processes.signal(child.pid, Signal::SIGKILL).await;
        assert_eq!(child.exit.await, Ok(Exit::Signal(9)));
        processes.signal(child.pid, Signal::SIGKILL).await;
        processes.settled(PATIENCE).await;
    });
}

#[test]
fn what_cannot_be_started_says_why() {
    with_reaper(async |processes| {
        let error = processes.spawn(Command::new("/no/such/program")).await.unwrap_err();
        assert!(matches!(error, SpawnError::NotFound { .. }), "{error}");
        let error = processes.spawn(Command::new("/etc/passwd")).await.unwrap_err();
        assert!(matches!(error, SpawnError::NotExecutable { .. }), "{error}");
    });
}
