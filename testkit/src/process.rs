//! Processes that do not outlive their guard.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::home::{Home, MARK};
use crate::wait;

/// Longest that a process may take to end after TERM, unless it has something to wait for.
pub const END_MAX: Duration = Duration::from_secs(10);

/// How often, and how many times it is looked whether a process has stopped, which takes a scheduler's turn or two.
const STOP_LOOK_EVERY: Duration = Duration::from_millis(1);
const STOP_LOOKS_MAX: u32 = 5_000;

/// A running (or ended) process in its own process group. Dropped, the whole group is killed and it is reaped.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: u32,
    child: Mutex<Child>,
    /// Set once it was told to end: from then on its end is no surprise.
    let_go: AtomicBool,
}

/// A program with its arguments, started any number of times, one process at a time.
#[derive(Debug)]
pub struct Daemon {
    home: Arc<Home>,
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    process: Mutex<Option<Arc<Process>>>,
}

impl Daemon {
    /// A program that is not started yet; its log stands in `home` under `name`.
    #[must_use]
    pub fn new(home: &Arc<Home>, name: &str, program: PathBuf, args: Vec<OsString>) -> Self {
        Self { home: Arc::clone(home), name: name.into(), program, args, process: Mutex::default() }
    }

    /// Starts it; the process that was running before, if any, is killed first.
    pub fn start(&self) -> Result<()> {
        *lock(&self.process) = None;
        let log = self.home.log(&self.name)?;
        let errors = log.try_clone().context("cannot share a log")?;
        let child = Command::new(&self.program)
            .args(&self.args)
            .env(MARK, self.home.path())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        *lock(&self.process) = Some(Arc::new(Process {
            name: self.name.clone(),
            pid: child.id(),
            child: Mutex::new(child),
            let_go: AtomicBool::new(false),
        }));
        Ok(())
    }

    /// The process started last.
    pub fn process(&self) -> Result<Arc<Process>> {
        let process = lock(&self.process).clone();
        process.with_context(|| format!("{} has not been started", self.name))
    }

    /// The command line, for people.
    #[must_use]
    pub fn command_line(&self) -> String {
        let args = self.args.iter().map(|arg| arg.to_string_lossy());
        let words: Vec<_> = std::iter::once(self.program.to_string_lossy()).chain(args).collect();
        words.join(" ")
    }

    /// If it ended without having been told to: that, and the end of its log.
    pub fn surprise(&self) -> Option<String> {
        let process = self.process().ok()?;
        if process.let_go.load(Ordering::Relaxed) {
            return None;
        }
        let status = process.ended()?;
        let (name, log) = (&self.name, self.home.tail(&self.name));
        Some(format!("{name} has ended by itself ({status}); the end of its log:\n{log}"))
    }
}

