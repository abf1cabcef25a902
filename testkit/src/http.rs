//! One request on a connection of its own: for health pages and the app's switches, where a client with a pool would be a second suspect.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::port::loopback;
use crate::wait::within;

/// Longest an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Most of an answer that is read, in bytes.
const ANSWER_LEN_MAX: u64 = 1024 * 1024;

/// The status and the body of `GET path` on `port` of loopback.
pub async fn get(port: u16, path: &str) -> Result<(u16, String)> {
    get_at(loopback(port), path).await
}

/// The status and the body of `GET path` at `addr`.
pub async fn get_at(addr: SocketAddr, path: &str) -> Result<(u16, String)> {
    exchange(addr, "GET", path, "", "").await
}

/// The status of `GET /` on `port` of loopback with this `Cookie` header.
pub async fn get_with_cookie(port: u16, cookie: &str) -> Result<u16> {
    Ok(exchange(loopback(port), "GET", "/", &format!("Cookie: {cookie}\r\n"), "").await?.0)
}

/// The same of a `POST` with `body`.
pub async fn post(port: u16, path: &str, body: &str) -> Result<(u16, String)> {
    exchange(loopback(port), "POST", path, "", body).await
}

/// The same of a `PUT`.
pub async fn put(port: u16, path: &str, body: &str) -> Result<(u16, String)> {
    exchange(loopback(port), "PUT", path, "", body).await
}

/// `headers`: further header lines, each with its line end.
async fn exchange(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> Result<(u16, String)> {
    let len = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len}\r\nConnection: close\r\n{headers}\r\n{body}"
    );
    let asked = async {
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_LEN_MAX).read_to_end(&mut answer).await?;
        anyhow::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = within(ANSWER_MAX, format!("{method} {path} at {addr}"), asked).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("not an HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.context("no HTTP status")?, body.into()))
}
