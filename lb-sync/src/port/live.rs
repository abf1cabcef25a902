//! The page's content as server-sent events: anew whenever something looks different.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::Event;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::handle::StatusHandle;
use super::page;

/// Browsers that look on at once.
const VIEWERS_MAX: usize = 32;
/// Shortest time between two events: what a person can follow.
const EVENT_EVERY: Duration = Duration::from_millis(100);
/// Longest without a look at the counters.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A browser that takes nothing for so long is cut off; it comes back by itself.
const SLOW_MAX: Duration = Duration::from_secs(5);

/// Who looks on.
#[derive(Clone, Debug)]
pub(super) struct Viewers {
    room: Arc<Semaphore>,
    shutdown: CancellationToken,
}

type Message = Result<Event, Infallible>;

impl Viewers {
    pub(super) fn new(shutdown: CancellationToken) -> Self {
        Self { room: Arc::new(Semaphore::new(VIEWERS_MAX)), shutdown }
    }

    /// The events, until the browser goes; `None` if there are too many already.
    pub(super) fn follow(&self, hub: StatusHandle) -> Option<ReceiverStream<Message>> {
        let place = Arc::clone(&self.room).try_acquire_owned().ok()?;
        let (stream, reader) = mpsc::channel(1);
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            let _place: OwnedSemaphorePermit = place;
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = stream.closed() => {}
                () = tell(hub, &stream) => {}
            }
        });
        Some(ReceiverStream::new(reader))
    }
}

async fn tell(mut hub: StatusHandle, stream: &mpsc::Sender<Message>) {
    let mut told = String::new();
    loop {
        let generation = *hub.news.borrow_and_update();
        if let Some(report) = hub.report(generation).await {
            let traffic = hub.meter().read(&report).await;
            if let Ok(content) = page::content(&report, &traffic, &hub.journal().latest())
                && content != told
            {
                // A carriage return would end the event; in HTML it is a space.
                let event = Event::default().data(content.replace('\r', " "));
                if !matches!(tokio::time::timeout(SLOW_MAX, stream.send(Ok(event))).await, Ok(Ok(()))) {
                    return;
                }
                told = content;
            }
        }
        tokio::time::sleep(EVENT_EVERY).await;
        tokio::select! {
            changed = hub.news.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}
