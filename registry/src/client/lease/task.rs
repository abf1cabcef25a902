//! Performs what the machine decides: at most one lease call and one write are under way.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Compare, CompareOp, LeaseKeepAliveStream, LeaseKeeper, LeaseTimeToLiveOptions, PutOptions, Txn, TxnOp,
    TxnOpResponse,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::keeper;
use super::ledger::{self, Fence, Found};
use super::machine::{Action, Header, Input, LeaseStatus, Machine};
use super::metrics::LeaseMetrics;
use super::{LeaseId, TTL_S_MAX};
use crate::session::{CALL_MAX, Class, Connected, Epoch, EtcdError, Session, within};
use crate::time::{Clock, Tick};

/// Commands that wait for the task; a caller beyond that waits itself.
const COMMANDS_MAX: usize = 1_024;

enum Command {
    Put { key: String, value: Vec<u8>, fence: Fence },
    Remove { key: String },
    Doubt,
    Release,
}

/// Speaks to the task that holds the lease.
#[derive(Debug)]
pub struct LeaseHandle {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<LeaseStatus>,
    metrics: Arc<LeaseMetrics>,
    seq: u64,
}

impl LeaseHandle {
    /// From now on `key` is to stand with `value`. Returns the command's number, for [`Self::settled`].
    pub async fn put(&mut self, key: String, value: Vec<u8>, fence: Fence) -> u64 {
        self.send(Command::Put { key, value, fence }).await
    }

    /// From now on `key` is not to stand: it is deleted, or, if it is fenced, let go of and left to its lease.
    pub async fn remove(&mut self, key: String) -> u64 {
        self.send(Command::Remove { key }).await
    }

    /// What is believed to stand may not, since etcd has another history: everything is written again.
    pub async fn doubt(&mut self) -> u64 {
        self.send(Command::Doubt).await
    }

    /// Revokes the lease, with all its keys; [`LeaseStatus::released`] says when that is done. Nothing comes after it.
    pub async fn release(&mut self) -> u64 {
        self.send(Command::Release).await
    }

    /// What the task has counted.
    #[must_use]
    pub fn metrics(&self) -> Arc<LeaseMetrics> {
        Arc::clone(&self.metrics)
    }

    /// How things stand, and every change of it.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<LeaseStatus> {
        self.status.clone()
    }

    async fn send(&mut self, command: Command) -> u64 {
        self.seq += 1;
        // A closed queue means that the task has ended, which `status` says and which ends the process.
        let _ = self.commands.send(command).await;
        self.seq
    }
}

/// A call under way; its output says what came of it.
type Call<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;

/// The open keepalive stream of one lease.
struct KeepAliveStream {
    lease: LeaseId,
    sender: LeaseKeeper,
    answers: LeaseKeepAliveStream,
    epoch: Epoch,
    endpoint: String,
}

type LeaseAnswer = (keeper::Input, Option<KeepAliveStream>, Result<Option<Header>, EtcdError>);
type VerifyAnswer = (LeaseId, Option<BTreeSet<String>>);
type WriteAnswer = (ledger::Input, Option<EtcdError>);

struct Holder {
    session: Session,
    machine: Machine,
    lease_call: Call<LeaseAnswer>,
    write_call: Call<WriteAnswer>,
    verify_call: Call<VerifyAnswer>,
    stream: Option<KeepAliveStream>,
    publish: watch::Sender<LeaseStatus>,
}

/// Holds keys under a lease of `ttl` (2 s to an hour; etcd may grant more). The future is the task: it ends after
/// [`LeaseHandle::release`], or at once, without revoking, when `abort` is cancelled.
pub fn lease_task(
    session: Session,
    ttl: Duration,
    abort: CancellationToken,
) -> (LeaseHandle, impl Future<Output = ()> + Send) {
    let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
    let (publish, status) = watch::channel(LeaseStatus::default());
    let metrics = Arc::new(LeaseMetrics::default());
    let seeds = [fastrand::u64(..), fastrand::u64(..)];
    let machine = Machine::new(Clock.now(), ttl, seeds, Arc::clone(&metrics));
    let (lease_call, write_call, verify_call) = (None, None, None);
    let holder = Holder { session, machine, lease_call, write_call, verify_call, stream: None, publish };
    let task = async move {
        tokio::select! {
            () = abort.cancelled() => {}
            () = holder.run(inbox) => {}
        }
    };
    (LeaseHandle { commands, status, metrics, seq: 0 }, task)
}

/// One of the things the task waits for.
#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack of one task")]
enum LeaseEvent {
    Woke,
    Lease(LeaseAnswer),
    Write(WriteAnswer),
    Verified(VerifyAnswer),
    Command(Command),
}

