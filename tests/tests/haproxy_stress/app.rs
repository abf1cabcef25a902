//! An app that a scenario opens, closes and makes ill at once, as no process can be: within this one.

use std::sync::Arc;
use std::time::Duration;

use testkit::port::loopback;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Most of a request that is read at a time, in bytes; the requests here have some 150.
const REQUEST_LEN_MAX: usize = 4 * 1024;
/// Every so many answers one is long, and how long.
const LONG_EVERY: usize = 8;
const LONG: Duration = Duration::from_millis(150);

/// How it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Well,
    /// It answers requests, and its health check with an error.
    Ill,
    /// It does not listen; its connections are cut.
    Closed,
}

/// The app; it ends with its value.
pub(crate) struct App {
    port: u16,
    health: watch::Sender<Health>,
    task: JoinHandle<()>,
}

impl App {
    /// One on `port` that answers with `tag`.
    pub(crate) fn start(tag: &str, port: u16) -> Self {
        let (health, seen) = watch::channel(Health::Well);
        let task = tokio::spawn(run(Arc::from(tag), port, seen));
        Self { port, health, task }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn set(&self, health: Health) {
        self.health.send_replace(health);
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(tag: Arc<str>, port: u16, mut health: watch::Receiver<Health>) {
    loop {
        if health.wait_for(|health| *health != Health::Closed).await.is_err() {
            return;
        }
        let listener = TcpListener::bind(loopback(port)).await.unwrap();
        // Dropped with the listener: what is under way breaks off.
        let mut connections = JoinSet::new();
        let mut closed = health.clone();
        let closing = closed.wait_for(|health| *health == Health::Closed);
        tokio::pin!(closing);
        loop {
            tokio::select! {
                _ = &mut closing => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => {
                    if let Ok((stream, _)) = accepted {
                        connections.spawn(converse(stream, Arc::clone(&tag), health.clone()));
                    }
                }
            }
        }
    }
}

/// Answers one request after the other; an error of the connection ends it.
async fn converse(
    mut stream: TcpStream,
    tag: Arc<str>,
    health: watch::Receiver<Health>,
) -> std::io::Result<()> {
    let mut request = Vec::with_capacity(REQUEST_LEN_MAX);
    for n in 1.. {
        request.clear();
        while !request.ends_with(b"\r\n\r\n") {
            if request.len() > REQUEST_LEN_MAX || stream.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        }
        let is_check = request.starts_with(b"HEAD");
        let is_ill = *health.borrow() == Health::Ill;
        if !is_check && n % LONG_EVERY == 0 {
            tokio::time::sleep(LONG).await;
        }
        let status = if is_check && is_ill { "503 Service Unavailable" } else { "200 OK" };
        let body = format!("{{\"tag\":\"{tag}\"}}");
        let mut answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
        if !is_check {
            answer.push_str(&body);
        }
        stream.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}
