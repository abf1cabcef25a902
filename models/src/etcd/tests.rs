//! What a comparison with a real etcd cannot show: time, members, faults, and the bugs of some versions.

mod faults;
mod histories;
mod leases;
mod watches;

use std::time::Duration;

use super::*;

const LEASE: LeaseId = 7;

fn at(ms: u64) -> Tick {
    Tick::from_ms(ms)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A cluster of `members`, with rounds and looks at whole multiples of their periods.
fn cluster(members: usize) -> Etcd {
    Etcd::new(0xC0FE, members)
}

/// Writes `key` under `lease`; returns its revision.
fn put_under(etcd: &mut Etcd, now_ms: u64, key: &str, lease: LeaseId) -> i64 {
    etcd.txn(at(now_ms), 0, &Txn::of([Op::put(key, "v", lease)])).unwrap().header.revision
}

fn put(etcd: &mut Etcd, now_ms: u64, key: &str) -> i64 {
    put_under(etcd, now_ms, key, 0)
}

fn delete(etcd: &mut Etcd, now_ms: u64, key: &str) -> i64 {
    etcd.txn(at(now_ms), 0, &Txn::of([Op::delete(key)])).unwrap().header.revision
}

/// The keys that stand as `member` sees it.
fn keys(etcd: &Etcd, member: usize) -> Vec<String> {
    let answer = etcd.range(member, Span { from: b"\0", end: b"\0" }, 0, 0).unwrap();
    answer.entries.into_iter().map(|entry| String::from_utf8(entry.key).unwrap()).collect()
}

/// The messages of a watch in short: `created 3`, `+4 -5` for changes by revision, `progress 5`, `canceled 4`.
fn heard(etcd: &mut Etcd, now_ms: u64, watch: WatchId) -> Vec<String> {
    let short = |change: &Change| match change {
        Change::Put(entry) => format!("+{}", entry.mod_revision),
        Change::Delete { mod_revision, .. } => format!("-{mod_revision}"),
    };
    let text = |message| match message {
        WatchMessage::Created { revision, .. } => format!("created {revision}"),
        WatchMessage::Changes(changes) => changes.iter().map(short).collect::<Vec<_>>().join(" "),
        WatchMessage::Progress { revision } => format!("progress {revision}"),
        WatchMessage::Canceled { compact_revision } => format!("canceled {compact_revision}"),
    };
    etcd.messages(at(now_ms), watch).into_iter().map(text).collect()
}
