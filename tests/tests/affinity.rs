//! A client that was told where it belongs stays there.

use std::collections::BTreeMap;

use serde_json::json;
use testkit::load::Report;
use testkit::stack::SEEN_MAX;
use testkit::{PerSecond as _, Stack, wait};

#[tokio::test]
async fn sticky_clients_stay_while_others_join() {
    let stack = Stack::native().with_affinity().await;
    let web = stack.service("web").instances(2).serving().await;
    let load = web.load_of_sticky_clients(20, 200.per_second());
    stack.until_served(&load, &["web-1", "web-2"], 100).await;

    web.instances(3).serving().await;

    stack.until_served(&load, &["web-1", "web-2"], 200).await;
    let report = load.stop().await;
    assert_eq!((report.failed, report.moves.len()), (0, 0), "{report} {:?}", report.moves);
}

#[tokio::test]
async fn sticky_clients_follow_their_instance_to_another_port() {
    let stack = Stack::native().with_affinity().await;
    let web = stack.service("web").instances(2).serving().await;
    let load = web.load_of_sticky_clients(20, 200.per_second());
    stack.until_served(&load, &["web-1", "web-2"], 100).await;

    web.instance(1).move_to_new_port().await;

    stack.until_served(&load, &["web-1", "web-2"], 200).await;
    let report = load.stop().await;
    assert_eq!((report.failed, report.moves.len()), (0, 0), "{report} {:?}", report.moves);
}

/// Who was at `home` at first and asked while it was away is back there at the end, and no other client has moved.
fn assert_returned(home: &str, report: &Report) {
    let mut last = BTreeMap::new();
    for it in &report.moves {
        let first = last.insert(it.client, it.to.as_str()).is_none();
        assert!(!first || it.from == home, "{it:?} had no need to move");
    }
    assert!(!last.is_empty(), "no client asked while it was away: {report}");
    assert!(last.values().all(|to| *to == home), "{:?}", report.moves);
    assert_eq!(report.failed, 0, "{report}");
}

#[tokio::test]
async fn clients_that_ask_while_their_instance_is_away_return_to_it_at_another_address() {
    let stack = Stack::native().with_affinity().await;
    let web = stack.service("web").instances(2).serving().await;
    let (before, after) = (stack.app("by-hand").await, stack.app("by-hand").await);
    let record = stack.put_record("web", "by-hand", before.record().to_string()).await;
    stack.until(|s| s.up("web") == ["by-hand", "web-1", "web-2"]).await;
    let load = web.load_of_sticky_clients(20, 200.per_second());
    stack.until_served(&load, &["by-hand", "web-1", "web-2"], 100).await;

    record.put(json!({ "address": "127.0.0.1", "port": before.port(), "state": "down" }).to_string()).await;
    stack.until(|s| s.up("web") == ["web-1", "web-2"]).await;
    stack.until_served(&load, &["web-1", "web-2"], 100).await;
    record.put(after.record().to_string()).await;

    stack.until(|s| s.up("web") == ["by-hand", "web-1", "web-2"]).await;
    stack.until_served(&load, &["by-hand", "web-1", "web-2"], 200).await;
    assert_returned("by-hand", &load.stop().await);
}

#[tokio::test]
async fn clients_of_an_instance_that_crashed_are_waited_for_through_restarts_of_lb_sync_and_haproxy() {
    let stack = Stack::native().with_affinity().await;
    let web = stack.service("web").instances(3).serving().await;
    let load = web.load_of_sticky_clients(20, 200.per_second());
    stack.until_served(&load, &["web-1", "web-2", "web-3"], 100).await;

    web.instance(1).kill_app().await;
    stack.until(|s| s.server("web", "web-1").is_none()).await;
    stack.until_served(&load, &["web-2", "web-3"], 100).await;
    let gap = load.stop().await;
    assert_eq!(gap.failed, 0, "{gap}");
    let show = format!("show map {}", stack.haproxy().layout().restarting_map("web").display());
    let listed = async || stack.haproxy().ask(&show).await.is_ok_and(|names| names.contains(" web-1 "));
    assert!(listed().await);
    stack.lb_sync().restart().await;
    stack.haproxy().restart().await;
    stack.until(|s| s.up("web") == ["web-2", "web-3"]).await;
    let again = async || Ok(listed().await.then_some(()));
    assert!(wait::until(SEEN_MAX, "web-1 listed again", again).await.is_ok());
}

#[tokio::test]
async fn sticky_clients_stay_through_drain_for_as_long_as_they_may() {
    let stack = Stack::native().with_affinity().await;
    let web = stack.service("web").instances(1).serving().await;
    let app = stack.app("by-hand").await;
    let record = stack.put_record("web", "by-hand", app.record().to_string()).await;
    stack.until(|s| s.up("web") == ["by-hand", "web-1"]).await;
    let load = web.load_of_sticky_clients(20, 200.per_second());
    stack.until_served(&load, &["by-hand", "web-1"], 100).await;

    let draining = json!({
        "address": "127.0.0.1", "port": app.port(), "state": "draining", "drain": { "sticky_s": 5, "inflight_s": 5 },
    });
    record.put(draining.to_string()).await;
    stack.until(|s| s.server("web", "by-hand").is_some_and(|it| it.status.starts_with("DRAIN"))).await;

    stack.until_served(&load, &["by-hand"], 100).await;
    assert_eq!(load.so_far().moves, []);
    stack.until(|s| s.server("web", "by-hand").is_none_or(|it| it.status.starts_with("MAINT"))).await;
    stack.until_served(&load, &["web-1"], 200).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
    assert!(!report.moves.is_empty() && report.moves.iter().all(|it| it.to == "web-1"), "{:?}", report.moves);
}

#[tokio::test]
async fn sticky_clients_stay_through_a_restart_of_haproxy() {
    let stack = Stack::native().with_affinity().await;
    let web = stack.service("web").instances(2).serving().await;
    let load = web.load_of_sticky_clients(20, 200.per_second());
    stack.until_served(&load, &["web-1", "web-2"], 100).await;

    stack.haproxy().restart().await;

    stack.until(|s| s.up("web") == ["web-1", "web-2"]).await;
    stack.until_served(&load, &["web-1", "web-2"], 200).await;
    assert_eq!(load.stop().await.moves, []);
}
