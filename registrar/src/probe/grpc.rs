//! The gRPC check: does the standard health service answer SERVING?

use std::net::SocketAddr;
use std::time::Duration;

use proto::health::{ProbeOutcome, ProbeTlsOptions, probe};

use super::tls::CheckTls;

/// Asks for `service`; empty for the server as a whole.
pub(super) async fn perform(
    target: SocketAddr,
    service: &str,
    tls: Option<&CheckTls>,
    timeout: Duration,
) -> Result<(), String> {
    let options = tls.map_or_else(ProbeTlsOptions::default, |tls| ProbeTlsOptions {
        cacert: tls.cacert.clone(),
        server_name: tls.name(),
        ..ProbeTlsOptions::default()
    });
    match probe(&target.to_string(), service, timeout, &options).await {
        ProbeOutcome::Serving => Ok(()),
        other => Err(format!("grpc at {target}: {other}")),
    }
}
