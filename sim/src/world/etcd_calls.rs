//! Calls to etcd: on their way, served, and answered; and the messages of watches.

use std::time::Duration;

use registry::lease::{keeper, ledger};
use registry::time::Tick;

use super::{Delivery, Event, Network, Past, Process, World};
use crate::etcd::{Message, RESYNC_EVERY, StreamId, Txn, TxnAnswer};
use crate::link::{Answer, Call};
use crate::oracles::BACK_WITHIN;

/// Longest that a call waits for its answer (`registry::session`).
const CALL_MAX: Duration = Duration::from_secs(3);

/// What of a call is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    Call,
    Answer,
}

impl World {
    pub(super) fn entity(process: Process) -> u64 {
        match process {
            Process::Registrar(slot) => 1_000 + u64::try_from(slot).unwrap_or(0),
            Process::Balancer(balancer) => u64::try_from(balancer).unwrap_or(0),
        }
    }

    /// Sends a call; where it cannot arrive, its failure comes by itself.
    pub(super) fn send_call(&mut self, from: Process, life: u32, call: Call) {
        let wait = self.draws.latency(Self::entity(from), "call");
        let sent = self.now;
        self.after(wait, Event::Arrive { from, life, call, sent });
    }

    pub(super) fn network(&mut self, process: Process) -> &mut Network {
        match process {
            Process::Registrar(slot) => &mut self.registrars[slot].network,
            Process::Balancer(balancer) => &mut self.balancers[balancer].network,
        }
    }

    pub(super) fn serve_call(&mut self, from: Process, life: u32, call: Call, sent: Tick) {
        let lost = self.loses(from);
        let (now, network) = (self.now, self.network(from));
        let cut = now < network.cut_until || lost == Some(Lost::Call);
        let deaf = now < network.deaf_until || lost == Some(Lost::Answer);
        let up = self.etcd.is_up();
        if deaf && !cut && up {
            let failure = failure(&call);
            let _ = self.perform_call(from, life, call, sent);
            self.mark("a call took effect, and its answer was lost");
            if let Some(answer) = failure {
                self.answer(from, life, CALL_MAX, answer);
            }
            return;
        }
        if cut || !up {
            // Refused at once, or never answered.
            let wait = if cut { CALL_MAX } else { Duration::from_millis(1) };
            if let Some(answer) = failure(&call) {
                self.answer(from, life, wait, answer);
            }
            return;
        }
        if let Some(answer) = self.perform_call(from, life, call, sent) {
            let wait = self.draws.latency(Self::entity(from), "answer");
            self.answer(from, life, wait, answer);
        }
    }

    /// Whether a call is lost, and on which way.
    fn loses(&mut self, from: Process) -> Option<Lost> {
        let (per_mille, until) = self.lossy;
        let is_lost = self.now < until && self.draws.below(Self::entity(from), "lost", 1_000) < per_mille;
        is_lost.then(|| {
            let before = self.draws.one_of(Self::entity(from), "lost before", 2);
            if before { Lost::Call } else { Lost::Answer }
        })
    }

    fn answer(&mut self, to: Process, life: u32, wait: Duration, answer: Answer) {
        self.after(wait, Event::Deliver { to, life, delivery: Delivery::Answer(answer) });
    }

