//! The HTTP check: does a GET get a status of 200 to 399?

use std::error::Error;
use std::net::SocketAddr;
use std::pin::pin;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use super::tcp;

/// Largest head of an answer, in bytes.
const HEAD_LEN_MAX: usize = 16 * 1024;
/// So much of a body is read, in bytes, that an app which answers a page or less does not see a broken pipe.
const BODY_LEN_MAX: usize = 64 * 1024;

/// Gets `path` from `target`, on a connection of its own: a kept one would pass while new ones are refused.
pub(super) async fn perform(target: SocketAddr, path: &PathAndQuery) -> Result<(), String> {
    let no_answer = |error: hyper::Error| format!("no HTTP answer from {target}: {}", causes(&error));
    let stream = tcp::connect(target).await?;
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_LEN_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(no_answer)?;
    let mut exchange = pin!(exchange(sender, target, path));
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
) -> Result<(), String> {
    let request = Request::get(path.as_str())
        .header(HOST, target.to_string())
        .header(USER_AGENT, concat!("leasehold-registrar/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| format!("cannot ask for {path}: {error}"))?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| format!("no HTTP answer from {target}: {}", causes(&error)))?;
    let status = response.status().as_u16();
    if !(200..400).contains(&status) {
        return Err(format!("GET {path} answered {status}, not 200 to 399"));
    }
    read_some(response).await;
    Ok(())
}

/// Takes in the body for good manners only; the status has decided.
async fn read_some(mut response: Response<Incoming>) {
    let mut read = 0;
    while read < BODY_LEN_MAX {
        let Some(Ok(frame)) = response.body_mut().frame().await else { return };
        read += frame.data_ref().map_or(0, Bytes::len);
    }
}

/// hyper's own text is only the first half of what happened.
fn causes(error: &hyper::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
