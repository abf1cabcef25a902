//! What was learnt about etcd and its client, each a rule that the registry crate keeps, on a real etcd. The rules that
//! need no etcd to show are tested beside the code: `registry::session`, `registry::follow`, `registry::lease`.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod cluster;
mod cut;
mod tls;

use std::time::Duration;

use registry::follow::{Event, Following, follow};
use registry::lease::{Fence, LeaseHandle, LeaseStatus, lease_task};
use registry::session::{Class, Session};
use testkit::port::{Ports, loopback};
use testkit::wait;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::cluster::{Cluster, session};
use crate::cut::Cut;

/// Longest that anything here may take to show. Twice the slowest: an election after two members are lost.
const SEEN_MAX: Duration = Duration::from_secs(20);

/// A follower and its task, which ends with it.
struct Followed {
    events: Following,
    _end: DropGuard,
}

impl Followed {
    fn start(session: &Session, prefix: &str) -> Self {
        let end = CancellationToken::new();
        let (events, task) = follow(session.clone(), prefix.into(), end.clone());
        tokio::spawn(task);
        Self { events, _end: end.drop_guard() }
    }

    /// The next event that `wanted` takes something from.
    async fn next<T>(&mut self, what: &str, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
        let find = async {
            loop {
                let event = self.events.recv().await.expect("the follower goes on");
                if let Some(found) = wanted(event) {
                    return found;
                }
            }
        };
        timeout(SEEN_MAX, find).await.unwrap_or_else(|_| panic!("not seen: {what}"))
    }

    async fn listed(&mut self) -> (i64, usize) {
        let listed = |event| match event {
            Event::Listed { revision, entries, .. } => Some((revision, entries.len())),
            _ => None,
        };
        self.next("a list", listed).await
    }

    async fn is(&mut self, event: Event) {
        let what = format!("{event:?}");
        self.next(&what, |seen| (seen == event).then_some(())).await;
    }

    /// The next change; a list before it is a failure.
    async fn changed(&mut self) -> Vec<String> {
        let changed = |event| match event {
            Event::Changed(changes) => Some(changes.iter().map(|change| format!("{change:?}")).collect()),
            Event::Listed { .. } => panic!("listed again where a resumed watch would do"),
            _ => None,
        };
        self.next("a change", changed).await
    }
}

/// A held lease and its task, which ends with it.
struct Held {
    handle: LeaseHandle,
    _end: DropGuard,
}

impl Held {
    async fn start(session: &Session, ttl_s: u64, key: &str) -> Self {
        let end = CancellationToken::new();
        let (mut handle, task) = lease_task(session.clone(), Duration::from_secs(ttl_s), end.clone());
        tokio::spawn(task);
        let seq = handle.put(key.into(), b"here".to_vec(), Fence::None).await;
        let held = Self { handle, _end: end.drop_guard() };
        held.until("the key to stand", |status| status.settled_since(seq)).await;
        held
    }

    async fn until(&self, what: &str, condition: impl FnMut(&LeaseStatus) -> bool) -> LeaseStatus {
        let mut status = self.handle.status();
        let seen = timeout(SEEN_MAX, status.wait_for(condition)).await;
        seen.unwrap_or_else(|_| panic!("not seen: {what}")).expect("the task goes on").clone()
    }
}

#[tokio::test]
async fn a_dead_endpoint_beside_a_good_one_fails_one_call_and_no_more() {
    let etcd = Cluster::single().await;
    let ports = Ports::claim().unwrap();
    let dead = loopback(ports.free().unwrap());
    let session = session(&["--etcd-endpoints", &format!("http://{dead},{}", etcd.endpoint(0))]);
    let mut failed = 0;
    for _ in 0..200 {
        let got = session.call("read", |mut client| async move { client.get("x", None).await }).await;
        failed += u32::from(got.is_err());
    }
    assert_eq!(failed, 1, "the first, which finds it out");
}

