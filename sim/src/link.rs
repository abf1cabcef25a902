//! A process's connection to etcd: its lease and what it follows, by the machines of `registry`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use registry::follow::{self, Entry, Event};
use registry::lease::{LeaseId, TimeToLive, keeper, ledger, machine as lease};
use registry::time::Tick;

use crate::draw::mix;
use crate::etcd::{CLUSTER, Message, StreamId};

/// A call to etcd.
#[derive(Clone, Debug)]
pub enum Call {
    /// Grant a lease.
    Grant(Duration),
    /// Keep one alive.
    KeepAlive(LeaseId),
    /// Revoke one.
    Revoke(LeaseId),
    /// Ask which keys stand under one.
    Verify(LeaseId),
    /// Write keys.
    Write(ledger::Action),
    /// List what a follower follows.
    List {
        /// Which follower, and which of its lives.
        follower: (usize, u32),
        /// Its prefix.
        prefix: String,
    },
    /// Ask what was written below a follower's prefix after `revision`.
    Newer {
        /// Which follower, and which of its lives.
        follower: (usize, u32),
        /// Its prefix.
        prefix: String,
        /// The last revision it knows.
        revision: i64,
    },
    /// Open a follower's watch.
    Open {
        /// Which follower, and which of its lives.
        follower: (usize, u32),
        /// Its prefix.
        prefix: String,
        /// The first revision.
        from: i64,
    },
    /// Ask a watch for a sign of life.
    Progress(StreamId),
    /// Give a watch up.
    Close(StreamId),
    /// List the instances of a service, for a free name.
    Names(String),
    /// Ask how much time a lease has.
    TimeToLive(LeaseId),
    /// Ask which of these leases live.
    Alive(Vec<(registry::name::InstanceId, LeaseId)>),
}

/// What came of a call.
#[derive(Clone, Debug)]
pub enum Answer {
    /// About the lease, with etcd's header where it answered.
    Lease(keeper::Input, Option<lease::Header>),
    /// The keys under a lease, or none.
    Verified(LeaseId, Option<BTreeSet<String>>),
    /// About a write.
    Write(ledger::Input),
    /// A list, or none.
    Listed {
        /// Which follower, and which of its lives.
        follower: (usize, u32),
        /// The revision and the entries.
        list: Option<(i64, Vec<Entry>)>,
    },
    /// The revision, and what was written after the one asked about; or none.
    Newer {
        /// Which follower, and which of its lives.
        follower: (usize, u32),
        /// etcd's revision, and that of the last key written.
        newer: Option<(i64, Option<i64>)>,
    },
    /// A watch that was asked for, or none.
    Opened {
        /// Which follower, and which of its lives.
        follower: (usize, u32),
        /// The watch.
        stream: Option<StreamId>,
    },
    /// A message of a watch.
    Stream(StreamId, Message),
    /// A watch is over.
    Broke(StreamId),
    /// Names of a service, or the error.
    Names(Result<Vec<Entry>, String>),
    /// The time that a lease has, or the error.
    TimeToLive(Result<Option<TimeToLive>, String>),
    /// The leases that live, of those asked for, and how much time they have.
    Alive(Vec<(registry::name::InstanceId, LeaseId, TimeToLive)>),
}

/// What is followed.
#[derive(Debug)]
struct Follower {
    machine: follow::machine::Machine,
    prefix: String,
    /// Counts its lives: it may be begun anew.
    life: u32,
    stream: Option<StreamId>,
}

/// The connection.
#[derive(Debug)]
pub struct Link {
    /// The lease.
    pub lease: lease::Machine,
    followers: Vec<Option<Follower>>,
    commands: u64,
    seed: u64,
    lives: u32,
}

impl Link {
    /// Asks for a lease of `ttl`, and follows nothing.
    #[must_use]
    pub fn new(now: Tick, ttl: Duration, seed: u64) -> Self {
        let lease = lease::Machine::new(now, ttl, [mix(seed), mix(seed ^ 1)], Arc::default());
        Self { lease, followers: Vec::new(), commands: 0, seed, lives: 0 }
    }

