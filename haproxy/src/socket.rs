//! One persistent session on HAProxy's runtime socket: many commands in one write, one answer for each.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::framing::Answers;
use super::{Command, DialogueError};

/// Most bytes that the answers to one request may take together. `show servers state` of 10,000 servers is 0.74 MB.
const MAX_ANSWERS: usize = 64 << 20;

/// Most that is read at once.
const READ: usize = 16 << 10;

/// What each session begins with. `prompt` keeps it open and marks the end of each answer. The second line stops HAProxy
/// from closing it when nothing is said for `stats timeout` (10 s unless changed), so that a close means a death.
const GREETING: &str = "prompt\nset timeout cli 1d\nshow cli level\n";

/// An interactive session with HAProxy. Any failure ends it, as does giving up on a request half way: from then on every
/// request fails with [`DialogueError::Spent`], and the caller connects again.
#[derive(Debug)]
pub struct Dialogue {
    stream: UnixStream,
    /// Longest that one request may take.
    within: Duration,
    /// A request is under way, or one has failed: what comes next from HAProxy belongs to nothing that is asked later.
    spent: bool,
}

impl Dialogue {
    /// Connects to the socket at `path`. This, and each later request as a whole, may take as long as `within`.
    pub async fn connect(path: &Path, within: Duration) -> Result<Self, DialogueError> {
        let stream = timeout(within, UnixStream::connect(path))
            .await
            .map_err(|_| DialogueError::Silent { path: path.to_owned(), within })?
            .map_err(|error| DialogueError::connect(path, error))?;
        let mut dialogue = Self { stream, within, spent: false };
        let answers = dialogue.exchange(GREETING, 3).await.map_err(|error| match error {
            DialogueError::Timeout(within) => DialogueError::Silent { path: path.to_owned(), within },
            other => other,
        })?;
        match answers.last().map_or("", |level| level.trim()) {
            "admin" => Ok(dialogue),
            level => {
                let level = level.chars().take(40).collect();
                Err(DialogueError::NotAdmin { path: path.to_owned(), level })
            }
        }
    }

    /// Sends all `commands` in one go and returns their answers, in the same order, without prompts.
    pub async fn ask<'c>(
        &mut self,
        commands: impl IntoIterator<Item = &'c Command>,
    ) -> Result<Vec<String>, DialogueError> {
        let (mut lines, mut count) = (String::new(), 0);
        for command in commands {
            // Into memory: it cannot fail.
            let _ = writeln!(lines, "{command}");
            count += 1;
        }
        self.exchange(&lines, count).await
    }

    /// Sends all `lines` in one go and returns their answers. For benchmarks and tests, which time or provoke what no
    /// [`Command`] says; nothing that came from outside belongs here.
    pub async fn ask_lines(&mut self, lines: &[String]) -> Result<Vec<String>, DialogueError> {
        let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
        self.exchange(&text, lines.len()).await
    }

    /// Returns once the session is over, and why. To be waited for between requests: it notices HAProxy's death at once,
    /// without asking. May be dropped and called again.
    pub async fn closed(&mut self) -> DialogueError {
        if self.spent {
            return DialogueError::Spent;
        }
        loop {
            if let Err(error) = self.stream.readable().await {
                self.spent = true;
                return DialogueError::talk(error);
            }
            if let Err(error) = self.nothing_said() {
                self.spent = true;
                return error;
            }
        }
    }

    /// Writes `lines` and reads `count` answers, within the time that a request may take.
    async fn exchange(&mut self, lines: &str, count: usize) -> Result<Vec<String>, DialogueError> {
        if self.spent {
            return Err(DialogueError::Spent);
        }
        // Undone at the very end only: neither a failure nor a caller that stops waiting leaves a session to be trusted.
        self.spent = true;
        self.nothing_said()?;
        let (mut from, mut to) = self.stream.split();
        let write = async { to.write_all(lines.as_bytes()).await.map_err(DialogueError::talk) };
        // Both at once: HAProxy stops reading while its answers are not taken.
        let both = async { tokio::try_join!(write, read(&mut from, count)) };
        let ((), answers) =
            timeout(self.within, both).await.map_err(|_| DialogueError::Timeout(self.within))??;
        self.spent = false;
        Ok(answers)
    }

    /// Fails if HAProxy has closed the session, or said anything since the last answer.
    fn nothing_said(&self) -> Result<(), DialogueError> {
        match self.stream.try_read(&mut [0; 1]) {
            Ok(0) => Err(DialogueError::Closed),
            Ok(_) => Err(DialogueError::OutOfStep),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(DialogueError::talk(error)),
        }
    }
}

/// The answer to one line on a connection of its own, which HAProxy closes behind it. For tests and demos.
pub async fn ask_once(mut stream: impl AsyncRead + AsyncWrite + Unpin, line: &str) -> io::Result<String> {
    stream.write_all(format!("{line}\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWERS as u64).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Reads exactly `count` answers.
async fn read(from: &mut (impl AsyncReadExt + Unpin), count: usize) -> Result<Vec<String>, DialogueError> {
    let mut said = Answers::new(MAX_ANSWERS);
    let mut answers = Vec::with_capacity(count);
    let mut bytes = vec![0; READ];
    while answers.len() < count {
        let length = from.read(&mut bytes).await.map_err(DialogueError::talk)?;
        let read = bytes.get(..length).filter(|read| !read.is_empty()).ok_or(DialogueError::Closed)?;
        said.push(read)?;
        while let Some(answer) = said.next() {
            answers.push(answer);
        }
    }
    if answers.len() == count && said.is_empty() { Ok(answers) } else { Err(DialogueError::OutOfStep) }
}

#[cfg(test)]
mod tests;