    fn perform_call(&mut self, from: Process, life: u32, call: Call, sent: Tick) -> Option<Answer> {
        let now = self.now;
        Some(match call {
            Call::Grant(ttl) => {
                let (lease, ttl) = self.etcd.grant(now, ttl);
                Answer::Lease(keeper::Input::Granted { lease, ttl, sent }, Some(self.etcd.header()))
            }
            Call::KeepAlive(lease) => {
                let answer = if self.etcd.keep_alive(now, lease) {
                    keeper::Input::KeptAlive { lease, sent }
                } else {
                    self.mark("etcd: a lease is gone");
                    keeper::Input::Gone { lease }
                };
                Answer::Lease(answer, Some(self.etcd.header()))
            }
            Call::Revoke(lease) => {
                self.etcd.revoke(lease);
                Answer::Lease(keeper::Input::Revoked, Some(self.etcd.header()))
            }
            Call::Verify(lease) => Answer::Verified(lease, self.etcd.keys_of(lease)),
            Call::Write(write) => Answer::Write(self.write(write)),
            Call::List { follower, prefix } => {
                self.mark("etcd: all is listed");
                Answer::Listed { follower, list: Some(self.etcd.list(&prefix)) }
            }
            Call::Newer { follower, prefix, revision } => {
                self.mark("etcd: what is newer is read");
                Answer::Newer { follower, newer: Some(self.etcd.newer(&prefix, revision)) }
            }
            Call::Open { follower, prefix, from: revision } => {
                let wait = self.draws.below(Self::entity(from), "resync", 100);
                let wait = Duration::from_millis(wait).min(RESYNC_EVERY);
                let stream = self.etcd.watch(now, &prefix, revision, wait);
                self.streams.insert(stream, (from, life));
                Answer::Opened { follower, stream: Some(stream) }
            }
            Call::Progress(stream) => {
                self.etcd.progress(stream);
                return None;
            }
            Call::Close(stream) => {
                self.etcd.close(stream);
                self.streams.remove(&stream);
                return None;
            }
            Call::Names(prefix) => Answer::Names(Ok(self.etcd.list(&prefix).1)),
            Call::TimeToLive(lease) => Answer::TimeToLive(Ok(self.etcd.time_to_live(now, lease))),
            Call::Alive(queries) => {
                self.mark("etcd: leases are asked about");
                let ttl = |lease| self.etcd.time_to_live(now, lease);
                let alive = queries.into_iter().filter_map(|(id, lease)| Some((id, lease, ttl(lease)?)));
                Answer::Alive(alive.collect())
            }
        })
    }

    fn write(&mut self, write: ledger::Action) -> ledger::Input {
        let txn = match write {
            ledger::Action::Write { lease, puts, deletes } => Txn { puts, deletes, lease, expected: None },
            ledger::Action::WriteFenced { lease, key, value, expected } => Txn {
                expected: Some((key.clone(), expected)),
                puts: vec![(key, value)],
                deletes: vec![],
                lease,
            },
        };
        match self.etcd.txn(txn) {
            TxnAnswer::Done(revision) => ledger::Input::Written { revision },
            TxnAnswer::Occupied(found) => {
                self.mark("etcd: a write finds another's record");
                let found =
                    found.map(|entry| ledger::Found { value: entry.value, mod_revision: entry.mod_revision });
                ledger::Input::Occupied { found }
            }
            TxnAnswer::LeaseGone => ledger::Input::LeaseGone,
            TxnAnswer::NoSpace => ledger::Input::Failed,
        }
    }

    /// Messages of watches are on their way, each stream's in order. Those of a process that is cut off come when it no
    /// longer is: TCP sends them again.
    pub(super) fn send_etcd_messages(&mut self) {
        let now = self.now;
        for (stream, message) in self.etcd.take_messages() {
            let Some((to, life)) = self.streams.get(&stream).copied() else { continue };
            // The answer that names the stream comes first.
            let mut at = self.now.plus(self.draws.latency(Self::entity(to), "stream"));
            if message == Message::Compacted {
                self.mark("etcd: a watch is compacted");
            }
            if matches!(message, Message::Created { .. }) {
                at = self.now.plus(Duration::from_millis(21));
            }
            let network = self.network(to);
            if matches!(message, Message::Changes(_)) && network.loses_events(now) {
                self.mark("a watch has lost events");
                continue;
            }
            at = at
                .plus(network.late(now))
                .max(network.silent_until())
                .max(self.last_delivery.get(&stream).copied().unwrap_or_default());
            self.last_delivery.insert(stream, at.plus(Duration::from_micros(1)));
            let delivery = Delivery::Answer(Answer::Stream(stream, message));
            self.at(at, Event::Deliver { to, life, delivery });
        }
        let resync_at = self.etcd.resync_at();
        if self.resync_at != resync_at {
            self.resync_at = resync_at;
            if let Some(at) = resync_at {
                self.at(at, Event::Resync);
            }
        }
    }

