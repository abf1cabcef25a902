//! When to list, when to watch, from which revision, and when not to believe a silent stream.

use std::time::Duration;

use super::{Change, Entry, Event};
use crate::backoff::Backoff;
use crate::time::Tick;

/// After this much quiet the server is asked for a sign of life.
pub const QUIET_MAX: Duration = Duration::from_secs(5);
/// After this much silence a change is taken for one of many that were held up: a process that was paused, or a network that was
/// cut, has them arrive one after the other.
const BEHIND_AFTER: Duration = Duration::from_secs(10);
/// It answers in 0.4 ms. One that has not by now is gone, cut off or stopped, or it is etcd's grpc-proxy, which has no answer
/// to that question (`proxy/grpcproxy/watch.go`): a read tells which.
const PROGRESS_MAX: Duration = Duration::from_secs(1);
/// Longest wait for the first answer of a watch.
const CREATED_MAX: Duration = Duration::from_secs(3);
/// A read is answered or given up within this (`registry::session`).
const PROBE_MAX: Duration = Duration::from_secs(3);
/// A watch gets what it has missed with etcd's next round, every 100 ms (`mvcc/watchable_store.go`, `watchResyncPeriod`), and
/// no answer before that.
const CATCH_UP: Duration = Duration::from_millis(110);
/// Waits between attempts.
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// A follower costs etcd one list: it returns sooner than a lease, whose beats are spread.
const RETRY_MAX: Duration = Duration::from_secs(1);
/// A watch is resumed only if it broke within this time of its last message. After longer, etcd may have another history
/// that has already passed our revision (a restored backup under the same cluster id): everything is listed and compared.
const RESUME_MAX: Duration = Duration::from_secs(1);
/// Everything is listed again after this time, and up to as much again, drawn for each follower so that they spread. etcd has
/// lost events of living watches (#17529, #18089, #19179, #20221; 3.4.23 is in the range of all four).
pub const RELIST_EVERY: Duration = Duration::from_mins(5);
/// The same, for what a leave waits for: it would wait to its deadline for an event that was lost.
pub const RELIST_EVERY_WHILE_LEAVING: Duration = Duration::from_secs(10);

/// What happened.
#[expect(missing_docs, reason = "the text of each variant names its fields")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The moment of [`Machine::wake_at`] has come.
    Woke,
    /// The list is here.
    Listed { cluster: u64, revision: i64, entries: Vec<Entry> },
    /// The list could not be had; the session has already turned to the next endpoint where that helps.
    ListFailed,
    /// The watch is established; the header of its first answer. `cluster` is 0 where etcd's grpc-proxy joined the watch to
    /// another one (`proxy/grpcproxy/watch_broadcast.go`); `revision` is then the one asked for, and says nothing of etcd.
    Created { cluster: u64, revision: i64 },
    /// Changes, in order.
    Changes(Vec<Change>),
    /// An answer without changes.
    Progress,
    /// The probe's answer: etcd's header, and the revision of the key below the prefix that was written last, if that was
    /// later than asked about.
    Probed { cluster: u64, revision: i64, newer: Option<i64> },
    /// The probe failed; the session has already turned to the next endpoint where that helps.
    ProbeFailed,
    /// The server ended the watch. `compacted`: it no longer has the revision asked for.
    Canceled { compacted: bool },
    /// The stream could not be opened, broke, or its next message is too large to decode.
    Broke { too_large: bool },
}

/// What to do.
#[expect(missing_docs, reason = "the text of each variant names its fields")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read everything below the prefix at one revision.
    List,
    /// Open a watch that starts at this revision.
    Open { from: i64 },
    /// Ask the server for a sign of life, in the stream.
    AskProgress,
    /// Ask by a read whether a key below the prefix was written after this revision.
    Probe { revision: i64 },
    /// Close the stream and leave this endpoint.
    LeaveEndpoint,
    /// Close the stream; the endpoint is fine.
    Close,
    /// Tell the follower.
    Tell(Event),
}

/// What comes after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// What is known may have holes: everything is listed again.
    List,
    /// The watch goes on from the last revision.
    Watch,
}

