//! Performs what the keeper and the ledger decide: at most one lease call and one write are under way.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Compare, CompareOp, LeaseKeepAliveStream, LeaseKeeper, PutOptions, Txn, TxnOp, TxnOpResponse,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::counts::{Counts, count};
use super::keeper::{self, Keeper};
use super::ledger::{self, Fence, Found, Ledger};
use super::{LeaseId, TTL_S_MAX};
use crate::session::{CALL_MAX, Class, Connected, EtcdError, Session, Turn, within};
use crate::time::{Clock, Tick};

/// Commands that wait for the task; a caller beyond that waits itself.
const COMMANDS_MAX: usize = 1_024;

/// How things stand with the lease and its keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The lease that is held, if one is.
    pub lease: Option<LeaseId>,
    /// Everything asked for up to command number `seq` stands in etcd under `lease`.
    pub settled: bool,
    /// How many commands have been taken in.
    pub seq: u64,
    /// Keys that somebody newer took over.
    pub superseded: BTreeSet<String>,
    /// The lease is revoked, or given up: the task has ended.
    pub released: bool,
    /// What the last call to etcd failed with; `None` once one succeeded.
    pub trouble: Option<String>,
}

enum Command {
    Put { key: String, value: Vec<u8>, fence: Fence },
    Remove { key: String },
    Release,
}

/// Speaks to the task that holds the lease.
#[derive(Debug)]
pub struct LeaseHandle {
    commands: mpsc::Sender<Command>,
    standing: watch::Receiver<Standing>,
    counts: Arc<Counts>,
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

    /// Revokes the lease, with all its keys; [`Standing::released`] says when that is done. Nothing comes after it.
    pub async fn release(&mut self) -> u64 {
        self.send(Command::Release).await
    }

    /// What the task has counted.
    #[must_use]
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// How things stand, and every change of it.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    async fn send(&mut self, command: Command) -> u64 {
        self.seq += 1;
        // A closed queue means that the task has ended, which `standing` tells and which ends the process.
        let _ = self.commands.send(command).await;
        self.seq
    }
}

impl Standing {
    /// Whether all commands up to `seq` have come to stand in etcd.
    #[must_use]
    pub fn settled_since(&self, seq: u64) -> bool {
        self.settled && self.seq >= seq
    }
}

/// A call under way; its output says what came of it.
type Call<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;

/// The open keepalive stream of one lease.
struct Beats {
    lease: LeaseId,
    sender: LeaseKeeper,
    answers: LeaseKeepAliveStream,
    turn: Turn,
    endpoint: String,
}

type LeaseAnswer = (keeper::Input, Option<Beats>, Option<EtcdError>);
type WriteAnswer = (ledger::Input, Option<EtcdError>);

struct Holder {
    session: Session,
    ttl: Duration,
    keeper: Keeper,
    ledger: Ledger,
    lease_call: Call<LeaseAnswer>,
    write_call: Call<WriteAnswer>,
    beats: Option<Beats>,
    standing: Standing,
    /// Told to leave: the lease's end is no news then.
    releasing: bool,
    publish: watch::Sender<Standing>,
    counts: Arc<Counts>,
    /// When the last beat that was acknowledged was sent.
    beaten: Option<Tick>,
}

/// Holds keys under a lease of `ttl` (2 s to an hour; etcd may grant more). The future is the task: it ends after
/// [`LeaseHandle::release`], or at once, without revoking, when `abort` is cancelled.
pub fn hold(
    session: Session,
    ttl: Duration,
    abort: CancellationToken,
) -> (LeaseHandle, impl Future<Output = ()> + Send) {
    let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
    let (publish, standing) = watch::channel(Standing::default());
    let counts = Arc::new(Counts::default());
    let holder = Holder {
        session,
        ttl,
        keeper: Keeper::new(Clock.now(), fastrand::u64(..)),
        ledger: Ledger::new(fastrand::u64(..)),
        lease_call: None,
        write_call: None,
        beats: None,
        standing: Standing::default(),
        releasing: false,
        publish,
        counts: Arc::clone(&counts),
        beaten: None,
    };
    let task = async move {
        tokio::select! {
            () = abort.cancelled() => {}
            () = holder.run(inbox) => {}
        }
    };
    (LeaseHandle { commands, standing, counts, seq: 0 }, task)
}

