//! How many processes it takes, and how much memory.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use testkit::process::Process;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::process::share_kb;

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The most that was seen of each.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Footprint {
    pub(super) processes: usize,
    /// What they have of the machine's memory: what they share with others in part.
    pub(super) memory_kb: f64,
}

/// Looks, until it is stopped.
pub(super) struct Watching {
    stop: CancellationToken,
    task: JoinHandle<Footprint>,
}

impl Footprint {
    /// Looks at these and all below them.
    pub(super) fn watch(roots: Vec<Arc<Process>>) -> Watching {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let mut most = Self::of(&roots);
        let task = tokio::spawn(async move {
            while !stopped.is_cancelled() {
                tokio::time::sleep(LOOK_EVERY).await;
                let now = Self::of(&roots);
                most.processes = most.processes.max(now.processes);
                most.memory_kb = most.memory_kb.max(now.memory_kb);
            }
            most
        });
        Watching { stop, task }
    }

    fn of(roots: &[Arc<Process>]) -> Self {
        let below = roots.iter().flat_map(|root| root.descendants());
        let pids: Vec<u32> = roots.iter().map(|root| root.pid()).chain(below).collect();
        // One that has ended in the meantime has nothing.
        let memory = pids.iter().filter_map(|pid| share_kb(*pid).ok());
        Self { processes: pids.len(), memory_kb: memory.sum() }
    }
}

impl Watching {
    pub(super) async fn stop(self) -> Result<Footprint> {
        self.stop.cancel();
        Ok(self.task.await?)
    }
}
