//! The audit trail on disk: a line of JSON for each thing that happened, appended and never rewritten.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::JournalEvent;
use daemon::log_once::LogOnce;

/// Happenings that wait for the disk. What comes while it is full is lost and said: HAProxy does not wait for a disk.
pub(super) const WAITING_MAX: usize = 10_000;
/// Happenings in one write.
const TOGETHER_MAX: usize = 1_000;

/// Appends to `file` whatever comes, until nothing can come any more.
pub(super) async fn append_events(file: PathBuf, mut news: mpsc::Receiver<Arc<JournalEvent>>) {
    let mut log_once = LogOnce::default();
    loop {
        let mut some = Vec::new();
        if news.recv_many(&mut some, TOGETHER_MAX).await == 0 {
            return;
        }
        let path = file.clone();
        let written = tokio::task::spawn_blocking(move || append(&path, &some)).await;
        match written.map_err(io::Error::other).and_then(|written| written) {
            Ok(()) => log_once.settled("audit"),
            Err(error) => log_once.error("audit", || {
                format!("cannot append to the audit file {}: {error}\n  check --audit-file", file.display())
            }),
        }
    }
}

fn append(path: &Path, some: &[Arc<JournalEvent>]) -> io::Result<()> {
    let mut text = Vec::new();
    for one in some {
        serde_json::to_writer(&mut text, &**one)?;
        text.push(b'\n');
    }
    // Opened anew each time, so that a file that was rotated away is no loss.
    OpenOptions::new().create(true).append(true).open(path)?.write_all(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_line_is_one_happening_and_what_was_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        std::fs::write(&path, "{}\n").unwrap();
        let (send, news) = mpsc::channel(WAITING_MAX);
        for n in 0..3 {
            let one = JournalEvent { what: format!("a\nb{n}"), ..JournalEvent::default() };
            send.send(Arc::new(one)).await.unwrap();
        }
        drop(send);
        append_events(path.clone(), news).await;
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[3]["what"], "a\nb2");
    }
}
