//! The gRPC check: does the standard health service answer SERVING?

use std::net::SocketAddr;
use std::time::Duration;

use proto::health::{ProbeOutcome, ProbeTlsOptions, probe};

/// Asks for `service`; empty for the server as a whole.
pub(super) async fn perform(target: SocketAddr, service: &str, timeout: Duration) -> Result<(), String> {
    match probe(&target.to_string(), service, timeout, &ProbeTlsOptions::default()).await {
        ProbeOutcome::Serving => Ok(()),
        other => Err(format!("grpc at {target}: {other}")),
    }
}
