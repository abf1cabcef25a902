//! The load's client: an ordinary one, with its keepalive pool, that repeats nothing by itself.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::header::{COOKIE, HOST, HeaderMap, SET_COOKIE};
use hyper::{Request, Response, Uri};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::Plan;

/// After this a client has given up; HAProxy tries three times for 1 s each.
const PATIENCE: Duration = Duration::from_secs(8);
/// Below HAProxy's own 30 s: it must be us who closes an idle connection, or a request meets its closing.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Largest answer, in bytes; the app's has some 150.
const ANSWER_LEN_MAX: usize = 64 * 1024;
/// The cookie that the affinity of [`crate::haproxy::Layout`] goes by.
const STICKY: &str = "LBI";

/// One of the clients that take turns.
pub(super) type Asker = Option<usize>;

/// Clients behind one pool of connections.
#[derive(Debug)]
pub(super) struct Client {
    http: legacy::Client<HttpConnector, Empty<Bytes>>,
    uri: Uri,
    service: String,
    /// The sticky cookie of each client.
    cookies: Vec<Mutex<Option<String>>>,
}

impl Client {
    pub(super) fn new(plan: &Plan) -> Self {
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            // A request that would have to be repeated is one that failed.
            .retry_canceled_requests(false)
            .build_http();
        let uri =
            Uri::builder().scheme("http").authority(plan.target.to_string()).path_and_query(&*plan.path);
        Self {
            http,
            // A socket address is a legal authority.
            uri: uri.build().unwrap_or_default(),
            service: plan.service.clone(),
            cookies: (0..plan.sticky_clients).map(|_| Mutex::default()).collect(),
        }
    }

    /// Whose turn request `n` is.
    pub(super) fn turn_of(&self, n: u64) -> Asker {
        let clients = self.cookies.len() as u64;
        n.checked_rem(clients).and_then(|who| usize::try_from(who).ok())
    }

    /// Asks once. Who served it, or what the client would say went wrong.
    pub(super) async fn ask(&self, who: Asker) -> Result<String, String> {
        let answer = tokio::time::timeout(PATIENCE, self.exchange(who)).await;
        answer.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")))
    }

    async fn exchange(&self, who: Asker) -> Result<String, String> {
        let mut request = Request::get(self.uri.clone()).header(HOST, &self.service);
        if let Some(cookie) = self.cookie(who) {
            request = request.header(COOKIE, cookie);
        }
        let request = request.body(Empty::new()).map_err(|error| error.to_string())?;
        let answer = self.http.request(request).await.map_err(|error| chain(&error))?;
        let (head, body) = Response::into_parts(answer);
        let body = Limited::new(body, ANSWER_LEN_MAX).collect().await;
        let body = body.map_err(|error| format!("the body broke off: {error}"))?.to_bytes();
        if !head.status.is_success() {
            return Err(format!("status {}", head.status.as_u16()));
        }
        let by = served_by(&head.headers, &body)?;
        self.keep_cookie(who, &head.headers);
        Ok(by)
    }

    fn cookie(&self, who: Asker) -> Option<String> {
        let cookie = self.cookies.get(who?)?;
        cookie.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep_cookie(&self, who: Asker, headers: &HeaderMap) {
        let Some(kept) = who.and_then(|who| self.cookies.get(who)) else {
            return;
        };
        for value in headers.get_all(SET_COOKIE) {
            let pair = value.to_str().ok().and_then(|value| value.split(';').next());
            if let Some(pair) = pair.filter(|pair| pair.split('=').next() == Some(STICKY)) {
                *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(pair.into());
            }
        }
    }
}

/// The app's tag; an answer without one is not the app's.
fn served_by(headers: &HeaderMap, body: &[u8]) -> Result<String, String> {
    let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let tag = json.as_ref().and_then(|json| json.get("tag")?.as_str());
    let ip = || headers.get("x-backend-ip").and_then(|ip| ip.to_str().ok());
    match tag.filter(|tag| !tag.is_empty()).or_else(ip) {
        Some(by) => Ok(by.into()),
        None => Err("a success that is not from the app".into()),
    }
}

/// hyper's errors say what happened only in their causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let words: Vec<String> = causes.map(ToString::to_string).collect();
    words.join(": ")
}