#[tokio::test]
async fn a_silent_etcd_is_noticed_within_the_deadlines_and_found_again() {
    let etcd = Cluster::single().await;
    let session = etcd.session();
    let mut followed = Followed::start(&session, "/r/");
    followed.is(Event::InSync).await;
    etcd.pause(0);
    let call = session.call("read", |mut client| async move { client.get("x", None).await });
    let error = timeout(Duration::from_secs(5), call).await.expect("bounded").unwrap_err();
    assert_eq!(error.class, Class::Unreachable, "{error}");
    followed.is(Event::OutOfSync).await;
    etcd.resume(0);
    followed.is(Event::InSync).await;
    etcd.put("/r/a", "1").await;
    assert_eq!(followed.changed().await.len(), 1);
}

#[tokio::test]
async fn a_restarted_etcd_keeps_the_lease_and_the_watch_resumes_without_a_list() {
    let etcd = Cluster::single().await;
    let session = etcd.session();
    let mut followed = Followed::start(&session, "/r/");
    followed.is(Event::InSync).await;
    let held = Held::start(&session, 5, "/r/held").await;
    assert_eq!(followed.changed().await.len(), 1);
    let lease = held.until("a lease", |status| status.lease.is_some()).await.lease;
    etcd.kill(0).await;
    followed.is(Event::OutOfSync).await;
    etcd.start(0).await;
    followed.is(Event::InSync).await;
    etcd.put("/r/a", "1").await;
    let changes = followed.changed().await;
    assert!(changes.len() == 1 && changes[0].contains("Put"), "the held key was not touched: {changes:?}");
    let status = held.until("etcd to answer", |status| status.trouble.is_none()).await;
    assert_eq!(status.lease, lease, "a broken stream is not a lost lease");
}

#[tokio::test]
async fn a_lease_revoked_behind_our_back_is_replaced_at_once() {
    let etcd = Cluster::single().await;
    let held = Held::start(&etcd.session(), 5, "/r/held").await;
    let first = held.until("a lease", |status| status.lease.is_some()).await.lease.unwrap();
    etcd.revoke(first).await;
    held.until("another lease with the key under it", |status| {
        status.settled && status.lease.is_some_and(|lease| lease != first)
    })
    .await;
    assert_eq!(etcd.value("/r/held").await.as_deref(), Some("here"));
}

#[tokio::test]
async fn the_granted_ttl_counts_not_the_one_asked_for() {
    let etcd = Cluster::single().await;
    // etcd grants 2 s where 1 s is asked for: the key must stand for longer than either.
    let _held = Held::start(&etcd.session(), 1, "/r/held").await;
    let stands = async || {
        anyhow::ensure!(etcd.value("/r/held").await.is_some(), "the key is gone");
        Ok(())
    };
    wait::during(tokio::time::sleep(Duration::from_secs(5)), stands).await.unwrap();
}

#[tokio::test]
async fn a_revision_compacted_while_cut_off_leads_to_a_new_list() {
    let etcd = Cluster::single().await;
    let cut = Cut::to(etcd.port(0)).await;
    let session = session(&["--etcd-endpoints", &cut.endpoint()]);
    etcd.put("/r/a", "1").await;
    let mut followed = Followed::start(&session, "/r/");
    followed.is(Event::InSync).await;
    cut.sever();
    followed.is(Event::OutOfSync).await;
    etcd.delete("/r/a").await;
    let revision = etcd.put("/r/b", "1").await;
    etcd.compact(revision).await;
    cut.mend();
    assert_eq!(followed.listed().await, (revision, 1), "and who follows finds /r/a gone");
    followed.is(Event::InSync).await;
}

#[tokio::test]
async fn a_wiped_etcd_is_found_by_its_lower_revision() {
    let etcd = Cluster::single().await;
    for n in 0..5 {
        etcd.put("/r/a", &n.to_string()).await;
    }
    let mut followed = Followed::start(&etcd.session(), "/r/");
    let (before, _) = followed.listed().await;
    followed.is(Event::InSync).await;
    etcd.wipe(0).await;
    let (after, entries) = followed.listed().await;
    assert!(after < before && entries == 0, "{before} {after} {entries}");
    followed.is(Event::InSync).await;
    etcd.put("/r/b", "1").await;
    assert_eq!(followed.changed().await.len(), 1, "a watch that is alive");
}