impl Holder {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        let clock = Clock;
        while !self.machine.status().released {
            let wake_at = self.machine.wake_at();
            // Time first: after a pause of the process the lease is doubted before anything else is done.
            let event = tokio::select! {
                biased;
                () = clock.until(wake_at) => LeaseEvent::Woke,
                answer = answer(&mut self.lease_call) => LeaseEvent::Lease(answer),
                answer = answer(&mut self.write_call) => LeaseEvent::Write(answer),
                answer = answer(&mut self.verify_call) => LeaseEvent::Verified(answer),
                command = inbox.recv() => LeaseEvent::Command(command.unwrap_or(Command::Release)),
            };
            self.handle(clock.now(), event);
            // Hundreds may be asked for at once: the status is published after the last of them.
            for _ in 0..COMMANDS_MAX {
                let Ok(command) = inbox.try_recv() else { break };
                self.handle(clock.now(), LeaseEvent::Command(command));
            }
            self.publish_status();
        }
    }

    fn handle(&mut self, now: Tick, event: LeaseEvent) {
        let text = |error: Option<EtcdError>| error.map(|error| error.to_string());
        let input = match event {
            LeaseEvent::Woke => Input::Woke,
            LeaseEvent::Lease((answer, stream, header)) => {
                self.lease_call = None;
                self.stream = stream;
                let (header, trouble) = match header {
                    Ok(header) => (header, None),
                    Err(error) => (None, Some(error)),
                };
                Input::Lease { answer, trouble: text(trouble), header }
            }
            LeaseEvent::Verified((lease, keys)) => {
                self.verify_call = None;
                Input::Verified { lease, keys }
            }
            LeaseEvent::Write((answer, trouble)) => {
                self.write_call = None;
                Input::Write { answer, trouble: text(trouble) }
            }
            LeaseEvent::Command(Command::Put { key, value, fence }) => Input::Put { key, value, fence },
            LeaseEvent::Command(Command::Remove { key }) => Input::Remove { key },
            LeaseEvent::Command(Command::Doubt) => Input::Doubt,
            LeaseEvent::Command(Command::Release) => Input::Release,
        };
        for action in self.machine.step(now, input) {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        let session = self.session.clone();
        match action {
            Action::Grant(ttl) => self.lease_call = Some(Box::pin(grant(session, ttl))),
            Action::KeepAlive { lease, answer_max } => {
                let stream = self.stream.take();
                self.lease_call = Some(Box::pin(keep_alive(session, stream, lease, answer_max)));
            }
            Action::Revoke(lease) => self.lease_call = Some(Box::pin(revoke(session, lease))),
            Action::Verify(lease) => self.verify_call = Some(Box::pin(verify(session, lease))),
            Action::Write(ledger::Action::Write { lease, puts, deletes }) => {
                self.write_call = Some(Box::pin(write(session, lease, puts, deletes)));
            }
            Action::Write(ledger::Action::WriteFenced { lease, key, value, expected }) => {
                self.write_call = Some(Box::pin(write_fenced(session, lease, key, value, expected)));
            }
        }
    }

    fn publish_status(&mut self) {
        let status = self.machine.status();
        self.publish.send_if_modified(|published| {
            let changed = published != status;
            if changed {
                published.clone_from(status);
            }
            changed
        });
    }
}

/// The output of the call under way; never, if there is none.
async fn answer<T>(call: &mut Call<T>) -> T {
    match call {
        Some(call) => call.await,
        None => std::future::pending().await,
    }
}

async fn grant(session: Session, ttl: Duration) -> LeaseAnswer {
    let asked = i64::try_from(ttl.as_secs().min(TTL_S_MAX)).unwrap_or(i64::MAX);
    let sent = Clock.now();
    let granted = session
        .call("get a lease from", |mut client| async move { client.lease_grant(asked, None).await })
        .await;
    match granted {
        Ok(granted) => {
            let ttl = Duration::from_secs(u64::try_from(granted.ttl()).unwrap_or(0));
            let header = granted.header().map(header);
            (keeper::Input::Granted { lease: granted.id(), ttl, sent }, None, Ok(header))
        }
        Err(error) => (keeper::Input::GrantFailed, None, Err(error)),
    }
}

async fn keep_alive(
    session: Session,
    stream: Option<KeepAliveStream>,
    lease: LeaseId,
    max: Duration,
) -> LeaseAnswer {
    let sent = Clock.now();
    let max = max.min(CALL_MAX);
    let kept_alive = match stream.filter(|stream| stream.lease == lease) {
        Some(stream) => keep_alive_on(&session, stream, max).await,
        None => Box::pin(open_stream(&session, lease, max)).await,
    };
    match kept_alive {
        Ok((stream, header)) => (keeper::Input::KeptAlive { lease, sent }, Some(stream), Ok(header)),
        Err(error) if error.class == Class::NotFound => (keeper::Input::Gone { lease }, None, Err(error)),
        Err(error) => (keeper::Input::KeepAliveFailed { lease }, None, Err(error)),
    }
}

const KEEP_ALIVE: &str = "keep the lease in";

