//! The HTTP check: is a GET answered as expected?

use std::error::Error;
use std::net::SocketAddr;
use std::pin::pin;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONNECTION, HOST, HeaderValue, USER_AGENT};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::expected::Expected;
use super::tcp;
use super::tls::CheckTls;

/// Largest head of an answer, in bytes.
const HEAD_LEN_MAX: usize = 16 * 1024;
/// So much of a body is read, in bytes: for the text that is looked for, and so that an app which answers a page or less
/// does not see a broken pipe.
const BODY_LEN_MAX: usize = 64 * 1024;

/// Gets `path` from `target`, on a connection of its own: a kept one would pass while new ones are refused.
pub(super) async fn perform(
    target: SocketAddr,
    path: &PathAndQuery,
    expected: &Expected,
    tls: Option<&CheckTls>,
) -> Result<(), String> {
    let stream = tcp::connect(target).await?;
    match tls {
        Some(tls) => ask(tls.connect(stream).await?, target, path, expected).await,
        None => ask(stream, target, path, expected).await,
    }
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    target: SocketAddr,
    path: &PathAndQuery,
    expected: &Expected,
) -> Result<(), String> {
    let no_answer = |error: hyper::Error| format!("no HTTP answer from {target}: {}", causes(&error));
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_LEN_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(no_answer)?;
    let mut exchange = pin!(exchange(sender, target, path, expected));
    let mut connection = pin!(connection);
    let mut open = true;
    loop {
        tokio::select! {
            outcome = &mut exchange => return outcome,
            // Drives the exchange. Whatever ends it is seen by the exchange too, with what was received before.
            _ = &mut connection, if open => open = false,
        }
    }
}

async fn exchange(
    mut sender: SendRequest<Empty<Bytes>>,
    target: SocketAddr,
    path: &PathAndQuery,
    expected: &Expected,
) -> Result<(), String> {
    let asked = format!("GET {path}");
    let refused = |error: &dyn Error| format!("cannot ask for {path}: {error}");
    let mut request = Request::get(path.as_str()).body(Empty::new()).map_err(|error| refused(&error))?;
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::try_from(target.to_string()).map_err(|error| refused(&error))?);
    let agent = concat!("leasehold-registrar/", env!("CARGO_PKG_VERSION"));
    headers.insert(USER_AGENT, HeaderValue::from_static(agent));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.extend(expected.header_map());
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| format!("no HTTP answer from {target}: {}", causes(&error)))?;
    let status = response.status().as_u16();
    // A bad status has decided already; an app that failed need not finish its page.
    let body = if expected.statuses.holds(status) { read_some(response).await } else { vec![] };
    expected.judge(&asked, status, &body)
}

async fn read_some(mut response: Response<Incoming>) -> Vec<u8> {
    let mut body = vec![];
    while body.len() < BODY_LEN_MAX {
        let Some(Ok(frame)) = response.body_mut().frame().await else { break };
        body.extend_from_slice(frame.data_ref().map_or(&[], |data: &Bytes| data));
    }
    body
}

/// hyper's own text is only the first half of what happened.
fn causes(error: &hyper::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
