//! What benchmarks ask HAProxy over one session that is kept: lb-sync is measured beside these commands.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use haproxy::Dialogue;

/// Longest that the answers to one request may take: all of 10,000 rows take some 50 ms.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Tries of a delete. HAProxy 2.6 refuses it while a pooled connection is closing, which takes microseconds.
const DELETES_MAX: u16 = 1_000;

/// The session.
#[derive(Debug)]
pub(crate) struct Socket {
    dialogue: Dialogue,
}

impl Socket {
    pub(crate) async fn connect(path: &Path) -> Result<Self> {
        Ok(Self { dialogue: Dialogue::connect(path, ANSWER_MAX).await? })
    }

    /// Sends all commands at once, and returns all answers as one text.
    pub(crate) async fn send(&mut self, commands: &[String]) -> Result<String> {
        Ok(self.dialogue.ask_lines(commands).await?.concat())
    }

    /// The answer to one command.
    pub(crate) async fn ask(&mut self, command: String) -> Result<String> {
        self.send(&[command]).await
    }

    /// Takes `server` (`BACKEND/NAME`) out and deletes it.
    pub(crate) async fn delete(&mut self, server: &str) -> Result<()> {
        self.send(&[format!("set server {server} state maint")]).await?;
        for port in 1..=DELETES_MAX {
            // A new address drops the pooled connections, which would hold the server for seconds.
            let commands =
                [format!("set server {server} addr 127.0.0.9 port {port}"), format!("del server {server}")];
            if self.send(&commands).await?.contains("Server deleted") {
                return Ok(());
            }
        }
        bail!("HAProxy did not delete {server}")
    }

    /// The number of the backend `name`: by it HAProxy finds what by the name it takes for a frontend.
    pub(crate) async fn backend_id(&mut self, name: &str) -> Result<u32> {
        let table = self.ask("show stat -1 2 -1".into()).await?;
        let mut lines = table.lines();
        let header = lines.next().unwrap_or_default();
        let row = lines.find(|line| line.starts_with(&format!("{name},")));
        let row = row.with_context(|| format!("HAProxy has no backend {name}"))?;
        Self::column(&format!("{header}\n{row}"), "iid").context("`show stat` has no iid")
    }

    /// How many servers are in rotation in the backends of these names together.
    pub(crate) async fn active_in(&mut self, names: &[String]) -> Result<u32> {
        let table = self.ask("show stat -1 2 -1".into()).await?;
        let header = table.lines().next().unwrap_or_default();
        let wanted = |row: &&str| row.split(',').next().is_some_and(|name| names.iter().any(|it| it == name));
        let rows = table.lines().skip(1).filter(wanted);
        Ok(rows.filter_map(|row| Self::column(&format!("{header}\n{row}"), "act")).sum())
    }

    /// A number in the first row of a `show stat`.
    pub(crate) fn column(table: &str, name: &str) -> Option<u32> {
        let mut lines = table.lines();
        let at = lines.next()?.trim_start_matches("# ").split(',').position(|column| column == name)?;
        lines.next()?.split(',').nth(at)?.parse().ok()
    }
}
