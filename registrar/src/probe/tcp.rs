//! The TCP check: does the port take connections?

use std::net::SocketAddr;

use tokio::net::TcpStream;

/// Connects to `target` and hangs up.
pub(super) async fn perform(target: SocketAddr) -> Result<(), String> {
    connect(target).await.map(drop)
}

/// A connection to `target`.
pub(super) async fn connect(target: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(target).await.map_err(|error| format!("cannot connect to {target}: {error}"))
}