/// Opening the stream is a keepalive: the client sends one and waits for its answer.
async fn open_stream(
    session: &Session,
    lease: LeaseId,
    max: Duration,
) -> Result<(KeepAliveStream, Option<Header>), EtcdError> {
    let Connected { client, epoch, endpoint } = session.connected().await?;
    let opening = async {
        client.refresh_token().await?;
        client.lease_client().keep_alive(lease).await
    };
    match within(max, KEEP_ALIVE, &endpoint, opening).await {
        Ok((sender, answers)) => {
            session.answered(&endpoint);
            Ok((KeepAliveStream { lease, sender, answers, epoch, endpoint }, None))
        }
        Err(error) => {
            if error.class != Class::NotFound {
                session.gave_up(epoch, &error).await;
            }
            Err(error)
        }
    }
}

async fn keep_alive_on(
    session: &Session,
    mut stream: KeepAliveStream,
    max: Duration,
) -> Result<(KeepAliveStream, Option<Header>), EtcdError> {
    let exchange = async {
        stream.sender.keep_alive().await?;
        stream.answers.message().await
    };
    let error = match within(max, KEEP_ALIVE, &stream.endpoint, exchange).await {
        Ok(Some(answer)) if answer.ttl() > 0 => return Ok((stream, answer.header().map(header))),
        Ok(Some(_)) => {
            let (endpoint, cause) = (stream.endpoint, "the lease is gone".into());
            return Err(EtcdError { what: KEEP_ALIVE, endpoint, class: Class::NotFound, cause });
        }
        Ok(None) => {
            let (endpoint, cause) = (stream.endpoint.clone(), "the stream ended".into());
            EtcdError { what: KEEP_ALIVE, endpoint, class: Class::Unreachable, cause }
        }
        Err(error) => error,
    };
    session.gave_up(stream.epoch, &error).await;
    Err(error)
}

async fn revoke(session: Session, lease: LeaseId) -> LeaseAnswer {
    let revoked = session
        .call("revoke the lease in", |mut client| async move { client.lease_revoke(lease).await })
        .await;
    match revoked {
        Ok(_) => (keeper::Input::Revoked, None, Ok(None)),
        Err(error) if error.class == Class::NotFound => (keeper::Input::Revoked, None, Ok(None)),
        Err(error) => (keeper::Input::RevokeFailed, None, Err(error)),
    }
}

/// Which keys stand under `lease`; `None` where etcd does not say.
async fn verify(session: Session, lease: LeaseId) -> VerifyAnswer {
    let options = || Some(LeaseTimeToLiveOptions::new().with_keys());
    let asked = session
        .call("ask about the lease in", |mut client| async move {
            client.lease_time_to_live(lease, options()).await
        })
        .await;
    let keys = asked
        .ok()
        .filter(|answer| answer.ttl() > 0)
        .map(|answer| answer.keys().iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect());
    (lease, keys)
}

fn header(header: &etcd_client::ResponseHeader) -> Header {
    Header { revision: header.revision(), raft_term: header.raft_term() }
}

async fn write(
    session: Session,
    lease: LeaseId,
    puts: Vec<(String, Vec<u8>)>,
    deletes: Vec<String>,
) -> WriteAnswer {
    let under = || Some(PutOptions::new().with_lease(lease));
    let puts = puts.into_iter().map(|(key, value)| TxnOp::put(key, value, under()));
    let ops: Vec<TxnOp> = puts.chain(deletes.into_iter().map(|key| TxnOp::delete(key, None))).collect();
    let txn = Txn::new().and_then(ops);
    written(session.call("write to", |mut client| async move { client.txn(txn).await }).await)
}

async fn write_fenced(
    session: Session,
    lease: LeaseId,
    key: String,
    value: Vec<u8>,
    expected: i64,
) -> WriteAnswer {
    let unchanged = Compare::mod_revision(key.as_str(), CompareOp::Equal, expected);
    let put = TxnOp::put(key.as_str(), value, Some(PutOptions::new().with_lease(lease)));
    let txn = Txn::new().when([unchanged]).and_then([put]).or_else([TxnOp::get(key, None)]);
    written(session.call("write to", |mut client| async move { client.txn(txn).await }).await)
}

fn written(answer: Result<etcd_client::TxnResponse, EtcdError>) -> WriteAnswer {
    match answer {
        Ok(txn) if txn.succeeded() => {
            let revision = txn.header().map_or(0, etcd_client::ResponseHeader::revision);
            (ledger::Input::Written { revision }, None)
        }
        Ok(txn) => {
            let found = txn.op_responses().into_iter().find_map(|response| match response {
                TxnOpResponse::Get(mut get) => get.take_kvs().into_iter().next(),
                _ => None,
            });
            let found = found.map(|kv| {
                let mod_revision = kv.mod_revision();
                Found { value: kv.into_key_value().1, mod_revision }
            });
            (ledger::Input::Occupied { found }, None)
        }
        Err(error) if error.class == Class::NotFound => (ledger::Input::LeaseGone, Some(error)),
        Err(error) => (ledger::Input::Failed, Some(error)),
    }
}