    /// When something is due.
    #[must_use]
    pub fn wake_at(&self) -> Option<Tick> {
        let followers = self.followers.iter().flatten().filter_map(|follower| follower.machine.wake_at());
        followers.chain(self.lease.wake_at()).min()
    }

    /// Begins to follow `prefix` as follower number `index`, without lists in between: what may be somewhat out of date.
    pub fn follow_quietly(&mut self, now: Tick, index: usize, prefix: String) -> Vec<Call> {
        self.start(index, prefix, |draw| follow::machine::Machine::new(now, draw))
    }

    /// The same, for what a leave waits for.
    pub fn follow_while_leaving(&mut self, now: Tick, index: usize, prefix: String) -> Vec<Call> {
        self.start(index, prefix, |draw| {
            let relist_every = follow::machine::RELIST_EVERY_WHILE_LEAVING;
            follow::machine::Machine::new(now, draw).with_relist_every(relist_every)
        })
    }

    /// Begins to follow `prefix` as follower number `index`.
    pub fn follow(&mut self, now: Tick, index: usize, prefix: String) -> Vec<Call> {
        self.start(index, prefix, |draw| {
            // As `follow::task` draws it: once as long, to twice.
            let spread = 1_000 + u32::try_from(draw % 1_000).unwrap_or(0);
            let relist_every = follow::machine::RELIST_EVERY * spread / 1_000;
            follow::machine::Machine::new(now, draw).with_relist_every(relist_every)
        })
    }

    fn start(
        &mut self,
        index: usize,
        prefix: String,
        machine: impl FnOnce(u64) -> follow::machine::Machine,
    ) -> Vec<Call> {
        self.lives += 1;
        if self.followers.len() <= index {
            self.followers.resize_with(index + 1, || None);
        }
        let machine = machine(mix(self.seed ^ u64::from(self.lives)));
        let before =
            self.followers[index].replace(Follower { machine, prefix, life: self.lives, stream: None });
        before.and_then(|before| before.stream).map(Call::Close).into_iter().collect()
    }

    /// Ends follower number `index`.
    pub fn unfollow(&mut self, index: usize) -> Vec<Call> {
        let before = self.followers.get_mut(index).and_then(Option::take);
        before.and_then(|before| before.stream).map(Call::Close).into_iter().collect()
    }

    /// A command for the lease; returns its number.
    pub fn command(&mut self, now: Tick, input: lease::Input, calls: &mut Vec<Call>) -> u64 {
        self.commands += 1;
        self.step_lease(now, input, calls);
        self.commands
    }

    /// A step of the lease.
    pub fn step_lease(&mut self, now: Tick, input: lease::Input, calls: &mut Vec<Call>) {
        calls.extend(self.lease.step(now, input).into_iter().map(|action| match action {
            lease::Action::Grant(ttl) => Call::Grant(ttl),
            lease::Action::KeepAlive { lease, .. } => Call::KeepAlive(lease),
            lease::Action::Revoke(lease) => Call::Revoke(lease),
            lease::Action::Write(write) => Call::Write(write),
            lease::Action::Verify(lease) => Call::Verify(lease),
        }));
    }

    /// Time has passed.
    pub fn woke(&mut self, now: Tick, calls: &mut Vec<Call>) -> Vec<(usize, Event)> {
        self.step_lease(now, lease::Input::Woke, calls);
        let mut events = Vec::new();
        for index in 0..self.followers.len() {
            self.step_follower(now, index, follow::machine::Input::Woke, calls, &mut events);
        }
        events
    }

