//! etcd's leader changes every second while instances join and leave one after the other.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, helpers included")]

use std::cell::Cell;
use std::time::Duration;

use testkit::service::Service;
use testkit::{Clock, PerSecond as _, Stack};

/// Instances that are replaced in turn, and one that stays.
const COUNT: usize = 4;
/// How long an answer takes of those that leave, in milliseconds: some are under way at each leave.
const LONG_MS: u32 = 200;
const CHANGE_EVERY: Duration = Duration::from_secs(1);
const CHANGES: u32 = 20;

/// The product's own: a lease has to outlive some beats that meet no leader.
const TTL_S: u32 = 10;

/// No registrar has lost its lease in its present life.
async fn assert_no_lease_lost(web: &Service<'_>) {
    for n in 1..=COUNT {
        let metrics = web.instance(n).now().page("/metrics").await.unwrap();
        let mut lines = metrics.lines();
        let line = lines.find(|line| line.starts_with("leasehold_registrar_leases_lost_total")).unwrap();
        assert!(line.ends_with(" 0"), "web-{n}: {line}");
    }
}

#[tokio::test]
async fn a_leader_that_changes_every_second_costs_no_request_and_no_lease() {
    let stack = Stack::native().with_etcd_members(3).await;
    let web = stack.service("web").with_ttl_s(TTL_S).instances(COUNT).serving().await;
    let load = stack.load(200.per_second());
    stack.until_served(&load, &["web-1", "web-2", "web-3", "web-4"], 20).await;

    let is_over = Cell::new(false);
    let changing = async {
        for _ in 0..CHANGES {
            stack.etcd().move_leader().await;
            // The time between two changes is what is tested.
            tokio::time::sleep(CHANGE_EVERY).await;
        }
        is_over.set(true);
    };
    let rolling = async {
        let mut replaced = 0;
        while !is_over.get() {
            for n in 2..=COUNT {
                web.instance(n).slow_down(LONG_MS).await;
                assert_no_lease_lost(&web).await;
                web.instance(n).restart_on_new_port().await;
                replaced += 1;
            }
        }
        replaced
    };
    let start = Clock.now();
    let ((), replaced) = tokio::join!(changing, rolling);
    println!("{CHANGES} changes of leader, {replaced} instances replaced in {:?}", Clock.now().since(start));

    assert_no_lease_lost(&web).await;
    stack.until(|s| s.up("web").len() == COUNT && s.servers("web").len() == COUNT).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}
