//! The watches: what each sends, when, and what it skips.
//!
//! Facts from `mvcc/watchable_store.go` and `mvcc/watcher_group.go` (`watch`, `notify`, `syncWatchers`, `moveVictims`,
//! `chooseAll`), and from `etcdserver/api/v3rpc/watch.go` (`recvLoop`, `sendLoop`), at 3.4.23 and 3.4.39. Each watch has a
//! stream of its own here, as a follower's has.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use registry::follow::Change;

use super::history::{History, key_of};
use super::{Key, Quirks};

/// How often watches that are behind are sent what they missed (`watchResyncPeriod`).
pub const ROUND_EVERY: Duration = Duration::from_millis(100);
/// Messages that wait for a slow client; after that the watch falls behind (`chanBufLen`).
pub const QUEUE_MAX: usize = 128;
/// Most revisions that one round sends to a watch (`watchBatchMaxRevs`).
pub const BATCH_MAX: usize = 1_000;

/// Names a watch, for as long as the cluster exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchId(pub(super) u64);

/// A message of a watch. Each is one input of `registry::follow::machine`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchMessage {
    /// The watch stands: `Input::Created`.
    Created {
        /// The cluster's id.
        cluster: u64,
        /// The member's revision.
        revision: i64,
    },
    /// Changes, in whole revisions and in order: `Input::Changes`.
    Changes(Vec<Change>),
    /// The answer to a request for progress: `Input::Progress`.
    Progress {
        /// The member's revision.
        revision: i64,
    },
    /// The revisions asked for are compacted, and the watch is over: `Input::Canceled { compacted: true }`.
    Canceled {
        /// The lowest revision that can still be watched from.
        compact_revision: i64,
    },
}

/// Where a watch is with respect to its member's store.
#[derive(Clone, Debug)]
enum SyncState {
    /// It gets every new revision at once.
    Synced,
    /// It waits for the next round.
    Unsynced,
    /// This message found the queue full and is sent once there is room.
    Blocked(Vec<Change>),
    /// It was canceled.
    Over,
}

#[derive(Clone, Debug)]
struct Watch {
    member: usize,
    prefix: Key,
    /// The revision that was asked for.
    start: i64,
    /// The next revision that it is to get.
    next: i64,
    /// The same, as 3.4.23 knows it (`minRev`): an event that is sent at once does not move it.
    resumes_from: i64,
    sync: SyncState,
    queue: VecDeque<WatchMessage>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Watches {
    by_id: BTreeMap<WatchId, Watch>,
    last: u64,
}

impl Watches {
    /// Opens a watch of the keys below `prefix` from revision `start` (0: the next one) on a member that has `applied`.
    pub(super) fn open(
        &mut self,
        cluster: u64,
        (member, applied): (usize, i64),
        prefix: &[u8],
        start: i64,
    ) -> WatchId {
        let start = if start == 0 { applied + 1 } else { start };
        let sync = if start > applied { SyncState::Synced } else { SyncState::Unsynced };
        let queue = VecDeque::from([WatchMessage::Created { cluster, revision: applied }]);
        self.last += 1;
        let id = WatchId(self.last);
        let prefix = prefix.to_vec();
        self.by_id.insert(id, Watch { member, prefix, start, next: start, resumes_from: start, sync, queue });
        id
    }

    pub(super) fn close(&mut self, id: WatchId) {
        self.by_id.remove(&id);
    }

    /// Closes the watches on `member`, or all of them; what they had not sent is lost.
    pub(super) fn close_all(&mut self, member: Option<usize>) -> Vec<WatchId> {
        let ends = |watch: &Watch| member.is_none_or(|member| watch.member == member);
        let ended = self.by_id.iter().filter(|(_, watch)| ends(watch)).map(|(id, _)| *id).collect();
        self.by_id.retain(|_, watch| !ends(watch));
        ended
    }

    pub(super) fn is_open(&self, id: WatchId) -> bool {
        self.by_id.get(&id).is_some_and(|watch| !matches!(watch.sync, SyncState::Over))
    }

    pub(super) fn member_of(&self, id: WatchId) -> Option<usize> {
        self.by_id.get(&id).map(|watch| watch.member)
    }

    pub(super) fn with_messages(&self) -> impl Iterator<Item = WatchId> + '_ {
        self.by_id.iter().filter(|(_, watch)| !watch.queue.is_empty()).map(|(id, _)| *id)
    }

    pub(super) fn has_unsynced(&self, member: usize) -> bool {
        self.by_id.values().any(|watch| watch.member == member && matches!(watch.sync, SyncState::Unsynced))
    }