#[tokio::test]
async fn a_member_without_a_quorum_is_not_believed() {
    let etcd = Cluster::of(3).await;
    let session = session(&["--etcd-endpoints", &etcd.endpoint(0)]);
    let mut followed = Followed::start(&session, "/r/");
    followed.is(Event::InSync).await;
    etcd.kill(1).await;
    etcd.kill(2).await;
    followed.is(Event::OutOfSync).await;
    etcd.start(1).await;
    followed.is(Event::InSync).await;
}

#[tokio::test]
async fn a_lost_member_is_left_for_another() {
    let etcd = Cluster::of(3).await;
    let session = etcd.session();
    let mut followed = Followed::start(&session, "/r/");
    followed.is(Event::InSync).await;
    let held = Held::start(&session, 5, "/r/held").await;
    let lease = held.until("a lease", |status| status.lease.is_some()).await.lease;
    etcd.kill(0).await;
    followed.is(Event::OutOfSync).await;
    followed.is(Event::InSync).await;
    // The next beat has to find its way too.
    let beats = async || {
        anyhow::ensure!(etcd.value("/r/held").await.is_some(), "the key is gone");
        Ok(())
    };
    wait::during(tokio::time::sleep(Duration::from_secs(7)), beats).await.unwrap();
    assert_eq!(held.until("a lease", |status| status.lease.is_some()).await.lease, lease);
}

#[tokio::test]
async fn a_token_that_etcd_has_forgotten_is_fetched_anew_for_calls_watches_and_beats() {
    let etcd = Cluster::single().await;
    let password = etcd.enable_auth("root", "s3cret").await;
    let args = ["--etcd-endpoints", &etcd.endpoint(0), "--etcd-user", "root"];
    let args = [&args[..], &["--etcd-password-file", password.to_str().unwrap()]].concat();
    let session = session(&args);
    let mut followed = Followed::start(&session, "/r/");
    followed.is(Event::InSync).await;
    let held = Held::start(&session, 5, "/r/held").await;
    // A restart forgets every simple token.
    etcd.kill(0).await;
    followed.is(Event::OutOfSync).await;
    etcd.start_locked(0);
    followed.is(Event::InSync).await;
    let mut handle = held.handle;
    let seq = handle.put("/r/more".into(), b"1".to_vec(), Fence::None).await;
    let mut status = handle.status();
    let settled = status.wait_for(|status| status.settled_since(seq));
    timeout(SEEN_MAX, settled).await.expect("bounded").expect("the task goes on");
}

#[tokio::test]
async fn a_wrong_password_is_told_with_the_flag_to_look_at() {
    let etcd = Cluster::single().await;
    let password = etcd.enable_auth("root", "s3cret").await;
    std::fs::write(&password, "wrong\n").unwrap();
    let args = ["--etcd-endpoints", &etcd.endpoint(0), "--etcd-user", "root"];
    let args = [&args[..], &["--etcd-password-file", password.to_str().unwrap()]].concat();
    let call = session(&args);
    let error = call.call("read", |mut client| async move { client.get("x", None).await }).await.unwrap_err();
    assert!(error.to_string().contains("--etcd-password-file"), "{error}");
    let without = etcd.session();
    let error =
        without.call("read", |mut client| async move { client.get("x", None).await }).await.unwrap_err();
    assert!(error.to_string().contains("give --etcd-user"), "{error}");
}

#[tokio::test]
async fn thousands_of_keys_and_somebodys_huge_values_are_listed_by_pages() {
    let etcd = Cluster::single().await;
    etcd.put_many("/r/small-", 2_500, "x").await;
    let huge = "x".repeat(1_000_000);
    for n in 0..30 {
        etcd.put(&format!("/r/huge-{n}"), &huge).await;
    }
    let mut followed = Followed::start(&etcd.session(), "/r/");
    assert_eq!(followed.listed().await.1, 2_530);
    followed.is(Event::InSync).await;
    etcd.put("/r/huge-0", &huge).await;
    assert_eq!(followed.changed().await.len(), 1);
}