#[derive(Debug)]
enum State {
    /// Nothing is under way until `until`; then a list, or the watch again.
    Pausing { until: Tick, then: Then },
    /// A list is under way.
    Listing,
    /// A watch was asked for; `since` bounds the wait for its first answer.
    Opening { since: Tick },
    /// The watch lives. `asked`: when a sign of life was asked for and has not come.
    Watching { heard: Tick, asked: Option<Tick> },
    /// The watch stands since `since`, and changes up to revision `until` may have been missed that are still to come: the
    /// follower is not in sync before. At `ask_at` etcd is asked for a sign of life, which it gives only then.
    CatchingUp { since: Tick, until: i64, ask_at: Tick },
    /// The stream gave no sign of life since `heard`, and a read is under way. `until`: the revision up to which it has to catch
    /// up, if it has.
    Probing { heard: Tick, until: Option<i64> },
}

/// The watch machine of one prefix.
#[derive(Debug)]
pub struct Machine {
    state: State,
    /// Of the list: a watch answered by another cluster is worth nothing.
    cluster: u64,
    /// The revision of the list or of the last change seen. Never a progress answer's: etcd has sent those
    /// ahead of the changes before them (etcd #15220).
    revision: i64,
    backoff: Backoff,
    quiet_max: Duration,
    /// Whether the follower was last told that it is in sync.
    in_sync: bool,
    relist_every: Option<Duration>,
    /// When everything is listed again, if nothing else leads to a list before.
    relist_at: Option<Tick>,
    /// When the last input came.
    stepped_at: Tick,
}

impl Machine {
    /// Starts with a list at once.
    #[must_use]
    pub fn new(now: Tick, seed: u64) -> Self {
        Self {
            state: State::Pausing { until: now, then: Then::List },
            cluster: 0,
            revision: 0,
            backoff: Backoff::new(RETRY_FIRST, RETRY_MAX, seed),
            quiet_max: QUIET_MAX,
            in_sync: false,
            relist_every: None,
            relist_at: None,
            stepped_at: now,
        }
    }

    /// Lists everything again in such intervals, while it watches.
    #[must_use]
    pub fn with_relist_every(mut self, relist_every: Duration) -> Self {
        self.relist_every = Some(relist_every);
        self
    }

    /// Asks for a sign of life only after so much quiet.
    #[must_use]
    pub fn with_quiet_max(mut self, quiet_max: Duration) -> Self {
        self.quiet_max = quiet_max;
        self
    }

    /// When [`Input::Woke`] is due.
    #[must_use]
    pub fn wake_at(&self) -> Option<Tick> {
        match self.state {
            State::Pausing { until, .. } => Some(until),
            State::Listing | State::Probing { .. } => None,
            State::Opening { since } => Some(since.plus(CREATED_MAX)),
            State::Watching { asked: Some(asked), .. } => Some(asked.plus(PROGRESS_MAX)),
            State::Watching { heard, asked: None } => {
                let quiet = heard.plus(self.quiet_max);
                Some(self.relist_at.map_or(quiet, |list_at| list_at.min(quiet)))
            }
            State::CatchingUp { since, ask_at, .. } => Some(ask_at.min(since.plus(PROGRESS_MAX))),
        }
    }

