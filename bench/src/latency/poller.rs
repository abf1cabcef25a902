//! Requests back to back, each sent as soon as the last was answered: what they meet tells when a backend serves.

use std::time::Duration;

use anyhow::{Context as _, Result};
use stack::port::loopback;
use stack::{Clock, Tick};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Longest that anything polled for may take to come.
const SEEN_MAX: Duration = Duration::from_secs(20);
/// Longest answer that is read over, in bytes.
const BODY_LEN_MAX: u64 = 64 * 1024;

/// What the requests have met.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Met {
    /// Answers from the app.
    pub(super) served: u64,
    /// Everything else since the last of these, or since the beginning.
    pub(super) refused: u64,
    /// When the first answer from the app was there.
    pub(super) first_served: Option<Tick>,
}

/// A running poller; it ends when it is dropped.
#[derive(Debug)]
pub(super) struct Poller {
    met: watch::Receiver<Met>,
    task: JoinHandle<()>,
}

impl Poller {
    /// Starts to ask for `service` at `port`.
    pub(super) fn start(port: u16, service: &str) -> Self {
        let (tell, met) = watch::channel(Met::default());
        let request = format!("GET / HTTP/1.1\r\nHost: {service}\r\n\r\n");
        let task = tokio::spawn(async move {
            let mut connection = None;
            loop {
                let served = ask(&mut connection, port, &request).await.unwrap_or(false);
                let at = Clock.now();
                tell.send_modify(|met| met.take(served, at));
            }
        });
        Self { met, task }
    }

    /// Waits until `condition` holds.
    pub(super) async fn until(&mut self, what: &str, condition: impl Fn(&Met) -> bool) -> Result<Met> {
        let seen = tokio::time::timeout(SEEN_MAX, self.met.wait_for(condition)).await;
        let seen = seen.with_context(|| format!("not seen within {SEEN_MAX:?}: {what}"))?;
        Ok(*seen.context("the poller has ended")?)
    }
}

impl Met {
    fn take(&mut self, served: bool, at: Tick) {
        if served {
            self.served += 1;
            self.refused = 0;
            self.first_served.get_or_insert(at);
        } else {
            self.refused += 1;
        }
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Asks once, on the same connection for as long as HAProxy keeps it. Whether the app answered.
async fn ask(connection: &mut Option<BufReader<TcpStream>>, port: u16, request: &str) -> Result<bool> {
    let kept = connection.take();
    let mut stream = if let Some(stream) = kept { stream } else { connect(port).await? };
    stream.write_all(request.as_bytes()).await?;
    let (mut status, mut length, mut goes_on, mut line) = (None, 0, true, String::new());
    loop {
        line.clear();
        anyhow::ensure!(stream.read_line(&mut line).await? > 0, "closed");
        let header = line.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        status = status.or_else(|| header.split(' ').nth(1)?.parse::<u16>().ok());
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        goes_on &= header != "connection: close";
    }
    let mut body = Vec::new();
    (&mut stream).take(length.min(BODY_LEN_MAX)).read_to_end(&mut body).await?;
    if goes_on {
        *connection = Some(stream);
    }
    Ok(status == Some(200))
}

async fn connect(port: u16) -> Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(loopback(port)).await?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}