    /// Streams end, and their processes learn of it.
    pub(super) fn break_streams(&mut self, streams: Vec<StreamId>) {
        for stream in streams {
            let Some((to, life)) = self.streams.remove(&stream) else { continue };
            let wait = self.draws.latency(Self::entity(to), "break");
            let now = self.now;
            let cut = self.network(to).silent_until().since(now);
            self.answer(to, life, wait + cut, Answer::Broke(stream));
        }
    }

    /// All watches of a process break.
    pub(super) fn break_streams_of(&mut self, process: Process) {
        let of = |(stream, (to, _)): (&StreamId, &(Process, u32))| (*to == process).then_some(*stream);
        let streams: Vec<StreamId> = self.streams.iter().filter_map(of).collect();
        for stream in &streams {
            self.etcd.close(*stream);
        }
        self.break_streams(streams);
    }

    /// etcd goes away.
    pub(super) fn stop_etcd(&mut self, away: Duration, past: Past) {
        if !self.etcd.is_up() {
            return;
        }
        self.etcd_goes();
        let streams = self.etcd.stop();
        if matches!(past, Past::Nothing | Past::Backup(..)) {
            self.dead_streams.extend(&streams);
        }
        self.break_streams(streams);
        self.after(away, Event::EtcdBack(past));
    }

    /// etcd is away or in trouble from now on, if it is not already, or was just now.
    pub(super) fn etcd_goes(&mut self) {
        if self.etcd.is_up() && self.now.since(self.etcd_came) > BACK_WITHIN {
            self.etcd_went = self.now;
        }
    }

    pub(super) fn etcd_back(&mut self, past: Past) {
        let compacts = matches!(past, Past::Compacted);
        match past {
            Past::All | Past::Compacted => {}
            Past::Nothing => {
                self.etcd.wipe();
                self.history_broke = Some(self.now);
                self.mark("wiped");
            }
            Past::Backup(store, bump) => {
                self.etcd.restore(*store, bump);
                self.history_broke = Some(self.now);
                self.mark("restored");
            }
        }
        self.etcd.start(self.now);
        self.etcd_came = self.now;
        if compacts {
            self.compact_behind_watches();
        }
        self.read_overrides();
    }
}

impl World {
    /// An order came and went while every watch was broken, and is compacted.
    fn compact_behind_watches(&mut self) {
        let key = "/leasehold/v1/overrides/web/none".to_owned();
        self.etcd.txn(Txn { puts: vec![(key.clone(), b"{}".to_vec())], ..Txn::default() });
        self.etcd.txn(Txn { deletes: vec![key], ..Txn::default() });
        self.etcd.compact();
    }
}

/// What a call that could not be made comes to; `None` where nothing does.
fn failure(call: &Call) -> Option<Answer> {
    Some(match call {
        Call::Grant(_) => Answer::Lease(keeper::Input::GrantFailed, None),
        Call::KeepAlive(lease) => Answer::Lease(keeper::Input::KeepAliveFailed { lease: *lease }, None),
        Call::Revoke(_) => Answer::Lease(keeper::Input::RevokeFailed, None),
        Call::Verify(lease) => Answer::Verified(*lease, None),
        Call::Write(_) => Answer::Write(ledger::Input::Failed),
        Call::List { follower, .. } => Answer::Listed { follower: *follower, list: None },
        Call::Newer { follower, .. } => Answer::Newer { follower: *follower, newer: None },
        Call::Open { follower, .. } => Answer::Opened { follower: *follower, stream: None },
        Call::Progress(_) | Call::Close(_) => return None,
        Call::Names(_) => Answer::Names(Err("etcd cannot be reached".into())),
        Call::TimeToLive(_) => Answer::TimeToLive(Err("etcd cannot be reached".into())),
        Call::Alive(_) => Answer::Alive(vec![]),
    })
}
