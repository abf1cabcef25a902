//! The programs that we run: starts, signals and hears of each by its number.

use std::ffi::OsString;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::task::JoinSet;

use super::output::Output;
use super::program::Policy;
use super::{Exit, Processes, SpawnError};

/// A program and how it is to run.
#[derive(Clone, Debug)]
pub struct ProgramConfig {
    /// What it is called in logs and metrics.
    pub name: String,
    /// The program itself.
    pub program: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// What it finds in its environment beside ours.
    pub env: Vec<(String, String)>,
    /// When it is started again, and how it is stopped.
    pub policy: Policy,
}

/// How often each program was started again, by name; for metrics.
pub type Restarts = Arc<Vec<(String, AtomicU64)>>;

/// All of them.
pub struct Children {
    configs: Vec<ProgramConfig>,
    processes: Processes,
    output: Output,
    /// The process of each, while it lives.
    pids: Vec<Option<Pid>>,
    exits: JoinSet<(usize, Exit)>,
    restarts: Restarts,
}

impl Children {
    /// None is started yet.
    #[must_use]
    pub fn new(configs: Vec<ProgramConfig>, processes: Processes, output: Output) -> Self {
        let restarts = configs.iter().map(|config| (config.name.clone(), AtomicU64::new(0))).collect();
        let pids = vec![None; configs.len()];
        Self { configs, processes, output, pids, exits: JoinSet::new(), restarts: Arc::new(restarts) }
    }

    /// How often each was started again.
    #[must_use]
    pub fn restarts(&self) -> Restarts {
        Arc::clone(&self.restarts)
    }

    /// What the program of this number is called.
    #[must_use]
    pub fn name(&self, number: usize) -> &str {
        self.configs.get(number).map_or("?", |config| &config.name)
    }

    /// Starts the program of this number.
    pub async fn spawn(&mut self, number: usize) -> Result<(), SpawnError> {
        let Some(config) = self.configs.get(number) else { return Ok(()) };
        let mut command = Command::new(&config.program);
        command.args(&config.args).envs(config.env.iter().map(|(name, value)| (name, value)));
        daemon::service_manager::hide_from(&mut command);
        let program = || config.program.to_string_lossy().into_owned();
        self.output
            .attach(&mut command, &config.name)
            .map_err(|cause| SpawnError::NotExecutable { program: program(), cause })?;
        let child = self.processes.spawn(command).await?;
        tracing::info!(process = config.name, pid = child.pid.as_raw(), "started");
        if let Some(pid) = self.pids.get_mut(number) {
            *pid = Some(child.pid);
        }
        self.exits.spawn(async move {
            match child.exit.await {
                Ok(exit) => (number, exit),
                // A reaper that ended without an answer is reported by its own task; the end is then unknown.
                Err(_) => std::future::pending().await,
            }
        });
        Ok(())
    }

    /// Counts that it is to be started again.
    pub fn count_restart(&self, number: usize) {
        if let Some((_, count)) = self.restarts.get(number) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sends `signal` to its process group, if it lives.
    pub async fn signal(&self, number: usize, signal: Signal) {
        if let Some(Some(pid)) = self.pids.get(number) {
            self.processes.signal(*pid, signal).await;
        }
    }

    /// Which has ended next, and how; never, while none runs.
    pub async fn ended(&mut self) -> (usize, Exit) {
        loop {
            match self.exits.join_next().await {
                Some(Ok((number, exit))) => {
                    if let Some(pid) = self.pids.get_mut(number) {
                        *pid = None;
                    }
                    tracing::info!(process = self.name(number), "{exit}");
                    return (number, exit);
                }
                Some(Err(_)) => {}
                None => return std::future::pending().await,
            }
        }
    }

    /// Ends what still runs, without order: nothing has been registered yet.
    pub async fn abandon(self, max: std::time::Duration) {
        for number in 0..self.configs.len() {
            self.signal(number, Signal::SIGKILL).await;
        }
        self.finish(max).await;
    }

    /// Waits until nothing is left of them, and all they printed is handed on; `max` at most for each.
    pub async fn finish(self, max: std::time::Duration) {
        self.processes.settled(max).await;
        self.output.finish(max).await;
    }
}