    /// The next actions. Exhaustive over what can happen; an input that no longer fits (an answer of a stream
    /// already given up) changes nothing.
    pub fn step(&mut self, now: Tick, input: Input) -> Vec<Action> {
        if self.was_paused(now) {
            self.stepped_at = now;
            let mut actions = vec![Action::Close];
            actions.extend(std::mem::take(&mut self.in_sync).then_some(Action::Tell(Event::OutOfSync)));
            actions.extend(self.list());
            return actions;
        }
        self.stepped_at = now;
        match input {
            Input::Woke => self.woke(now),
            Input::Listed { cluster, revision, entries } => self.listed(now, cluster, revision, entries),
            Input::ListFailed => self.pause(now, Then::List),
            Input::Created { cluster, revision } => self.created(now, cluster, revision),
            Input::Changes(changes) => self.changes(now, changes),
            Input::Progress => self.progress(now),
            Input::Probed { cluster, revision, newer } => self.probed(now, cluster, revision, newer),
            Input::ProbeFailed if matches!(self.state, State::Probing { .. }) => {
                self.broke(now, Action::Close, Then::List)
            }
            Input::ProbeFailed => vec![],
            Input::Canceled { compacted: true } => {
                // What was compacted away is not to be had as changes any more: list, and let the follower diff.
                self.in_sync = false;
                let mut actions = vec![Action::Close, Action::Tell(Event::OutOfSync)];
                actions.extend(self.list());
                actions
            }
            Input::Canceled { compacted: false } => self.broke(now, Action::Close, self.after_break(now)),
            Input::Broke { too_large: true } => self.broke(now, Action::Close, Then::List),
            Input::Broke { too_large: false } => {
                self.broke(now, Action::LeaveEndpoint, self.after_break(now))
            }
        }
    }

    /// Something should have come long ago, and this process did not run: it was paused, or its host was suspended. What has
    /// waited for it since, signs of life as well, is of the past.
    fn was_paused(&self, now: Tick) -> bool {
        let is_watched =
            matches!(self.state, State::Watching { .. } | State::CatchingUp { .. } | State::Probing { .. });
        let due = self.wake_at().unwrap_or(self.stepped_at.plus(PROBE_MAX));
        is_watched && now.since(due) >= BEHIND_AFTER
    }

    fn woke(&mut self, now: Tick) -> Vec<Action> {
        if self.wake_at().is_none_or(|due| now < due) {
            return vec![];
        }
        match &mut self.state {
            State::Pausing { then: Then::List, .. } => self.list(),
            State::Pausing { then: Then::Watch, .. } => self.open(now),
            State::Listing | State::Probing { .. } => vec![],
            State::Opening { .. } => self.broke(now, Action::LeaveEndpoint, Then::List),
            State::Watching { heard, asked: Some(_) } => {
                let heard = *heard;
                self.probe(heard, None)
            }
            // What is known stays in force until the list is here: nothing says that it is wrong.
            State::Watching { .. } if self.relist_at.is_some_and(|list_at| now >= list_at) => {
                let mut actions = vec![Action::Close];
                actions.extend(self.list());
                actions
            }
            State::Watching { asked, .. } => {
                *asked = Some(now);
                vec![Action::AskProgress]
            }
            State::CatchingUp { since, until, .. } if now >= since.plus(PROGRESS_MAX) => {
                let (since, until) = (*since, *until);
                self.probe(since, Some(until))
            }
            State::CatchingUp { ask_at, .. } => {
                *ask_at = now.plus(CATCH_UP);
                vec![Action::AskProgress]
            }
        }
    }

    fn list(&mut self) -> Vec<Action> {
        self.state = State::Listing;
        vec![Action::List]
    }

    fn open(&mut self, now: Tick) -> Vec<Action> {
        self.state = State::Opening { since: now };
        vec![Action::Open { from: self.revision + 1 }]
    }

    fn probe(&mut self, heard: Tick, until: Option<i64>) -> Vec<Action> {
        self.state = State::Probing { heard, until };
        vec![Action::Probe { revision: self.revision }]
    }

    fn listed(&mut self, now: Tick, cluster: u64, revision: i64, entries: Vec<Entry>) -> Vec<Action> {
        if !matches!(self.state, State::Listing) {
            return vec![];
        }
        self.cluster = cluster;
        self.revision = revision;
        self.relist_at = self.relist_every.map(|every| now.plus(every));
        let mut actions = vec![Action::Tell(Event::Listed { cluster, revision, entries })];
        actions.extend(self.open(now));
        actions
    }

    fn created(&mut self, now: Tick, cluster: u64, revision: i64) -> Vec<Action> {
        if !matches!(self.state, State::Opening { .. }) {
            return vec![];
        }
        let is_joined = cluster == 0;
        if (cluster != self.cluster && !is_joined) || revision < self.revision {
            // Another etcd, or one that was wiped or restored: this watch would be silent for ever.
            return self.broke(now, Action::Close, Then::List);
        }
        self.backoff.reset();
        if revision <= self.revision && !is_joined {
            return vec![self.watching(now)];
        }
        self.catch_up(now, revision)
    }