impl Process {
    /// Its id, which is that of its process group too.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<ExitStatus> {
        // An error means that it is not ours to wait for any more, which cannot be: only we reap it.
        lock(&self.child).try_wait().ok().flatten()
    }

    /// Says that its end is expected from now on.
    pub fn let_go(&self) {
        self.let_go.store(true, Ordering::Relaxed);
    }

    /// Sends `signal` to it alone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if matches!(signal, Signal::SIGTERM | Signal::SIGINT | Signal::SIGKILL) {
            self.let_go();
        }
        if self.ended().is_some() {
            bail!("{} has ended and takes no {signal}", self.name);
        }
        kill(raw(self.pid), signal).with_context(|| format!("cannot send {signal} to {}", self.name))?;
        if signal == Signal::SIGSTOP { self.stopped() } else { Ok(()) }
    }

    /// Returns once none of its threads runs: they stop one after the other, and the last may still have answered.
    #[expect(
        clippy::disallowed_methods,
        reason = "the pause between two looks of a bounded wait, of a millisecond"
    )]
    fn stopped(&self) -> Result<()> {
        let tasks = format!("/proc/{}/task", self.pid);
        let stops = |task: &fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // The name in brackets may hold anything; the state comes after it. A thread that has gone runs no more.
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 't', 'Z', 'X']))
        };
        for _ in 0..STOP_LOOKS_MAX {
            let running = fs::read_dir(&tasks)?.flatten().any(|task| !stops(&task));
            if !running {
                return Ok(());
            }
            std::thread::sleep(STOP_LOOK_EVERY);
        }
        bail!("{} was stopped, and still runs", self.name)
    }

    /// Waits for its end.
    pub async fn end(&self, bound: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        let (status, _) = wait::until(bound, what, async || Ok(self.ended())).await?;
        Ok(status)
    }

    /// TERM, and waits for its end.
    pub async fn terminate(&self, bound: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.end(bound).await
    }

    /// `kill -9`, and waits for its end.
    pub async fn kill(&self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.end(END_MAX).await?;
        Ok(())
    }

    /// Everything that it started and that is still below it, itself excepted.
    #[must_use]
    pub fn descendants(&self) -> Vec<u32> {
        let parents = parents();
        let mut found = vec![self.pid];
        let mut next = 0;
        while let Some(&parent) = found.get(next) {
            found.extend(parents.iter().filter(|(_, above)| *above == parent).map(|(pid, _)| pid));
            next += 1;
        }
        found.split_off(1)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only when no process of the group is left.
        let _ = killpg(raw(self.pid), Signal::SIGKILL);
        let _ = lock(&self.child).wait();
    }
}

/// Sends `signal` to a process that is not our child.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    kill(raw(pid), signal).with_context(|| format!("cannot send {signal} to process {pid}"))
}

/// Whether there is a process of this id that has not ended; one that waits to be reaped has.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X'))
}

/// How a process ended, in few words.
#[must_use]
pub fn outcome(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown".into(),
    }
}

/// Every process of this machine with its parent.
fn parents() -> Vec<(u32, u32)> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| Some((pid, stat(pid)?.1))).collect()
}

/// State and parent of a process, from `/proc/PID/stat`: `PID (NAME) STATE PARENT …`, where NAME may hold anything.
fn stat(pid: u32) -> Option<(char, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.next()?.parse().ok()?))
}

fn raw(pid: u32) -> Pid {
    // Linux's ids end at 4 million.
    Pid::from_raw(i32::try_from(pid).unwrap_or(i32::MAX))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Held for single statements: a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(home: &Arc<Home>, script: &str) -> Daemon {
        let daemon = Daemon::new(home, "shell", "/bin/sh".into(), vec!["-c".into(), script.into()]);
        daemon.start().unwrap();
        daemon
    }

    #[tokio::test]
    async fn a_process_and_its_children_are_gone_with_their_guard() {
        let home = Arc::new(Home::new().unwrap());
        let daemon = shell(&home, "sleep 600 & wait");
        let process = daemon.process().unwrap();
        let children = async || Ok(Some(process.descendants()).filter(|pids| !pids.is_empty()));
        let (pids, _) = wait::until(END_MAX, "a child", children).await.unwrap();

        drop(process);
        drop(daemon);

        let gone = async || Ok(pids.iter().all(|pid| !is_alive(*pid)).then_some(()));
        wait::until(END_MAX, "the children's end", gone).await.unwrap();
    }

    #[tokio::test]
    async fn an_unexpected_end_is_told_with_the_log() {
        let home = Arc::new(Home::new().unwrap());
        let daemon = shell(&home, "echo 'no such flag'; exit 3");
        let process = daemon.process().unwrap();
        assert_eq!(outcome(process.end(END_MAX).await.unwrap()), "exit 3");
        let surprise = daemon.surprise().unwrap();
        assert!(surprise.contains("exit status: 3") && surprise.contains("no such flag"), "{surprise}");

        let daemon = shell(&home, "exec sleep 600");
        let process = daemon.process().unwrap();
        assert_eq!(outcome(process.terminate(END_MAX).await.unwrap()), "signal 15");
        assert_eq!(daemon.surprise(), None);
    }
}
