//! What depends on time: a lease that runs out, and what a restart gives it.

use std::time::Duration;

use models::etcd::{Etcd, LOOK_EVERY, Op, TTL_MIN, Txn, WatchMessage};
use registry::follow::Change;
use registry::time::{Clock, Tick};

use crate::answer::Answer;
use crate::real::Real;
use crate::script::Step;

const KEY: &[u8] = b"/time/a";
const LEASE: i64 = 7;
/// A call, and the scheduler of a busy machine.
const SLACK: Duration = Duration::from_millis(700);

fn put() -> Step {
    Step::Txn(Txn::of([Op::put(KEY, "v", LEASE)]))
}

fn is_deletion(message: &WatchMessage) -> bool {
    matches!(message, WatchMessage::Changes(changes) if matches!(changes.last(), Some(Change::Delete { .. })))
}

/// How long the model takes to end a lease that is granted `phase` after a look.
fn modelled(phase: Duration) -> Duration {
    let mut model = Etcd::new(1, 1);
    let granted = Tick::default().plus(phase);
    model.grant(granted, 0, 1, LEASE).unwrap();
    model.txn(granted, 0, &Txn::of([Op::put(KEY, "v", LEASE)])).unwrap();
    model.advance(Tick::from_ms(60_000));
    let (_, deleted) = model.history().revisions_of(KEY).last().unwrap();
    deleted.since(granted)
}

#[tokio::test]
async fn a_lease_runs_out_as_in_the_model_and_a_restart_gives_it_a_second_more() {
    let mut real = Real::launch().await;
    let (_, revision, raft_term) = real.head().await;
    assert_eq!((revision, raft_term), (models::etcd::FIRST_REVISION, models::etcd::FIRST_TERM));
    real.begin().await;
    let mut watched = real.watch(KEY, 0).await;
    let asked = Clock.now();
    let granted = real.ask(&Step::Grant { lease: LEASE, ttl_s: 1 }).await.unwrap();
    assert_eq!(granted, Answer::Granted(TTL_MIN.as_secs()));
    real.ask(&put()).await.unwrap();
    watched.read_until("the deletion", is_deletion).await;
    let took = Clock.now().since(asked);
    let earliest = modelled(Duration::ZERO);
    let latest = modelled(Duration::from_millis(1));
    assert!(earliest == TTL_MIN && latest < TTL_MIN + LOOK_EVERY);
    assert!((earliest..latest + SLACK).contains(&took), "etcd took {took:?}");

    real.ask(&Step::Grant { lease: LEASE, ttl_s: 1 }).await.unwrap();
    real.etcd.kill().await;
    real.etcd.start().await;
    let left = real.etcd.call("ask", async |mut etcd| etcd.lease_time_to_live(LEASE, None).await).await;
    let mut model = Etcd::new(1, 1);
    model.grant(Tick::default(), 0, 1, LEASE).unwrap();
    model.outage(Tick::from_ms(100));
    model.back(Tick::from_ms(5_000));
    let modelled = model.time_to_live(Tick::from_ms(5_500), 0, LEASE).unwrap().unwrap();
    assert_eq!((modelled.ttl_s, i64::try_from(modelled.ttl_s).unwrap()), (2, left.unwrap().ttl()));
    let (_, _, raft_term) = real.head().await;
    assert_eq!(raft_term, model.header(0).raft_term);
}