    /// What came of a call. Returns what followers learn, each with its number.
    pub fn answer(&mut self, now: Tick, answer: Answer, calls: &mut Vec<Call>) -> Vec<(usize, Event)> {
        use follow::machine::Input;
        let mut events = Vec::new();
        let at = |follower: (usize, u32), this: &Self| {
            let same = |slot: &Follower| slot.life == follower.1;
            this.followers.get(follower.0)?.as_ref().is_some_and(same).then_some(follower.0)
        };
        match answer {
            Answer::Lease(answer, header) => {
                self.step_lease(now, lease::Input::Lease { answer, trouble: None, header }, calls);
            }
            Answer::Verified(lease, keys) => {
                self.step_lease(now, lease::Input::Verified { lease, keys }, calls);
            }
            Answer::Write(answer) => {
                self.step_lease(now, lease::Input::Write { answer, trouble: None }, calls);
            }
            Answer::Listed { follower, list } => {
                let Some(index) = at(follower, self) else { return events };
                let input = match list {
                    Some((revision, entries)) => Input::Listed { cluster: CLUSTER, revision, entries },
                    None => Input::ListFailed,
                };
                self.step_follower(now, index, input, calls, &mut events);
            }
            Answer::Newer { follower, newer } => {
                let Some(index) = at(follower, self) else { return events };
                let input = match newer {
                    Some((revision, newer)) => Input::Probed { cluster: CLUSTER, revision, newer },
                    None => Input::ProbeFailed,
                };
                self.step_follower(now, index, input, calls, &mut events);
            }
            Answer::Opened { follower, stream } => {
                let Some(index) = at(follower, self) else {
                    calls.extend(stream.map(Call::Close));
                    return events;
                };
                if let Some(stream) = stream {
                    if let Some(slot) = &mut self.followers[index] {
                        calls.extend(slot.stream.replace(stream).map(Call::Close));
                    }
                } else {
                    let broke = Input::Broke { too_large: false };
                    self.step_follower(now, index, broke, calls, &mut events);
                }
            }
            Answer::Stream(stream, message) => {
                let Some(index) = self.of_stream(stream) else { return events };
                let input = match message {
                    Message::Created { revision } => Input::Created { cluster: CLUSTER, revision },
                    Message::Changes(changes) => Input::Changes(changes),
                    Message::Progress => Input::Progress,
                    Message::Compacted => Input::Canceled { compacted: true },
                };
                self.step_follower(now, index, input, calls, &mut events);
            }
            Answer::Broke(stream) => {
                let Some(index) = self.of_stream(stream) else { return events };
                if let Some(slot) = &mut self.followers[index] {
                    slot.stream = None;
                }
                let broke = Input::Broke { too_large: false };
                self.step_follower(now, index, broke, calls, &mut events);
            }
            Answer::Names(_) | Answer::TimeToLive(_) | Answer::Alive(_) => {}
        }
        events
    }

    fn of_stream(&self, stream: StreamId) -> Option<usize> {
        let is = |slot: &Option<Follower>| slot.as_ref().is_some_and(|slot| slot.stream == Some(stream));
        self.followers.iter().position(is)
    }

    fn step_follower(
        &mut self,
        now: Tick,
        index: usize,
        input: follow::machine::Input,
        calls: &mut Vec<Call>,
        events: &mut Vec<(usize, Event)>,
    ) {
        use follow::machine::Action;
        let Some(slot) = &mut self.followers[index] else { return };
        let follower = (index, slot.life);
        for action in slot.machine.step(now, input) {
            match action {
                Action::List => calls.push(Call::List { follower, prefix: slot.prefix.clone() }),
                Action::Open { from } => {
                    calls.push(Call::Open { follower, prefix: slot.prefix.clone(), from });
                }
                Action::AskProgress => calls.extend(slot.stream.map(Call::Progress)),
                Action::Probe { revision } => {
                    calls.push(Call::Newer { follower, prefix: slot.prefix.clone(), revision });
                }
                Action::Close | Action::LeaveEndpoint => calls.extend(slot.stream.take().map(Call::Close)),
                Action::Tell(event) => events.push((index, event)),
            }
        }
    }
}
