//! One open watch: the whole set first, then what changes in it.
//!
//! What matched when it was last told is compared with a new report whenever the pass has news, so that nothing has to
//! be remembered for watchers that are not there, and one that is slow costs its own set and no more.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::registry::v1::watch_instances_response::Event;
use proto::registry::v1::{Changes, Instance, InstanceKey, Progress, Snapshot, WatchInstancesResponse};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::super::handle::StatusHandle;
use super::PAGE_MAX;
use super::select::Filter;

/// Messages that wait for a reader; one place is kept for the error that ends the stream.
const WAITING_MAX: usize = 16;
/// A reader that takes nothing for so long is cut off.
const SLOW_MAX: Duration = Duration::from_secs(5);
/// Longest without a message while the revision goes on.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

type Message = Result<WatchInstancesResponse, Status>;
type Set = BTreeMap<(String, String), Instance>;

pub(super) fn follow(
    hub: StatusHandle,
    filter: Filter,
    shutdown: CancellationToken,
    permit: OwnedSemaphorePermit,
) -> ReceiverStream<Message> {
    let (stream, reader) = mpsc::channel(WAITING_MAX);
    tokio::spawn(async move {
        let ended = tokio::select! {
            biased;
            () = shutdown.cancelled() => Err(Status::unavailable("lb-sync ends; ask again")),
            () = stream.closed() => Ok(()),
            ended = tell(hub, filter, &stream) => ended,
        };
        if let Err(status) = ended {
            // There is a place for it, or no reader.
            let _ = stream.try_send(Err(status));
        }
        drop(permit);
    });
    ReceiverStream::new(reader)
}

async fn tell(mut hub: StatusHandle, filter: Filter, stream: &mpsc::Sender<Message>) -> Result<(), Status> {
    let mut told: Option<(i64, Set)> = None;
    loop {
        let generation = *hub.news.borrow_and_update();
        if let Some(report) = hub.report(generation).await {
            let revision = report.registry.revision;
            let set: Set = filter
                .select(&report)
                .map(|one| ((one.service.clone(), one.instance.clone()), one))
                .collect();
            match &told {
                None => send_all(stream, snapshot(&set), revision).await?,
                Some((_, before)) => {
                    if let Some(changes) = difference(before, &set) {
                        send_all(stream, vec![Event::Changes(changes)], revision).await?;
                    }
                }
            }
            told = Some((revision, set));
        }
        tokio::select! {
            changed = hub.news.changed() => if changed.is_err() { return Ok(()) },
            () = tokio::time::sleep(PROGRESS_EVERY) => {
                if let Some((revision, _)) = &told {
                    send_all(stream, vec![Event::Progress(Progress {})], *revision).await?;
                }
            }
        }
    }
}

fn snapshot(set: &Set) -> Vec<Event> {
    let all: Vec<&Instance> = set.values().collect();
    let count = all.len().div_ceil(PAGE_MAX).max(1);
    let part = |n: usize| {
        let instances = all.iter().skip(n * PAGE_MAX).take(PAGE_MAX).map(|one| (*one).clone()).collect();
        Event::Snapshot(Snapshot { instances, last: n + 1 == count })
    };
    (0..count).map(part).collect()
}

/// `None` if there is none. Time alone is no change: who is suspect for a second less is the same.
fn difference(before: &Set, now: &Set) -> Option<Changes> {
    let same = |one: &Instance, other: &Instance| {
        let timeless = |one: &Instance| {
            let mut one = one.clone();
            if let Some(balancer) = &mut one.balancer {
                balancer.suspect_left_s = 0;
            }
            one
        };
        one == other || timeless(one) == timeless(other)
    };
    let changed: Vec<Instance> = now
        .iter()
        .filter(|(key, one)| before.get(*key).is_none_or(|other| !same(one, other)))
        .map(|(_, one)| one.clone())
        .collect();
    let removed: Vec<InstanceKey> = before
        .keys()
        .filter(|key| !now.contains_key(*key))
        .map(|(service, instance)| InstanceKey { service: service.clone(), instance: instance.clone() })
        .collect();
    (!changed.is_empty() || !removed.is_empty()).then_some(Changes { changed, removed })
}

async fn send_all(stream: &mpsc::Sender<Message>, events: Vec<Event>, revision: i64) -> Result<(), Status> {
    for event in events {
        // Two places: this message's, and the error's.
        let Ok(room) = tokio::time::timeout(SLOW_MAX, stream.reserve_many(2)).await else {
            return Err(Status::aborted("the stream was not read for 5 s; watch again"));
        };
        let Some(place) = room.ok().and_then(|mut places| places.next()) else { return Ok(()) };
        place.send(Ok(WatchInstancesResponse { revision, event: Some(event) }));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[(&str, u32)]) -> Set {
        let one = |(name, weight): &(&str, u32)| {
            let instance = Instance {
                service: "web".into(),
                instance: (*name).into(),
                weight: *weight,
                ..Instance::default()
            };
            (("web".to_owned(), (*name).to_owned()), instance)
        };
        names.iter().map(one).collect()
    }

    #[test]
    fn a_difference_names_what_changed_and_what_is_gone() {
        let before = set(&[("a", 1), ("b", 1), ("c", 1)]);
        assert_eq!(difference(&before, &before), None);
        let changes = difference(&before, &set(&[("a", 1), ("b", 2), ("d", 1)])).unwrap();
        let names: Vec<&str> = changes.changed.iter().map(|one| one.instance.as_str()).collect();
        assert_eq!(names, ["b", "d"]);
        assert_eq!(changes.removed.len(), 1);
        assert_eq!(changes.removed[0].instance, "c");
    }

    #[test]
    fn a_snapshot_ends_with_its_last_part_even_when_it_is_empty() {
        let last = |event: &Event| matches!(event, Event::Snapshot(snapshot) if snapshot.last);
        assert!(snapshot(&Set::new()).iter().all(last));
        let names: Vec<String> = (0..1_001).map(|n| n.to_string()).collect();
        let many: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let parts: Vec<bool> = snapshot(&set(&many)).iter().map(last).collect();
        assert_eq!(parts, [false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_is_told_so() {
        let (stream, mut reader) = mpsc::channel(WAITING_MAX);
        let many = (0..2 * WAITING_MAX).map(|_| Event::Progress(Progress {})).collect();
        let ended = send_all(&stream, many, 1).await;
        stream.try_send(Err(ended.unwrap_err())).unwrap();
        drop(stream);
        let mut last = None;
        while let Some(message) = reader.recv().await {
            last = Some(message);
        }
        assert_eq!(last.unwrap().unwrap_err().code(), tonic::Code::Aborted);
    }
}
