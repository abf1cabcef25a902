//! Addresses that checks and requests go to: some listen, some do not, and it changes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How many there are.
pub(crate) const APPS: usize = 3;

/// One address, and what listens there.
struct App {
    addr: SocketAddr,
    listening: Option<JoinHandle<()>>,
}

/// All of them, on loopback addresses of their own: no other process takes a port there while it is free.
pub(crate) struct Apps {
    all: Vec<App>,
    /// Changes when requests that are held are to be answered.
    released: watch::Sender<u32>,
    /// How many requests to be held have arrived.
    arrived: watch::Sender<u32>,
}

impl Apps {
    pub(crate) async fn start() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let pid = std::process::id().to_be_bytes();
        let (mut apps, released, arrived) = (Vec::new(), watch::Sender::new(0), watch::Sender::new(0));
        for _ in 0..APPS {
            let host = 1 + NEXT.fetch_add(1, Ordering::Relaxed) % 250;
            let ip = [127, 1 + pid[2] % 100, pid[3], u8::try_from(host).unwrap()];
            let listener = TcpListener::bind(SocketAddr::from((ip, 0))).await.unwrap();
            let addr = listener.local_addr().unwrap();
            apps.push(App { addr, listening: Some(accept(listener, released.subscribe(), arrived.clone())) });
        }
        Self { all: apps, released, arrived }
    }

    pub(crate) fn addr(&self, app: usize) -> SocketAddr {
        self.all[app].addr
    }

    pub(crate) fn listens(&self, addr: SocketAddr) -> bool {
        self.all.iter().any(|app| app.addr == addr && app.listening.is_some())
    }

    /// Ends what listens, or has something listen again.
    pub(crate) async fn toggle(&mut self, app: usize) {
        let app = &mut self.all[app];
        if let Some(listening) = app.listening.take() {
            listening.abort();
            // The socket is closed once the task is over.
            let _ = listening.await;
        } else {
            let listener = TcpListener::bind(app.addr).await.unwrap();
            app.listening = Some(accept(listener, self.released.subscribe(), self.arrived.clone()));
        }
    }
}

impl Apps {
    /// Tells of requests to be held that arrive from now on.
    pub(crate) fn arrivals(&self) -> watch::Receiver<u32> {
        self.arrived.subscribe()
    }

    /// Answers what is held.
    pub(crate) fn release(&self) {
        self.released.send_modify(|count| *count += 1);
    }
}

impl Drop for Apps {
    fn drop(&mut self) {
        self.all.iter().filter_map(|app| app.listening.as_ref()).for_each(JoinHandle::abort);
    }
}

fn accept(
    listener: TcpListener,
    released: watch::Receiver<u32>,
    arrived: watch::Sender<u32>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, released.clone(), arrived.clone()));
        }
    })
}

/// Answers requests. One for `/hold…` is answered once those are released; after one for `/…keep` the connection stays
/// open.
async fn serve(mut stream: TcpStream, mut released: watch::Receiver<u32>, arrived: watch::Sender<u32>) {
    let mut bytes = [0; 4_096];
    loop {
        let length = stream.read(&mut bytes).await.unwrap_or(0);
        if length == 0 {
            return;
        }
        let request = String::from_utf8_lossy(&bytes[..length]).into_owned();
        let path = request.split(' ').nth(1).unwrap_or_default();
        if path.starts_with("/hold") {
            released.mark_unchanged();
            // From here on a release is seen.
            arrived.send_modify(|count| *count += 1);
            let _ = released.changed().await;
        }
        let keeps = path.ends_with("keep");
        let close = if keeps { "" } else { "Connection: close\r\n" };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{close}\r\n");
        if stream.write_all(answer.as_bytes()).await.is_err() || !keeps {
            return;
        }
    }
}
