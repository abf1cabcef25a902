//! `grpc.health.v1.Health`, served over a map of statuses that the rest of the program keeps up to date, and asked by
//! `probe`. (tonic-health has no `List`, and ends `Watch` of an unknown service, which the protocol forbids.)

mod probe;
mod service;
mod watch;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

pub use probe::{ProbeOutcome, ProbeTlsOptions, probe};
pub use service::{HealthService, SERVICES_LISTED_MAX, WATCHES_MAX, server};

/// Generated from `grpc/health/v1/health.proto`.
#[allow(
    clippy::all,
    clippy::pedantic,
    missing_docs,
    unused_qualifications,
    reason = "generated; the .proto file is what we keep tidy"
)]
pub mod v1 {
    tonic::include_proto!("grpc.health.v1");
}

use v1::health_check_response::ServingStatus;

/// The status of every known service by name; `""` is the server as a whole. Replaced as one, never changed in place.
pub type Statuses = Arc<BTreeMap<String, Status>>;

/// What is known of a service. The protocol's other two values are no statuses of ours: an unknown service is one that
/// is not in the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Does its work.
    Serving,
    /// Is known, and does not.
    NotServing,
}

impl From<Status> for ServingStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Serving => Self::Serving,
            Status::NotServing => Self::NotServing,
        }
    }
}

impl From<bool> for Status {
    fn from(serving: bool) -> Self {
        if serving { Self::Serving } else { Self::NotServing }
    }
}

impl From<ServingStatus> for v1::HealthCheckResponse {
    fn from(status: ServingStatus) -> Self {
        Self { status: status.into() }
    }
}
