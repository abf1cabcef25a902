//! One open `Watch` stream: the first status at once, then each change of it.

use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{
    Statuses,
    v1::{HealthCheckResponse, health_check_response::ServingStatus},
};

type Answer = Result<HealthCheckResponse, tonic::Status>;

/// Messages waiting for a slow reader. One is enough: what changes in the meantime is read from the map when there is room
/// again, so a slow reader misses what is over, and never the latest.
const WAITING_MAX: usize = 1;

/// The statuses of `service`, until the reader goes, `shutdown` is cancelled, or the map's owner has ended. The
/// permit is given back then.
pub(super) fn follow(
    service: String,
    statuses: watch::Receiver<Statuses>,
    shutdown: CancellationToken,
    permit: OwnedSemaphorePermit,
) -> ReceiverStream<Answer> {
    let (stream, reader) = mpsc::channel(WAITING_MAX);
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            () = stream.closed() => {}
            () = send_changes(&service, statuses, &stream) => {}
        }
        drop(permit);
    });
    ReceiverStream::new(reader)
}

async fn send_changes(service: &str, mut statuses: watch::Receiver<Statuses>, stream: &mpsc::Sender<Answer>) {
    let mut told = None;
    loop {
        let status = status_of(&statuses.borrow_and_update(), service);
        if told.replace(status) != Some(status) && stream.send(Ok(status.into())).await.is_err() {
            return;
        }
        if statuses.changed().await.is_err() {
            return;
        }
    }
}

/// Unlike Check, Watch has a word for a service that is not known (yet, or any more).
fn status_of(statuses: &Statuses, service: &str) -> ServingStatus {
    statuses.get(service).map_or(ServingStatus::ServiceUnknown, |status| ServingStatus::from(*status))
}
