//! Requests back to back, each sent as soon as the last was answered: what they meet tells when a backend serves.

use std::time::Duration;

use anyhow::{Context as _, Result};
use testkit::port::loopback;
use testkit::{Clock, Tick};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Longest that anything polled for may take to come.
const SEEN_MAX: Duration = Duration::from_secs(20);
/// Longest answer that is read over, in bytes.
const BODY_LEN_MAX: u64 = 64 * 1024;

/// What is asked, and whose answer counts.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    port: u16,
    request: String,
    /// In the answer of who is meant.
    mark: Option<String>,
}

/// What the requests have met.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    /// Answers from who is meant.
    pub(crate) served: u64,
    /// Everything else since the last of these, or since the beginning.
    pub(crate) refused: u64,
    /// When the first answer from who is meant was there.
    pub(crate) first_served: Option<Tick>,
}

/// A running poller; it ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Poller {
    sample: watch::Receiver<Sample>,
    task: JoinHandle<()>,
}

impl Question {
    /// Any instance of `service`, at HAProxy's `port`.
    pub(crate) fn of(port: u16, service: &str) -> Self {
        Self { port, request: format!("GET / HTTP/1.1\r\nHost: {service}\r\n\r\n"), mark: None }
    }

    /// The instance `name` of `service`, asked for by the cookie of its clients.
    pub(crate) fn of_instance(port: u16, service: &str, name: &str) -> Self {
        let request = format!("GET / HTTP/1.1\r\nHost: {service}\r\nCookie: LBI={name}\r\n\r\n");
        Self { port, request, mark: Some(format!("\"{name}\"")) }
    }

    fn is_meant(&self, status: Option<u16>, body: &[u8]) -> bool {
        let marked = |mark: &String| String::from_utf8_lossy(body).contains(mark);
        status == Some(200) && self.mark.as_ref().is_none_or(marked)
    }
}

impl Poller {
    /// Starts to ask.
    pub(crate) fn start(question: Question) -> Self {
        let (tell, sample) = watch::channel(Sample::default());
        let task = tokio::spawn(async move {
            let mut connection = None;
            loop {
                let served = ask(&mut connection, &question).await.unwrap_or(false);
                let at = Clock.now();
                tell.send_modify(|sample| sample.take(served, at));
            }
        });
        Self { sample, task }
    }

    /// Waits until `condition` holds.
    pub(crate) async fn until(&mut self, what: &str, condition: impl Fn(&Sample) -> bool) -> Result<Sample> {
        let seen = tokio::time::timeout(SEEN_MAX, self.sample.wait_for(condition)).await;
        let seen = seen.with_context(|| format!("not seen within {SEEN_MAX:?}: {what}"))?;
        Ok(*seen.context("the poller has ended")?)
    }
}

impl Sample {
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

/// Asks once, on the same connection for as long as HAProxy keeps it. Whether it was answered by who is meant.
async fn ask(connection: &mut Option<BufReader<TcpStream>>, question: &Question) -> Result<bool> {
    let kept = connection.take();
    let mut stream = if let Some(stream) = kept { stream } else { connect(question.port).await? };
    stream.write_all(question.request.as_bytes()).await?;
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
    Ok(question.is_meant(status, &body))
}

async fn connect(port: u16) -> Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(loopback(port)).await?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}
