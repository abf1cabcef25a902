//! Whether the status port can be had.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use daemon::port::{self, PortTlsOptions};
use proto::health::{ProbeOutcome, ProbeTlsOptions, probe};

use super::finding::Finding;

const CHECK: &str = "status port";
/// Longest wait for the answer of the process that has the port.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// Free, taken by a process that answers for health as lb-sync does, or not to be had.
pub(super) async fn status(listen: SocketAddr, tls: &PortTlsOptions) -> Finding {
    let secured = match tls.checked() {
        Ok(tls) => tls.is_some(),
        Err(error) => return Finding::by_error(CHECK, &error),
    };
    let Err(error) = port::listen(listen).await else {
        return Finding::ok(CHECK, format!("{listen} is free"));
    };
    if error.cause.kind() != ErrorKind::AddrInUse {
        return Finding::by_error(CHECK, &error);
    }
    if secured {
        let text = format!("{listen} is in use; by an lb-sync? It speaks TLS, and was not asked");
        return Finding::ok(CHECK, text);
    }
    match probe(&listen.to_string(), "registry", ANSWER_MAX, &ProbeTlsOptions::default()).await {
        outcome @ (ProbeOutcome::Serving | ProbeOutcome::NotServing(_)) => {
            Finding::ok(CHECK, format!("an lb-sync runs at {listen} already ({outcome})"))
        }
        _ => Finding::by_error(CHECK, &error),
    }
}
