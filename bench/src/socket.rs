//! A session on HAProxy's runtime socket that is kept, and nothing between: what lb-sync's own is measured beside.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

/// Longest that the answers to one request may take: all of 10,000 rows take some 50 ms.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Longest that HAProxy keeps a session on which nothing is said; a bench may wait for minutes.
const IDLE_MAX: &str = "set timeout cli 1h";
/// Tries of a delete. HAProxy 2.6 refuses it while a pooled connection is closing, which takes microseconds.
const DELETES_MAX: u16 = 1_000;

/// The session.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: BufReader<UnixStream>,
}

impl Socket {
    pub(crate) async fn connect(path: &Path) -> Result<Self> {
        let mut socket = Self { stream: BufReader::new(UnixStream::connect(path).await?) };
        socket.send(&["prompt".into(), IDLE_MAX.into()]).await?;
        Ok(socket)
    }

    /// Sends all commands at once, and returns all answers.
    pub(crate) async fn send(&mut self, commands: &[String]) -> Result<String> {
        let answers = tokio::time::timeout(ANSWER_MAX, self.exchange(commands)).await;
        answers.with_context(|| format!("no answer of HAProxy within {ANSWER_MAX:?}"))?
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

    async fn exchange(&mut self, commands: &[String]) -> Result<String> {
        let text: String = commands.iter().flat_map(|command| [command, "\n"]).collect();
        self.stream.write_all(text.as_bytes()).await?;
        let (mut answers, mut prompts) = (Vec::new(), 0);
        while prompts < commands.len() {
            let read = self.stream.read_until(b'>', &mut answers).await?;
            anyhow::ensure!(read > 0, "HAProxy closed the socket");
            // An answer ends with `\n> `.
            if answers.ends_with(b"\n>") {
                answers.push(self.stream.read_u8().await.context("HAProxy closed the socket")?);
                prompts += 1;
            }
        }
        Ok(String::from_utf8_lossy(&answers).into_owned())
    }
}