/// One of the things the task waits for.
#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack of one task")]
enum Happened {
    Woke,
    Lease(LeaseAnswer),
    Write(WriteAnswer),
    Command(Command),
}

impl Holder {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        let clock = Clock;
        while !self.standing.released {
            let wake_at = [self.keeper.wake_at(), self.ledger.wake_at()].into_iter().flatten().min();
            // Time first: after a pause of the process the lease is doubted before anything else is done.
            let happened = tokio::select! {
                biased;
                () = clock.until(wake_at) => Happened::Woke,
                answer = answer(&mut self.lease_call) => Happened::Lease(answer),
                answer = answer(&mut self.write_call) => Happened::Write(answer),
                command = inbox.recv() => Happened::Command(command.unwrap_or(Command::Release)),
            };
            self.take_in(clock.now(), happened);
            // Hundreds may be asked for at once: how things stand is told after the last of them.
            for _ in 0..COMMANDS_MAX {
                let Ok(command) = inbox.try_recv() else { break };
                self.take_in(clock.now(), Happened::Command(command));
            }
            self.tell();
        }
    }

    fn take_in(&mut self, now: Tick, happened: Happened) {
        match happened {
            Happened::Woke => {
                self.keeper_step(now, keeper::Input::Woke);
                self.ledger_step(now, ledger::Input::Woke);
            }
            Happened::Lease((input, beats, trouble)) => {
                self.lease_call = None;
                self.beats = beats;
                self.count(&input);
                self.standing.trouble = trouble.map(|error| error.to_string());
                self.keeper_step(now, input);
            }
            Happened::Write((input, trouble)) => {
                self.write_call = None;
                self.standing.trouble = trouble.map(|error| error.to_string());
                let gone = (input == ledger::Input::LeaseGone).then_some(self.standing.lease).flatten();
                self.ledger_step(now, input);
                if let Some(lease) = gone {
                    self.keeper_step(now, keeper::Input::Gone { lease });
                }
            }
            Happened::Command(command) => {
                self.standing.seq += 1;
                match command {
                    Command::Put { key, value, fence } => {
                        self.ledger_step(now, ledger::Input::Put { key, value, fence });
                    }
                    Command::Remove { key } => self.ledger_step(now, ledger::Input::Remove { key }),
                    Command::Release => {
                        self.releasing = true;
                        self.keeper_step(now, keeper::Input::Release);
                    }
                }
            }
        }
    }

    fn count(&mut self, input: &keeper::Input) {
        match input {
            keeper::Input::Granted { sent, .. } => self.beaten = Some(*sent),
            keeper::Input::Beaten { sent, .. } => {
                count(&self.counts.beats);
                if self.beaten.is_some_and(|last| sent.since(last) > self.ttl / 2) {
                    count(&self.counts.beats_late);
                }
                self.beaten = Some(*sent);
            }
            _ => {}
        }
    }

    fn keeper_step(&mut self, now: Tick, input: keeper::Input) {
        for action in self.keeper.step(now, input) {
            match action {
                keeper::Action::Grant => {
                    self.lease_call = Some(Box::pin(grant(self.session.clone(), self.ttl)));
                }
                keeper::Action::Beat { lease, answer_max } => {
                    let (session, beats) = (self.session.clone(), self.beats.take());
                    self.lease_call = Some(Box::pin(beat(session, beats, lease, answer_max)));
                }
                keeper::Action::Revoke { lease } => {
                    self.lease_call = Some(Box::pin(revoke(self.session.clone(), lease)));
                }
                keeper::Action::Tell(lease) => {
                    if let (Some(lost), None, false) = (self.standing.lease, lease, self.releasing) {
                        count(&self.counts.leases_lost);
                        tracing::warn!(lease = format!("{lost:x}"), "no longer held");
                    }
                    self.standing.lease = lease;
                    self.ledger_step(now, ledger::Input::Lease(lease));
                }
                keeper::Action::Done => self.standing.released = true,
            }
        }
    }

    fn ledger_step(&mut self, now: Tick, input: ledger::Input) {
        for action in self.ledger.step(now, input) {
            let session = self.session.clone();
            self.write_call = Some(match action {
                ledger::Action::Write { lease, puts, deletes } => {
                    Box::pin(write(session, lease, puts, deletes))
                }
                ledger::Action::WriteFenced { lease, key, value, expected } => {
                    Box::pin(write_fenced(session, lease, key, value, expected))
                }
            });
        }
    }

    fn tell(&mut self) {
        self.standing.settled = self.ledger.settled();
        self.standing.superseded.clone_from(self.ledger.superseded());
        self.publish.send_if_modified(|told| {
            let changed = *told != self.standing;
            if changed {
                told.clone_from(&self.standing);
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

/// Whether etcd still has `lease`. Of a key that is gone it tells whether it was deleted or has expired.
pub async fn lives(session: &Session, lease: LeaseId) -> Result<bool, EtcdError> {
    let asked = session
        .call(
            "ask about a lease in",
            |mut client| async move { client.lease_time_to_live(lease, None).await },
        )
        .await?;
    // etcd answers -1 for a lease that it does not have.
    Ok(asked.ttl() > 0)
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
            (keeper::Input::Granted { lease: granted.id(), ttl, sent }, None, None)
        }
        Err(error) => (keeper::Input::GrantFailed, None, Some(error)),
    }
}

async fn beat(session: Session, beats: Option<Beats>, lease: LeaseId, max: Duration) -> LeaseAnswer {
    let sent = Clock.now();
    let max = max.min(CALL_MAX);
    let beaten = match beats.filter(|beats| beats.lease == lease) {
        Some(beats) => beat_on(&session, beats, max).await,
        None => Box::pin(open_beats(&session, lease, max)).await,
    };
    match beaten {
        Ok(beats) => (keeper::Input::Beaten { lease, sent }, Some(beats), None),
        Err(error) if error.class == Class::NotFound => (keeper::Input::Gone { lease }, None, Some(error)),
        Err(error) => (keeper::Input::BeatFailed { lease }, None, Some(error)),
    }
}

const BEAT: &str = "keep the lease in";

/// Opening the stream is a beat: the client sends one and waits for its answer.
async fn open_beats(session: &Session, lease: LeaseId, max: Duration) -> Result<Beats, EtcdError> {
    let Connected { client, turn, endpoint } = session.connected().await?;
    let opening = async {
        client.refresh_token().await?;
        client.lease_client().keep_alive(lease).await
    };
    match within(max, BEAT, &endpoint, opening).await {
        Ok((sender, answers)) => {
            session.answered(&endpoint);
            Ok(Beats { lease, sender, answers, turn, endpoint })
        }
        Err(error) => {
            if error.class != Class::NotFound {
                session.gave_up(turn, &error).await;
            }
            Err(error)
        }
    }
}

async fn beat_on(session: &Session, mut beats: Beats, max: Duration) -> Result<Beats, EtcdError> {
    let beating = async {
        beats.sender.keep_alive().await?;
        beats.answers.message().await
    };
    let error = match within(max, BEAT, &beats.endpoint, beating).await {
        Ok(Some(answer)) if answer.ttl() > 0 => return Ok(beats),
        Ok(Some(_)) => {
            let (endpoint, cause) = (beats.endpoint, "the lease is gone".into());
            return Err(EtcdError { what: BEAT, endpoint, class: Class::NotFound, cause });
        }
        Ok(None) => {
            let (endpoint, cause) = (beats.endpoint.clone(), "the stream ended".into());
            EtcdError { what: BEAT, endpoint, class: Class::Unreachable, cause }
        }
        Err(error) => error,
    };
    session.gave_up(beats.turn, &error).await;
    Err(error)
}

async fn revoke(session: Session, lease: LeaseId) -> LeaseAnswer {
    let revoked = session
        .call("revoke the lease in", |mut client| async move { client.lease_revoke(lease).await })
        .await;
    match revoked {
        Ok(_) => (keeper::Input::Revoked, None, None),
        Err(error) if error.class == Class::NotFound => (keeper::Input::Revoked, None, None),
        Err(error) => (keeper::Input::RevokeFailed, None, Some(error)),
    }
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
