//! Owns every child process: starts them, waits for them, signals them. No other code may wait for any.
//!
//! One task, because `waitpid(-1)` beside anyone else's wait takes away what the other waits for (seen: in 7 of 25
//! runs `tokio::process` got ECHILD), and without `waitpid(-1)` the zombies of strangers stay when we are process 1.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::Exit;

/// Requests that wait; a caller beyond that waits itself.
const REQUESTS_MAX: usize = 64;
/// Children alive at once: the app, its side processes, checks. More is a runaway.
const CHILDREN_MAX: usize = 256;
/// How often it is looked whether an ended child's group is empty: members that are not our children end without
/// a word to us.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A program that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// There is no such program.
    #[error(
        "cannot run {program:?}: it is not there\n  give its path, or check PATH; for a script, check the interpreter in its first line"
    )]
    NotFound {
        /// What was to be run.
        program: String,
    },
    /// It is there and does not run.
    #[error(
        "cannot run {program:?}: {cause}\n  is it a program of this machine, and may this user execute it?"
    )]
    NotExecutable {
        /// What was to be run.
        program: String,
        /// What was seen.
        cause: io::Error,
    },
    /// Too many are running, or the reaper has ended.
    #[error("cannot run {program:?}: {why}")]
    Refused {
        /// What was to be run.
        program: String,
        /// Why.
        why: &'static str,
    },
}

/// A child, the leader of its own process group.
#[derive(Debug)]
pub struct Child {
    /// Its process id, and its group's.
    pub pid: Pid,
    /// How it ended. The rest of its group has been killed by then.
    pub exit: oneshot::Receiver<Exit>,
}

enum Request {
    Spawn { command: Command, reply: oneshot::Sender<Result<Child, SpawnError>> },
    Signal { leader: Pid, signal: Signal },
    Settle { reply: oneshot::Sender<()> },
}

/// Speaks to the reaper.
#[derive(Clone, Debug)]
pub struct Processes {
    requests: mpsc::Sender<Request>,
}

impl Processes {
    /// Starts `command` as the leader of a new process group.
    pub async fn spawn(&self, command: Command) -> Result<Child, SpawnError> {
        let program = name(&command);
        let ended = || SpawnError::Refused { program, why: "the reaper has ended" };
        let (reply, answer) = oneshot::channel();
        match self.requests.send(Request::Spawn { command, reply }).await {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(ended())),
            Err(_) => Err(ended()),
        }
    }

    /// Sends `signal` to the group of `leader`, if that still lives: never to a process id that was given out anew.
    pub async fn signal(&self, leader: Pid, signal: Signal) {
        // A reaper that has ended has no children to signal.
        let _ = self.requests.send(Request::Signal { leader, signal }).await;
    }

    /// Returns once nothing is left of the groups of children that have ended, or after `max`.
    pub async fn settled(&self, max: Duration) {
        let (reply, settled) = oneshot::channel();
        if self.requests.send(Request::Settle { reply }).await.is_ok() {
            // Late: what is left was killed already and is init's to reap.
            let _ = tokio::time::timeout(max, settled).await;
        }
    }
}

struct Reaper {
    /// The living, and who waits for them.
    children: BTreeMap<Pid, oneshot::Sender<Exit>>,
    /// Groups whose leader has ended and that may still have members.
    emptying: BTreeSet<Pid>,
    settled: Vec<oneshot::Sender<()>>,
}

/// Takes over all waiting for children of this process; the future is the task, and ends with the last handle.
/// Orphans of our children become our children too, as if we were process 1.
pub fn start() -> io::Result<(Processes, impl Future<Output = ()> + Send)> {
    let mut child_signals = signal(SignalKind::child())?;
    prctl::set_child_subreaper(true)?;
    let (sender, mut requests) = mpsc::channel(REQUESTS_MAX);
    let mut reaper = Reaper { children: BTreeMap::new(), emptying: BTreeSet::new(), settled: vec![] };
    let task = async move {
        loop {
            tokio::select! {
                biased;
                received = child_signals.recv() => if received.is_none() { return },
                request = requests.recv() => match request {
                    Some(request) => reaper.perform(request),
                    None => return,
                },
                () = tokio::time::sleep(LOOK_AGAIN), if !reaper.emptying.is_empty() => {}
            }
            reaper.reap();
            reaper.look_at_groups();
        }
    };
    Ok((Processes { requests: sender }, task))
}

impl Reaper {
    fn perform(&mut self, request: Request) {
        match request {
            Request::Spawn { command, reply } => {
                // The caller is gone: the child is started anyway, and reaped.
                let _ = reply.send(self.spawn(command));
            }
            Request::Signal { leader, signal } => {
                if self.children.contains_key(&leader)
                    && let Err(errno) = killpg(leader, signal)
                {
                    tracing::warn!(pid = leader.as_raw(), %signal, %errno, "cannot signal the group");
                }
            }
            Request::Settle { reply } => self.settled.push(reply),
        }
    }

    fn spawn(&mut self, mut command: Command) -> Result<Child, SpawnError> {
        let program = name(&command);
        if self.children.len() >= CHILDREN_MAX {
            return Err(SpawnError::Refused { program, why: "too many processes are running" });
        }
        let spawned = command.process_group(0).spawn().map_err(|cause| match cause.kind() {
            io::ErrorKind::NotFound => SpawnError::NotFound { program: program.clone() },
            _ => SpawnError::NotExecutable { program: program.clone(), cause },
        })?;
        let pid = i32::try_from(spawned.id()).map(Pid::from_raw);
        let Ok(pid) = pid else {
            return Err(SpawnError::Refused { program, why: "its process id is none" });
        };
        // Dropping std's `Child` does not touch the process; from here on it is ours to wait for.
        drop(spawned);
        let (ended, exit) = oneshot::channel();
        self.children.insert(pid, ended);
        Ok(Child { pid, exit })
    }

    /// Takes in everyone who has ended, our own and strangers.
    fn reap(&mut self) {
        // Looked at without reaping first: as long as the leader is a zombie, its id, which is its group's too, is
        // not given out anew, and the group can be killed without hitting anyone else.
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        loop {
            let status = match waitid(Id::All, look) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Err(Errno::EINTR) => continue,
                Ok(status) => status,
                Err(errno) => return tracing::error!(%errno, "cannot wait for children"),
            };
            let Some(pid) = status.pid() else { return };
            let ours = self.children.remove(&pid);
            if ours.is_some() {
                // No such group: it was alone.
                let _ = killpg(pid, Signal::SIGKILL);
                self.emptying.insert(pid);
            }
            if let Err(errno) = waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
                tracing::error!(pid = pid.as_raw(), %errno, "cannot reap a child");
                return;
            }
            if let Some(waiting) = ours {
                // The caller is gone: it is reaped, that is all there was to do.
                let _ = waiting.send(exit(status));
            } else {
                tracing::debug!(pid = pid.as_raw(), "reaped an orphan");
            }
        }
    }

    fn look_at_groups(&mut self) {
        self.emptying.retain(|group| killpg(*group, None) != Err(Errno::ESRCH));
        if self.emptying.is_empty() {
            for waiting in self.settled.drain(..) {
                let _ = waiting.send(());
            }
        }
    }
}

fn exit(status: WaitStatus) -> Exit {
    match status {
        WaitStatus::Exited(_, code) => Exit::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
        WaitStatus::Signaled(_, signal, _) => Exit::Signal(u8::try_from(signal as i32).unwrap_or(0)),
        // Not asked for by our flags.
        _ => Exit::Code(u8::MAX),
    }
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}
