//! One command, one answer, one connection: the plainest way to ask.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use crate::wait::within;

/// Longest an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// Most of an answer that is read, in bytes; a stack's whole table is some 10 kB.
const ANSWER_LEN_MAX: u64 = 4 * 1024 * 1024;

pub(crate) async fn ask(socket: &Path, command: &str) -> Result<String> {
    let asked = async { exchange(UnixStream::connect(socket).await?, command).await };
    within(ANSWER_MAX, format_args!("ask HAProxy at {} to {command}", socket.display()), asked).await
}

/// The same over TCP, as the lab has it.
pub(crate) async fn ask_over_tcp(addr: SocketAddr, command: &str) -> Result<String> {
    let asked = async { exchange(TcpStream::connect(addr).await?, command).await };
    within(ANSWER_MAX, format_args!("ask HAProxy at {addr} to {command}"), asked).await
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, command: &str) -> std::io::Result<String> {
    stream.write_all(format!("{command}\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.take(ANSWER_LEN_MAX).read_to_string(&mut answer).await?;
    Ok(answer)
}
