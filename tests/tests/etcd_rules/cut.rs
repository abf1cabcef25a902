//! A wire to etcd that can be cut: a forwarder on loopback.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Forwards to a port until it is severed; ends with its value.
pub(crate) struct Cut {
    addr: SocketAddr,
    whole: Arc<watch::Sender<bool>>,
    task: JoinHandle<()>,
}

impl Cut {
    /// A wire to `port` on loopback.
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let whole = Arc::new(watch::channel(true).0);
        let state = whole.subscribe();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, port, state.clone()));
            }
        });
        Self { addr, whole, task }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Breaks every connection; new ones are broken at once.
    pub(crate) fn sever(&self) {
        self.whole.send_replace(false);
    }

    pub(crate) fn mend(&self) {
        self.whole.send_replace(true);
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(mut client: TcpStream, port: u16, mut whole: watch::Receiver<bool>) {
    let carry = async {
        if let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await {
            let _ = copy_bidirectional(&mut client, &mut server).await;
        }
    };
    tokio::select! {
        _ = whole.wait_for(|whole| !*whole) => {}
        () = carry => {}
    }
}
