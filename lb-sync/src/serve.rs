//! The status port: gRPC health and `/healthz`.

use std::net::SocketAddr;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use proto::health::{Status, Statuses};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The port could not be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {addr}: {cause}\n  another lb-sync may be running; --listen (LEASEHOLD_LISTEN) takes another ADDR:PORT"
)]
pub struct ListenError {
    addr: SocketAddr,
    cause: std::io::Error,
}

/// Takes the port, before anything else is begun.
pub async fn bind(addr: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(addr).await.map_err(|cause| ListenError { addr, cause })
}

/// Serves until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    health: watch::Receiver<Statuses>,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let grpc = proto::health::server(health.clone(), shutdown.clone());
    let grpc = tonic::service::Routes::new(grpc).prepare().into_axum_router();
    let app: Router =
        Router::new().route("/healthz", get(move || std::future::ready(healthz(&health)))).merge(grpc);
    axum::serve(listener, app).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

/// 200 while in sync and HAProxy answers, else 503, with what is known in words.
fn healthz(health: &watch::Receiver<Statuses>) -> (StatusCode, String) {
    let statuses = health.borrow().clone();
    let word = |name: &str| match statuses.get(name) {
        Some(Status::Serving) => "ok",
        Some(Status::NotServing) | None => "not ok",
    };
    let text = format!(
        "in sync and HAProxy answers: {}\nview of the registry current: {}\n",
        word(""),
        word("registry")
    );
    let code = if word("") == "ok" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, text)
}
