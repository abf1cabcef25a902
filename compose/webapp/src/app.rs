//! The app's routes.

use std::{
    io::{self, Write as _},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{ConnectInfo, DefaultBodyLimit, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header},
    response::{AppendHeaders, IntoResponse, Response},
    routing::{get, post},
};
use serde::Serialize;

use crate::{
    delay::{Delay, Refused},
    serve::LocalIp,
    session::{SESSIONS_MAX, SessionId, Sessions},
};

/// The largest body of a request; a delay needs 20 bytes.
const BODY_BYTES_MAX: usize = 1024;

/// What the requests share.
#[derive(Debug)]
struct App {
    host: String,
    tag: String,
    delay: Delay,
    log_requests: bool,
    /// Held for a few map operations, never across an await.
    sessions: Mutex<Sessions>,
}

/// The answer to `GET /`, in the order in which the lab's readers know it.
#[derive(Debug, Serialize)]
struct Greeting<'a> {
    hello: &'static str,
    ip: IpAddr,
    host: &'a str,
    tag: &'a str,
    #[serde(rename = "sessionViews")]
    session_views: u64,
    id: String,
}

/// The app as it starts: no sessions, no delay.
pub(crate) fn router(host: String, tag: String, log_requests: bool) -> Router {
    let sessions = Mutex::new(Sessions::new(SESSIONS_MAX));
    let app = App { host, tag, delay: Delay::default(), log_requests, sessions };
    Router::new()
        .route("/", get(hello).head(healthy))
        .route("/delay", post(set_delay))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(Arc::new(app))
}

/// The health check: neither slowed down by the delay nor counted as a visit.
async fn healthy() -> StatusCode {
    StatusCode::OK
}

async fn hello(
    State(app): State<Arc<App>>,
    ConnectInfo(LocalIp(ip)): ConnectInfo<LocalIp>,
    headers: HeaderMap,
) -> Response {
    app.delay.wait().await;
    let known = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|cookies| cookies.to_str().ok())
        .find_map(SessionId::from_cookies);
    let visit = {
        // A panic elsewhere leaves no half-made session behind: each visit is complete or has not begun.
        let mut sessions = app.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.visit(known, SessionId::random())
    };
    if app.log_requests {
        // Output without a reader does not fail a request.
        let _ = writeln!(io::stdout(), "GET / 200 session={} views={}", visit.id, visit.views);
    }
    let set_cookie = visit.is_new.then(|| (header::SET_COOKIE, visit.id.set_cookie()));
    let greeting = Greeting {
        hello: "world!",
        ip,
        host: &app.host,
        tag: &app.tag,
        session_views: visit.views,
        id: visit.id.to_string(),
    };
    ([("x-backend-ip", ip.to_string())], AppendHeaders(set_cookie), Json(greeting)).into_response()
}

async fn set_delay(State(app): State<Arc<App>>, body: Result<Bytes, BytesRejection>) -> Response {
    let set = match body {
        Ok(body) => app.delay.set(&body),
        Err(rejection) => Err(Refused::Unread(rejection.body_text())),
    };
    match set {
        Ok(set) => Json(set).into_response(),
        Err(refused) => (StatusCode::BAD_REQUEST, refused.to_string()).into_response(),
    }
}
