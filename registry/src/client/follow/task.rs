//! Performs what the machine decides: lists, opens the stream, reads it, and hands the events on.

use std::time::Duration;

use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::machine::{Action, Input, Machine, RELIST_EVERY};
use super::page::{Newer, after_all, entry, list, newer};
use super::{Change, Event};
use crate::session::{CALL_MAX, Class, Connected, Epoch, EtcdError, Session, within};
use crate::time::Clock;

/// Events that wait for a busy follower; a full queue holds the stream back, which etcd bears.
const EVENTS_MAX: usize = 256;
/// Largest message of a stream. etcd packs up to 1,000 revisions into one when a watch catches up.
const MESSAGE_LEN_MAX: usize = 64 * 1024 * 1024;

/// The events of one prefix. Ends only with the task's end.
pub type Following = mpsc::Receiver<Event>;

/// A stream that is open, or nothing.
struct Stream {
    watch: WatchStream,
    epoch: Epoch,
    endpoint: String,
}

/// Follows `prefix` until `shutdown`; the future is the task, the receiver its events.
pub fn follow(
    session: Session,
    prefix: String,
    shutdown: CancellationToken,
) -> (Following, impl Future<Output = ()> + Send) {
    let relist_every = RELIST_EVERY.mul_f64(1.0 + fastrand::f64());
    start(session, prefix, shutdown, move |machine| machine.with_relist_every(relist_every))
}

/// The same, asking for a sign of life only after `quiet_max` without a message, and with lists in between only if told: for
/// what may be somewhat out of date, or is followed for a moment.
pub fn follow_quietly(
    session: Session,
    prefix: String,
    quiet_max: Duration,
    relist_every: Option<Duration>,
    shutdown: CancellationToken,
) -> (Following, impl Future<Output = ()> + Send) {
    start(session, prefix, shutdown, move |machine| {
        let machine = machine.with_quiet_max(quiet_max);
        relist_every.into_iter().fold(machine, Machine::with_relist_every)
    })
}

fn start(
    session: Session,
    prefix: String,
    shutdown: CancellationToken,
    set_up: impl FnOnce(Machine) -> Machine + Send,
) -> (Following, impl Future<Output = ()> + Send) {
    let (events, following) = mpsc::channel(EVENTS_MAX);
    let task = async move {
        let machine = set_up(Machine::new(Clock.now(), fastrand::u64(..)));
        let running = run(&session, &prefix, machine, &events);
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = running => {}
        }
    };
    (following, task)
}

async fn run(session: &Session, prefix: &str, mut machine: Machine, events: &mpsc::Sender<Event>) {
    let clock = Clock;
    let mut stream: Option<Stream> = None;
    let mut waiting: Option<Input> = None;
    loop {
        let input = if let Some(input) = waiting.take() {
            input
        } else {
            tokio::select! {
                biased;
                input = next_input(stream.as_mut()) => input,
                () = clock.until(machine.wake_at()) => Input::Woke,
            }
        };
        for action in machine.step(clock.now(), input) {
            match action {
                Action::List => waiting = Some(listed(session, prefix).await),
                Action::Open { from } => match Box::pin(open(session, prefix, from)).await {
                    Ok(opened) => stream = Some(opened),
                    Err(_) => waiting = Some(Input::Broke { too_large: false }),
                },
                Action::AskProgress => ask_progress(stream.as_mut()).await,
                Action::Probe { revision } => waiting = Some(probed(session, prefix, revision).await),
                Action::Close => stream = None,
                Action::LeaveEndpoint => {
                    if let Some(Stream { epoch, endpoint, .. }) = stream.take() {
                        tracing::info!(prefix, endpoint, "the watch broke; it is resumed");
                        session.failed(epoch).await;
                    }
                }
                Action::Tell(event) => {
                    if events.send(event).await.is_err() {
                        return; // The follower has gone.
                    }
                }
            }
        }
    }
}

async fn listed(session: &Session, prefix: &str) -> Input {
    match list(session, prefix, 0).await {
        Ok(listed) => {
            Input::Listed { cluster: listed.cluster, revision: listed.revision, entries: listed.entries }
        }
        Err(_) => Input::ListFailed,
    }
}

async fn probed(session: &Session, prefix: &str, revision: i64) -> Input {
    match newer(session, prefix, revision).await {
        Ok(Newer { cluster, revision, newer }) => Input::Probed { cluster, revision, newer },
        Err(_) => Input::ProbeFailed,
    }
}

async fn open(session: &Session, prefix: &str, from: i64) -> Result<Stream, EtcdError> {
    let Connected { client, epoch, endpoint } = session.connected().await?;
    let opening = async {
        // An expired token ends a new watch with "invalid auth token", and nothing refreshes it by itself.
        client.refresh_token().await?;
        let options = WatchOptions::new().with_range(after_all(prefix)).with_start_revision(from);
        let mut watch = client.watch_client().max_decoding_message_size(MESSAGE_LEN_MAX);
        watch.watch(prefix, Some(options)).await
    };
    match within(CALL_MAX, "watch the registry in", &endpoint, opening).await {
        Ok(watch) => {
            session.answered(&endpoint);
            Ok(Stream { watch, epoch, endpoint })
        }
        Err(error) => {
            session.gave_up(epoch, &error).await;
            Err(error)
        }
    }
}

async fn ask_progress(stream: Option<&mut Stream>) {
    if let Some(stream) = stream {
        // Only queues the request: whether it arrives shows in the answer, for which the machine waits.
        let asking = stream.watch.request_progress();
        let _ = within(CALL_MAX, "ask for progress", &stream.endpoint, asking).await;
    }
}

/// The stream's next message as an input; never, without a stream.
async fn next_input(stream: Option<&mut Stream>) -> Input {
    let Some(stream) = stream else {
        return std::future::pending().await;
    };
    match stream.watch.message().await {
        Ok(Some(message)) => read(&message),
        Ok(None) => Input::Broke { too_large: false },
        Err(error) => {
            let error = EtcdError::new("watch the registry in", &stream.endpoint, &error);
            tracing::debug!("{error}");
            Input::Broke { too_large: error.class == Class::TooLarge }
        }
    }
}

fn read(message: &WatchResponse) -> Input {
    if message.canceled() {
        let reason = message.cancel_reason();
        tracing::warn!(reason, compact_revision = message.compact_revision(), "etcd ended the watch");
        return Input::Canceled { compacted: message.compact_revision() > 0 };
    }
    if message.created() {
        let header = message.header();
        return Input::Created {
            cluster: header.map_or(0, etcd_client::ResponseHeader::cluster_id),
            revision: header.map_or(0, etcd_client::ResponseHeader::revision),
        };
    }
    let changes: Vec<Change> = message.events().iter().filter_map(change).collect();
    if changes.is_empty() { Input::Progress } else { Input::Changes(changes) }
}

fn change(event: &etcd_client::Event) -> Option<Change> {
    let kv = event.kv()?;
    Some(match event.event_type() {
        EventType::Put => Change::Put(entry(kv.clone())),
        EventType::Delete => Change::Delete { key: kv.key().to_vec(), mod_revision: kv.mod_revision() },
    })
}