    /// Takes what is to be sent, at most `max`. A message that was blocked follows once there is room (etcd tries every
    /// 10 ms, `syncVictimsLoop`).
    pub(super) fn take(&mut self, id: WatchId, max: usize, applied: i64) -> Vec<WatchMessage> {
        let Some(watch) = self.by_id.get_mut(&id) else {
            return vec![];
        };
        let taken = watch.queue.drain(..max.min(watch.queue.len())).collect();
        if let SyncState::Blocked(changes) = &mut watch.sync
            && watch.queue.len() < QUEUE_MAX
        {
            watch.queue.push_back(WatchMessage::Changes(std::mem::take(changes)));
            watch.sync = if watch.next <= applied { SyncState::Unsynced } else { SyncState::Synced };
        }
        if matches!(watch.sync, SyncState::Over) && watch.queue.is_empty() {
            self.by_id.remove(&id);
        }
        taken
    }

    /// Sends `changes`, the revision that `member` has just applied, to the watches that are synced.
    pub(super) fn notify(&mut self, member: usize, revision: i64, changes: &[Change]) {
        for watch in self.by_id.values_mut().filter(|watch| watch.member == member) {
            if !matches!(watch.sync, SyncState::Synced) || watch.next > revision {
                continue;
            }
            let seen = watch.pick(changes);
            watch.next = revision + 1;
            if !seen.is_empty() {
                watch.send(seen);
            }
        }
    }

    /// A round over the watches of `member` that are behind.
    pub(super) fn round(&mut self, member: usize, applied: i64, history: &History, quirks: Quirks) {
        for watch in self.by_id.values_mut().filter(|watch| watch.member == member) {
            if !matches!(watch.sync, SyncState::Unsynced) {
                continue;
            }
            if watch.next < history.compacted() {
                watch.cancel(applied, history.compacted(), quirks);
            } else {
                watch.catch_up(applied, history, quirks);
            }
        }
    }

    /// Answers a request for progress, or leaves it unanswered.
    pub(super) fn progress(&mut self, id: WatchId, applied: i64, quirks: Quirks) {
        let Some(watch) = self.by_id.get_mut(&id) else {
            return;
        };
        let answer = WatchMessage::Progress { revision: applied };
        if quirks.progress_overtakes {
            // It goes through the control channel, which `sendLoop` may read before the events.
            let created = |message: &WatchMessage| matches!(message, WatchMessage::Created { .. });
            let behind_created = usize::from(watch.queue.front().is_some_and(created));
            watch.queue.insert(behind_created, answer);
        } else if matches!(watch.sync, SyncState::Synced) && watch.start <= applied && watch.has_room() {
            watch.queue.push_back(answer);
        }
    }

    /// `member` got a snapshot of the store instead of the log: all its watches are behind (`Restore`).
    pub(super) fn fall_behind(&mut self, member: usize, applied: i64, quirks: Quirks) {
        for watch in self.by_id.values_mut().filter(|watch| watch.member == member) {
            if !matches!(watch.sync, SyncState::Synced) {
                continue;
            }
            if quirks.repeats_after_snapshot {
                watch.next = watch.next.min(watch.resumes_from);
            }
            if watch.next <= applied {
                watch.sync = SyncState::Unsynced;
            } else if quirks.early_after_snapshot {
                watch.next = applied + 1;
            }
        }
    }
}

impl Watch {
    fn pick(&self, changes: &[Change]) -> Vec<Change> {
        changes.iter().filter(|change| key_of(change).starts_with(&self.prefix)).cloned().collect()
    }

    fn has_room(&self) -> bool {
        self.queue.len() < QUEUE_MAX
    }

    fn send(&mut self, changes: Vec<Change>) {
        if self.has_room() {
            self.queue.push_back(WatchMessage::Changes(changes));
        } else {
            self.resumes_from = self.next;
            self.sync = SyncState::Blocked(changes);
        }
    }

    fn cancel(&mut self, applied: i64, compact_revision: i64, quirks: Quirks) {
        if self.has_room() {
            self.queue.push_back(WatchMessage::Canceled { compact_revision });
            self.sync = SyncState::Over;
        } else if quirks.slow_watch_loses_events {
            // The cancellation found the queue full, and `minRev` was moved on nevertheless.
            self.next = applied + 1;
            self.sync = SyncState::Synced;
        }
    }

    fn catch_up(&mut self, applied: i64, history: &History, quirks: Quirks) {
        let (mut missed, mut revisions) = (Vec::new(), 0);
        self.sync = SyncState::Synced;
        let from = std::mem::replace(&mut self.next, applied + 1);
        for (revision, it) in history.revisions(from..=applied) {
            let is_dropped = quirks.compaction_drops_delete && revision == history.compacted();
            let keeps = |change: &Change| !(is_dropped && matches!(change, Change::Delete { .. }));
            let seen: Vec<Change> = self.pick(&it.changes).into_iter().filter(keeps).collect();
            if seen.is_empty() {
                continue;
            }
            if revisions == BATCH_MAX {
                self.next = revision;
                self.sync = SyncState::Unsynced;
                break;
            }
            revisions += 1;
            missed.extend(seen);
        }
        self.resumes_from = self.next;
        if !missed.is_empty() {
            self.send(missed);
        }
    }
}
