//! The apps: as little HTTP as HAProxy takes for a server. Any number of them live in this process, each on a port of
//! its own, and each says its name.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use testkit::{Clock, Tick};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longest wait for the requests in flight: HAProxy's own bound for an answer (`timeout server`).
const IDLE_MAX: Duration = Duration::from_secs(30);

/// Where a long answer is to be had.
pub(crate) const STREAM: &str = "/stream";
/// It comes in so many pieces, with a pause before each: 3 s in all.
const PIECES: u32 = 10;
const PIECE_EVERY: Duration = Duration::from_millis(300);

/// An app that answers until it is stopped, or dropped.
#[derive(Debug)]
pub(crate) struct App {
    port: u16,
    last_hit: watch::Receiver<Tick>,
    in_flight: watch::Receiver<usize>,
    stop: CancellationToken,
    accepting: JoinHandle<()>,
}

/// What its connections share.
struct Shared {
    /// The name, as the load and the poller read it.
    answer: String,
    /// To a HEAD, which is how HAProxy checks: no body follows.
    healthy: String,
    /// The first piece of a long answer, with its head.
    stream: String,
    last_hit: watch::Sender<Tick>,
    in_flight: watch::Sender<usize>,
    stop: CancellationToken,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Check,
    Answer,
    Stream,
}

/// A request in flight, from its connection or its head on until it is answered.
struct InFlight<'s>(&'s watch::Sender<usize>);

impl App {
    /// Starts one that says it is `name`. Only clients on this host are answered, wherever it listens.
    pub(crate) async fn start(addr: SocketAddr, name: &str) -> Result<Self> {
        let listener = TcpListener::bind(addr).await.with_context(|| format!("cannot listen on {addr}"))?;
        let body = serde_json::json!({ "tag": name }).to_string();
        let healthy = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        let (note, last_hit) = watch::channel(Tick::default());
        let (count, in_flight) = watch::channel(0);
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            answer: format!("{healthy}{body}"),
            healthy,
            stream: format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n",
                body.len()
            ),
            last_hit: note,
            in_flight: count,
            stop: stop.clone(),
        });
        let accepting = tokio::spawn(accept(listener, shared));
        Ok(Self { port: addr.port(), last_hit, in_flight, stop, accepting })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// When it was asked last; HAProxy's checks do not count.
    pub(crate) fn last_hit(&self) -> Tick {
        *self.last_hit.borrow()
    }

    /// Waits until nothing is in flight.
    pub(crate) async fn idle(&self) -> Result<()> {
        let mut in_flight = self.in_flight.clone();
        let idle = tokio::time::timeout(IDLE_MAX, in_flight.wait_for(|count| *count == 0)).await;
        idle.with_context(|| format!("requests in flight for {IDLE_MAX:?}"))?.context("the app has ended")?;
        Ok(())
    }

    /// Stops listening and closes idle connections; who is being answered is answered.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        // Ends with the token. A panic in it ends it as well.
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Shared {
    fn in_flight(&self) -> InFlight<'_> {
        self.in_flight.send_modify(|count| *count += 1);
        InFlight(&self.in_flight)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        // A client that has given up before it was accepted is no reason to stop.
        let Ok((stream, peer)) = accepted else { continue };
        if peer.ip().is_loopback() {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                // Ends with its connection, whichever side closes it.
                let _ = serve(stream, &shared).await;
            });
        }
    }
}

async fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    // HAProxy connects when it has something to ask.
    let mut in_flight = Some(shared.in_flight());
    loop {
        let asked = tokio::select! {
            biased;
            asked = read_head(&mut stream) => asked?,
            () = shared.stop.cancelled(), if in_flight.is_none() => None,
        };
        let Some(asked) = asked else {
            return Ok(());
        };
        in_flight.get_or_insert_with(|| shared.in_flight());
        if asked != Asked::Check {
            shared.last_hit.send_replace(Clock.now());
        }
        match asked {
            Asked::Check => stream.write_all(shared.healthy.as_bytes()).await?,
            Asked::Answer => stream.write_all(shared.answer.as_bytes()).await?,
            Asked::Stream => tell_long(&mut stream, &shared.stream).await?,
        }
        in_flight = None;
    }
}

/// The first piece, then spaces: JSON ends with any number of them.
async fn tell_long(stream: &mut BufReader<TcpStream>, first: &str) -> io::Result<()> {
    stream.write_all(first.as_bytes()).await?;
    for _ in 1..PIECES {
        tokio::time::sleep(PIECE_EVERY).await;
        stream.write_all(b"1\r\n \r\n").await?;
    }
    tokio::time::sleep(PIECE_EVERY).await;
    stream.write_all(b"0\r\n\r\n").await
}

/// Reads over a request: what it asks for, or `None` at the connection's end.
async fn read_head(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Asked>> {
    let (mut line, mut asked) = (String::new(), None);
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        if line.trim().is_empty() {
            return Ok(Some(asked.unwrap_or(Asked::Answer)));
        }
        asked.get_or_insert_with(|| match line.strip_prefix("GET ") {
            None => Asked::Check,
            Some(rest) if rest.starts_with(STREAM) => Asked::Stream,
            Some(_) => Asked::Answer,
        });
    }
}
