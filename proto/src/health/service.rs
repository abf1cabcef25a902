//! The three calls of the health service.

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response};

use super::{
    Statuses,
    v1::{
        HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
        health_check_response::ServingStatus,
        health_server::{Health, HealthServer},
    },
    watch::follow,
};

/// The most services that `List` answers with; the protocol sets this limit.
pub const SERVICES_LISTED_MAX: usize = 100;

/// The most `Watch` streams open at once. Each costs a task and a few hundred bytes; the watchers are an orchestrator and a
/// few people, so more than this is a client that forgets its streams.
pub const WATCHES_MAX: usize = 128;

/// The largest request taken, in bytes. A request is one service name; ours have at most 64 characters.
const REQUEST_BYTES_MAX: usize = 4096;

/// The health service, ready to be added to a server. Open `Watch` streams end when `shutdown` is cancelled: a graceful
/// shutdown would wait for them for ever.
#[must_use]
pub fn server(
    statuses: watch::Receiver<Statuses>,
    shutdown: CancellationToken,
) -> HealthServer<HealthService> {
    HealthServer::new(HealthService::new(statuses, shutdown)).max_decoding_message_size(REQUEST_BYTES_MAX)
}

/// Answers from the latest map of statuses.
#[derive(Debug)]
pub struct HealthService {
    statuses: watch::Receiver<Statuses>,
    shutdown: CancellationToken,
    /// One permit for each `Watch` that may be open; a permit comes back when its stream's task ends.
    watches: Arc<Semaphore>,
}

impl HealthService {
    fn new(statuses: watch::Receiver<Statuses>, shutdown: CancellationToken) -> Self {
        let watches = Arc::new(Semaphore::new(WATCHES_MAX));
        Self { statuses, shutdown, watches }
    }

    fn statuses(&self) -> Statuses {
        Arc::clone(&self.statuses.borrow())
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, tonic::Status> {
        let service = request.into_inner().service;
        let status = self.statuses().get(&service).copied();
        let status =
            status.ok_or_else(|| tonic::Status::not_found(format!("unknown service `{service}`")))?;
        Ok(Response::new(ServingStatus::from(status).into()))
    }

    async fn list(
        &self,
        _: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, tonic::Status> {
        let statuses = self.statuses();
        if statuses.len() > SERVICES_LISTED_MAX {
            return Err(tonic::Status::resource_exhausted(format!(
                "{} services are known, List answers with at most {SERVICES_LISTED_MAX}; use Check",
                statuses.len()
            )));
        }
        let statuses = statuses
            .iter()
            .map(|(name, status)| (name.clone(), ServingStatus::from(*status).into()))
            .collect();
        Ok(Response::new(HealthListResponse { statuses }))
    }

    type WatchStream = ReceiverStream<Result<HealthCheckResponse, tonic::Status>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, tonic::Status> {
        let permit = Arc::clone(&self.watches).try_acquire_owned().map_err(|_| {
            tonic::Status::resource_exhausted(format!(
                "{WATCHES_MAX} Watch streams are open, the most allowed"
            ))
        })?;
        let service = request.into_inner().service;
        let stream = follow(service, self.statuses.clone(), self.shutdown.clone(), permit);
        Ok(Response::new(stream))
    }
}