    fn catch_up(&mut self, now: Tick, until: i64) -> Vec<Action> {
        self.state = State::CatchingUp { since: now, until, ask_at: now.plus(CATCH_UP) };
        vec![]
    }

    /// The read proves that etcd is there. Nothing newer: what is known is what stands. A newer key may be on its way in the
    /// stream: it is waited for, once.
    fn probed(&mut self, now: Tick, cluster: u64, revision: i64, newer: Option<i64>) -> Vec<Action> {
        let State::Probing { until, .. } = self.state else {
            return vec![];
        };
        match (newer.filter(|newer| *newer > self.revision), until) {
            _ if cluster != self.cluster || revision < self.revision => {
                self.broke(now, Action::Close, Then::List)
            }
            (None, _) => vec![self.watching(now)],
            (Some(newer), None) => self.catch_up(now, newer),
            (Some(_), Some(_)) => {
                let mut actions = vec![Action::Close];
                actions.extend(self.list());
                actions
            }
        }
    }

    /// How it goes on after a break.
    fn after_break(&self, now: Tick) -> Then {
        match self.state {
            State::Watching { heard, .. } if now.since(heard) < RESUME_MAX => Then::Watch,
            _ => Then::List,
        }
    }

    fn changes(&mut self, now: Tick, mut changes: Vec<Change>) -> Vec<Action> {
        let mut actions = self.behind(now);
        match &mut self.state {
            State::Watching { heard, asked } => (*heard, *asked) = (now, None),
            State::CatchingUp { .. } | State::Probing { .. } => {}
            State::Pausing { .. } | State::Listing | State::Opening { .. } => return vec![],
        }
        changes.retain(|change| change.mod_revision() > self.revision);
        let Some(last) = changes.last() else {
            return actions;
        };
        self.revision = last.mod_revision();
        actions.push(Action::Tell(Event::Changed(changes)));
        let up_to = match self.state {
            State::CatchingUp { until, .. } => Some(until),
            State::Probing { until, .. } => until.or(self.in_sync.then_some(0)),
            _ => None,
        };
        if up_to.is_some_and(|until| self.revision >= until) {
            actions.push(self.watching(now));
        }
        actions
    }

    /// A change comes after a long silence: it is of the past, and others follow it. Not in sync before a read has told up to
    /// where.
    fn behind(&mut self, now: Tick) -> Vec<Action> {
        let (heard, is_probing) = match self.state {
            State::Watching { heard, .. } => (heard, false),
            State::Probing { heard, until: None } => (heard, true),
            _ => return vec![],
        };
        if !self.in_sync || now.since(heard) < BEHIND_AFTER {
            return vec![];
        }
        self.in_sync = false;
        let mut actions = vec![Action::Tell(Event::OutOfSync)];
        if !is_probing {
            actions.extend(self.probe(heard, None));
        }
        actions
    }

    fn progress(&mut self, now: Tick) -> Vec<Action> {
        match self.state {
            State::Watching { .. } | State::CatchingUp { .. } | State::Probing { .. } => {
                vec![self.watching(now)]
            }
            State::Pausing { .. } | State::Listing | State::Opening { .. } => vec![],
        }
    }

    /// Everything up to now is known.
    fn watching(&mut self, now: Tick) -> Action {
        self.state = State::Watching { heard: now, asked: None };
        self.in_sync = true;
        Action::Tell(Event::InSync)
    }

    fn broke(&mut self, now: Tick, how: Action, then: Then) -> Vec<Action> {
        let mut actions = vec![how];
        actions.extend(self.pause(now, then));
        actions
    }

    fn pause(&mut self, now: Tick, then: Then) -> Vec<Action> {
        self.state = State::Pausing { until: now.plus(self.backoff.after_failure()), then };
        if std::mem::take(&mut self.in_sync) { vec![Action::Tell(Event::OutOfSync)] } else { vec![] }
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
