//! HAProxy's master socket (`-S`): reload, and whether it worked; and how many old workers there are.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use crate::answer::excerpt::Excerpt;

/// Longest that a reload may take; 10,000 servers take 0.72 s on 2.6.
const RELOAD_MAX: Duration = Duration::from_secs(30);
/// How often 2.6, which closes without a word, is asked whether there is a new worker.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Most of an answer that is read, in bytes: from 2.7 on it ends with the start-up log.
const ANSWER_MAX: u64 = 256 * 1024;

/// Why HAProxy was not reloaded.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The master socket.
    #[error(
        "cannot reach HAProxy's master at {}: {source}\n  is HAProxy started with `-W -S {}`, and may lb-sync write to the socket?",
        .path.display(), .path.display()
    )]
    Unreached {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The configuration.
    #[error("HAProxy did not take its configuration at the reload, and goes on with the one before: {0}")]
    Refused(String),
    /// The new worker.
    #[error("HAProxy's master showed no new worker within {} s of the reload", RELOAD_MAX.as_secs())]
    NoWorker,
    /// An answer that cannot be read.
    #[error("HAProxy's master answered `show proc` with something else: {0}")]
    Unexpected(Excerpt),
}

/// Reloads HAProxy; returns once the new worker is there.
pub async fn reload(path: &Path) -> Result<(), ReloadError> {
    let reload = async {
        let before = processes(path).await?;
        let said = ask(path, "reload").await?;
        match outcome(&said) {
            Some(true) => Ok(()),
            Some(false) => Err(ReloadError::Refused(alerts(&said))),
            None => new_worker(path, &before).await,
        }
    };
    timeout(RELOAD_MAX, reload).await.unwrap_or(Err(ReloadError::NoWorker))
}

/// How many workers a reload has replaced that have not ended yet: they have requests in flight, or idle connections.
pub async fn old_workers(path: &Path) -> Result<usize, ReloadError> {
    Ok(processes(path).await?.old_workers.len())
}

/// What 2.7 and newer say; `None` for 2.6, whose master replaces itself in the middle of the answer.
fn outcome(said: &str) -> Option<bool> {
    let word = said.lines().find_map(|line| line.trim().strip_prefix("Success="))?;
    Some(word == "1")
}

/// What a failed reload said of its reasons.
fn alerts(said: &str) -> String {
    let alert = said.lines().find(|line| line.starts_with("[ALERT]")).unwrap_or(said);
    Excerpt::of(alert).to_string()
}

async fn new_worker(path: &Path, before: &Processes) -> Result<(), ReloadError> {
    loop {
        // While it replaces itself it may not answer.
        if let Ok(now) = processes(path).await {
            if now.failed > before.failed {
                return Err(ReloadError::Refused("its own log says why".into()));
            }
            if now.workers.difference(&before.workers).next().is_some() {
                return Ok(());
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

/// `show proc`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Processes {
    /// Reloads that failed.
    failed: u32,
    /// Process ids of the workers that are not on their way out.
    workers: BTreeSet<u32>,
    /// And of those that are: a reload has replaced them, and they have requests in flight.
    old_workers: BTreeSet<u32>,
}

impl Processes {
    fn parse(text: &str) -> Option<Self> {
        let (mut read, mut section, mut masters) = (Self::default(), "", 0);
        for line in text.lines() {
            if let Some(title) = line.strip_prefix("# ") {
                section = title.trim();
                continue;
            }
            let mut words = line.split_whitespace();
            let (Some(Ok(pid)), Some(kind)) = (words.next().map(str::parse), words.next()) else { continue };
            if kind == "master" {
                masters += 1;
                // From 2.6 on: `5 [failed: 1]`.
                let failed = line.split_once("[failed: ").and_then(|(_, rest)| rest.split_once(']'));
                read.failed = failed.and_then(|(number, _)| number.trim().parse().ok()).unwrap_or(0);
            } else if kind == "worker" && section == "workers" {
                read.workers.insert(pid);
            } else if kind == "worker" && section == "old workers" {
                read.old_workers.insert(pid);
            }
        }
        (masters == 1).then_some(read)
    }
}

async fn processes(path: &Path) -> Result<Processes, ReloadError> {
    let said = ask(path, "show proc").await?;
    Processes::parse(&said).ok_or_else(|| ReloadError::Unexpected(Excerpt::of(&said)))
}

/// One command; the sending half is closed behind it, or the master waits for more.
async fn ask(path: &Path, command: &str) -> Result<String, ReloadError> {
    let asked = async {
        let mut stream = UnixStream::connect(path).await?;
        stream.write_all(format!("{command}\n").as_bytes()).await?;
        stream.shutdown().await?;
        let mut said = Vec::new();
        match stream.take(ANSWER_MAX).read_to_end(&mut said).await {
            // 2.6 replaces itself: what it said until then is all there is.
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => Err(error),
            _ => Ok(String::from_utf8_lossy(&said).into_owned()),
        }
    };
    asked.await.map_err(|source| ReloadError::Unreached { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER_A_FAILURE: &str = "\
#<PID>          <type>          <reloads>       <uptime>        <version>      
15775           master          2 [failed: 1]   0d00h00m02s     2.6.12-1+deb12u4
# workers
15796           worker          1               0d00h00m01s     2.6.12-1+deb12u4
# old workers
15785           worker          2               0d00h00m01s     2.6.12-1+deb12u4
# programs

";

    #[test]
    fn workers_are_told_from_old_ones() {
        let read = Processes::parse(AFTER_A_FAILURE).unwrap();
        assert_eq!(read, Processes { failed: 1, workers: [15_796].into(), old_workers: [15_785].into() });
        assert_eq!(Processes::parse("Unknown command\n"), None);
    }

    #[test]
    fn success_is_said_from_2_7_on() {
        assert_eq!(outcome("Success=1\n--\n[NOTICE] …\n"), Some(true));
        assert_eq!(outcome("Success=0\n--\n[ALERT] (1) : config : no\n"), Some(false));
        assert_eq!(outcome(""), None);
        assert_eq!(alerts("Success=0\n--\n[NOTICE] x\n[ALERT] (1) : no\n"), "[ALERT] (1) : no");
    }
}
