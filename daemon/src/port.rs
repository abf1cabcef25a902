//! The one port of each binary: gRPC health and reflection, `/healthz` for those who speak HTTP only, and what the binary
//! has [`PortServices`] these.

mod listener;
mod tls;

use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;

use listener::Bounded;
use proto::FILE_DESCRIPTOR_SET;
use proto::health::{self, Status, Statuses};
use tls::Secure;
pub use tls::{PortTlsOptions, Tls, TlsError};

/// The port cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr}: {}\n  {}", plain(.cause), advice(.cause))]
pub struct ListenError {
    /// What was asked for.
    pub addr: SocketAddr,
    /// What was seen.
    pub cause: io::Error,
}

/// Takes `addr`. To be done before anything else is begun: what cannot work is told before anything has happened.
pub async fn listen(addr: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(addr).await.map_err(|cause| ListenError { addr, cause })
}

fn plain(cause: &io::Error) -> String {
    match cause.kind() {
        io::ErrorKind::AddrInUse => "the port is in use".into(),
        io::ErrorKind::AddrNotAvailable => "this host does not have that address".into(),
        _ => cause.to_string(),
    }
}

fn advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::AddrInUse => {
            "another one on this host? Give each a port of its own with --listen ADDR:PORT (LEASEHOLD_LISTEN)"
        }
        _ => "choose another with --listen ADDR:PORT (LEASEHOLD_LISTEN)",
    }
}

/// What a binary serves beside health.
#[derive(Debug, Default)]
pub struct PortServices {
    /// gRPC services.
    pub grpc: RoutesBuilder,
    /// Pages.
    pub pages: Router,
    /// TLS, where it is wanted.
    pub tls: Option<Tls>,
}

/// Serves until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    statuses: watch::Receiver<Statuses>,
    services: PortServices,
    shutdown: CancellationToken,
) {
    let PortServices { mut grpc, pages, tls } = services;
    grpc.add_service(health::server(statuses.clone(), shutdown.clone()));
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
    };
    // Descriptors that do not parse would have failed in this crate's tests: then there is no reflection.
    if let (Ok(v1), Ok(v1alpha)) = (reflection().build_v1(), reflection().build_v1alpha()) {
        grpc.add_service(v1).add_service(v1alpha);
    }
    let healthz = get(healthz).with_state(statuses);
    let routes = grpc.routes().prepare().into_axum_router().route("/healthz", healthz).merge(pages);
    let bounded = Bounded::new(listener);
    let serving = async {
        // Errors of single connections do not end it; that it ended at all is told by the task's end.
        let _ = match tls {
            None => axum::serve(bounded, routes).await,
            Some(tls) => axum::serve(Secure::new(bounded, tls), routes).await,
        };
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = serving => {}
    }
}

/// 200 while health `""` is SERVING, else 503; a line for each name.
async fn healthz(State(statuses): State<watch::Receiver<Statuses>>) -> (StatusCode, String) {
    let statuses = statuses.borrow().clone();
    let code = match statuses.get("") {
        Some(Status::Serving) => StatusCode::OK,
        Some(Status::NotServing) | None => StatusCode::SERVICE_UNAVAILABLE,
    };
    let line = |(name, status): (&String, &Status)| {
        let name = if name.is_empty() { "(all)" } else { name };
        let word = if *status == Status::Serving { "serving" } else { "not serving" };
        format!("{name}: {word}\n")
    };
    (code, statuses.iter().map(line).collect())
}
