//! One command, one answer, one connection: the plainest way to ask.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use haproxy::ask_once;
use tokio::net::{TcpStream, UnixStream};

use crate::wait::within;

/// Longest an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(3);

pub(crate) async fn ask(socket: &Path, command: &str) -> Result<String> {
    let asked = async { ask_once(UnixStream::connect(socket).await?, command).await };
    within(ANSWER_MAX, format_args!("ask HAProxy at {} to {command}", socket.display()), asked).await
}

/// The same over TCP, as the lab has it.
pub(crate) async fn ask_over_tcp(addr: SocketAddr, command: &str) -> Result<String> {
    let asked = async { ask_once(TcpStream::connect(addr).await?, command).await };
    within(ANSWER_MAX, format_args!("ask HAProxy at {addr} to {command}"), asked).await
}
