//! The app: as little HTTP as HAProxy takes for a server, and a note of when it was asked last.

use std::sync::Arc;

use anyhow::Result;
use stack::port::loopback;
use stack::{Clock, Tick};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";
/// To a HEAD, which is how HAProxy checks: no body follows.
const HEALTHY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";

/// An app that answers until it is dropped with the runtime.
#[derive(Debug)]
pub(super) struct Backend {
    port: u16,
    last_hit: watch::Receiver<Tick>,
}

impl Backend {
    pub(super) async fn start(port: u16) -> Result<Self> {
        let listener = TcpListener::bind(loopback(port)).await?;
        let (note, last_hit) = watch::channel(Tick::default());
        let note = Arc::new(note);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let note = Arc::clone(&note);
                tokio::spawn(async move {
                    // Ends with its connection, whichever side closes it.
                    let _ = serve(stream, &note).await;
                });
            }
        });
        Ok(Self { port, last_hit })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// When it was asked last; HAProxy's checks do not count.
    pub(super) fn last_hit(&self) -> Tick {
        *self.last_hit.borrow()
    }
}

async fn serve(stream: TcpStream, note: &watch::Sender<Tick>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    loop {
        let mut is_check = None;
        loop {
            line.clear();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            if line.trim().is_empty() {
                break;
            }
            is_check.get_or_insert_with(|| !line.starts_with("GET "));
        }
        if is_check == Some(true) {
            stream.write_all(HEALTHY).await?;
        } else {
            note.send_replace(Clock.now());
            stream.write_all(ANSWER).await?;
        }
    }
}
