//! How many stacks run at a time on this machine: a stack is a dozen processes, and scenarios that starve each
//! other measure the machine.

use std::fs::{File, TryLockError};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::{program, wait};

/// Longest wait for a turn: above the whole suite's time.
const TURN_MAX: Duration = Duration::from_mins(30);

/// The right to run a stack. Given back when the file is closed, also by a process that is killed.
#[derive(Debug)]
pub(crate) struct Slot {
    _locked: File,
}

impl Slot {
    /// Waits for its turn: one stack for each core, over all test executables of one target folder.
    pub(crate) async fn take() -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let webapp = program::ours("webapp")?;
        let mut files = Vec::with_capacity(cores);
        for n in 0..cores {
            let path = webapp.with_file_name(format!(".stack-slot-{n}"));
            files.push(File::create(&path).with_context(|| format!("cannot write {}", path.display()))?);
        }
        let (free, _) = wait::until(TURN_MAX, "a slot for one more stack", async || {
            for (n, file) in files.iter().enumerate() {
                match file.try_lock() {
                    Ok(()) => return Ok(Some(n)),
                    Err(TryLockError::WouldBlock) => {}
                    Err(TryLockError::Error(error)) => return Err(error).context("cannot lock a slot"),
                }
            }
            Ok(None)
        })
        .await?;
        Ok(Self { _locked: files.swap_remove(free) })
    }
}
