//! `leasehold.v1.Registry`: what a balancer tells about the registry. The server is in `lb-sync`.

/// Generated from `leasehold/v1/registry.proto`.
#[allow(
    clippy::all,
    clippy::pedantic,
    missing_docs,
    unused_qualifications,
    reason = "generated; the .proto file is what we keep tidy"
)]
pub mod v1 {
    tonic::include_proto!("leasehold.v1");
}
