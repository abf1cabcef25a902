//! Requests through a real HAProxy.

use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The server that answered: `None` for HAProxy's own 503, and for no answer at all.
    pub(crate) server: Option<String>,
    /// It sets the client's cookie.
    pub(crate) sets_cookie: bool,
}

/// One request on a connection of its own.
pub(crate) async fn request(front: &Path, method: &str, path: &str, cookie: Option<&str>) -> Answer {
    let text = exchange(front, method, path, cookie).await.unwrap_or_default();
    let header = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    Answer {
        server: header("x-server").map(str::to_owned).filter(|_| text.starts_with("HTTP/1.1 200")),
        sets_cookie: header("set-cookie").is_some(),
    }
}

async fn exchange(front: &Path, method: &str, path: &str, cookie: Option<&str>) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(front).await?;
    let cookie = cookie.map(|cookie| format!("Cookie: LBI={cookie}\r\n")).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: web\r\nContent-Length: 0\r\nConnection: close\r\n{cookie}\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}
