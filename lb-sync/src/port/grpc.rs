//! `leasehold.v1.Registry`: what this balancer knows of the registry, and what it makes of it.

mod convert;
mod follow;
mod select;

use std::sync::Arc;

use proto::registry::v1::registry_server::{Registry, RegistryServer};
use proto::registry::v1::{
    Instance, ListEventsRequest, ListEventsResponse, ListInstancesRequest, ListInstancesResponse,
    ListServicesRequest, ListServicesResponse, WatchInstancesRequest, WatchInstancesResponse,
};
use tokio::sync::Semaphore;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use self::select::Filter;
use super::handle::StatusHandle;
use super::journal::JournalEvent;
use super::report::Report;

/// Entries on a page, and in a part of a snapshot.
const PAGE_MAX: usize = 1_000;
/// Watches open at once. Who watches is a dashboard or two; more is a client that forgets its streams.
const WATCHES_MAX: usize = 128;
/// Largest request, in bytes: a filter with 16 labels.
const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// The service, ready to be added to a server. Open watches end with `shutdown`.
pub(super) fn server(hub: StatusHandle, shutdown: CancellationToken) -> RegistryServer<RegistryService> {
    let watches = Arc::new(Semaphore::new(WATCHES_MAX));
    RegistryServer::new(RegistryService { hub, shutdown, watches })
        .max_decoding_message_size(REQUEST_BYTES_MAX)
}

/// Answers from reports.
#[derive(Debug)]
pub(super) struct RegistryService {
    hub: StatusHandle,
    shutdown: CancellationToken,
    watches: Arc<Semaphore>,
}

impl RegistryService {
    async fn report(&self) -> Result<Arc<Report>, Status> {
        let busy = || Status::unavailable("lb-sync has had no time for an answer yet; ask again");
        self.hub.report(0).await.ok_or_else(busy)
    }
}

#[tonic::async_trait]
impl Registry for RegistryService {
    type WatchInstancesStream = ReceiverStream<Result<WatchInstancesResponse, Status>>;

    async fn list_services(
        &self,
        request: Request<ListServicesRequest>,
    ) -> Result<Response<ListServicesResponse>, Status> {
        let ListServicesRequest { page_size, page_token } = request.into_inner();
        let report = self.report().await?;
        let services = convert::services(&report);
        let after = services.into_iter().filter(|service| service.name > page_token);
        let (services, next_page_token) = page(after, page_size, |service| service.name.clone());
        Ok(Response::new(ListServicesResponse {
            view: Some(convert::view(&report)),
            services,
            next_page_token,
        }))
    }

    async fn list_instances(
        &self,
        request: Request<ListInstancesRequest>,
    ) -> Result<Response<ListInstancesResponse>, Status> {
        let ListInstancesRequest { filter, page_size, page_token } = request.into_inner();
        let filter = Filter::new(filter)?;
        let report = self.report().await?;
        let after = filter.select(&report).filter(|one| token(one) > page_token);
        let (instances, next_page_token) = page(after, page_size, token);
        Ok(Response::new(ListInstancesResponse {
            view: Some(convert::view(&report)),
            instances,
            next_page_token,
        }))
    }

    async fn list_events(
        &self,
        request: Request<ListEventsRequest>,
    ) -> Result<Response<ListEventsResponse>, Status> {
        let instance = request.into_inner().instance;
        let latest = self.hub.journal().latest();
        let of_it =
            |one: &&Arc<JournalEvent>| instance.is_empty() || one.instance.as_ref() == Some(&instance);
        let events = latest.iter().filter(of_it).map(|one| convert::event(one)).collect();
        Ok(Response::new(ListEventsResponse { events }))
    }

    async fn watch_instances(
        &self,
        request: Request<WatchInstancesRequest>,
    ) -> Result<Response<Self::WatchInstancesStream>, Status> {
        let filter = Filter::new(request.into_inner().filter)?;
        let Ok(permit) = Arc::clone(&self.watches).try_acquire_owned() else {
            return Err(Status::resource_exhausted(format!(
                "{WATCHES_MAX} watches are open, which is the most that are; close one"
            )));
        };
        Ok(Response::new(follow::follow(self.hub.clone(), filter, self.shutdown.clone(), permit)))
    }
}

/// Orders instances as the report does: by service, then by name. No name has a `/`.
fn token(one: &Instance) -> String {
    format!("{}/{}", one.service, one.instance)
}

/// The first of `entries`, and where the next page begins, if there is one.
fn page<T>(
    mut entries: impl Iterator<Item = T>,
    page_size: u32,
    token: impl Fn(&T) -> String,
) -> (Vec<T>, String) {
    let most = match usize::try_from(page_size) {
        Ok(0) | Err(_) => PAGE_MAX,
        Ok(size) => size.min(PAGE_MAX),
    };
    let page: Vec<T> = entries.by_ref().take(most).collect();
    let more = entries.next().is_some();
    let next = page.last().filter(|_| more).map(token).unwrap_or_default();
    (page, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_to_the_end() {
        let names: Vec<String> = (0..2_500).map(|n| format!("{n:04}")).collect();
        let mut seen = Vec::new();
        let mut from = String::new();
        let mut pages = 0;
        loop {
            let after = names.iter().filter(|name| **name > from).cloned();
            let (page, next) = page(after, 0, String::clone);
            seen.extend(page);
            pages += 1;
            if next.is_empty() {
                break;
            }
            from = next;
        }
        assert_eq!((pages, seen), (3, names));
        assert_eq!(page(["a", "b"].into_iter(), 1, |name| (*name).into()).1, "a");
    }
}
