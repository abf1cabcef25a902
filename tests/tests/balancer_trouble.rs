//! HAProxy or lb-sync goes away and comes back.

use std::time::Duration;

use testkit::{Clock, PerSecond as _, Stack};

const NAMES: [&str; 3] = ["web-1", "web-2", "web-3"];
/// An edit by hand is found by reading everything anew, which happens every 30 s.
const AUDIT_MAX: Duration = Duration::from_secs(40);

#[tokio::test]
async fn a_killed_haproxy_gets_its_servers_back_and_fails_requests_only_until_then() {
    let stack = Stack::native().await;
    stack.service("web").instances(3).serving().await;
    let before = stack.seen().await;
    let load = stack.load(300.per_second());
    stack.until_served(&load, &NAMES, 50).await;

    let died = Clock.now();
    stack.haproxy().kill().await;
    stack.haproxy().start().await;
    let started = Clock.now();
    stack.until(|s| s.up("web") == NAMES).await;
    let restored = Clock.now();
    stack.until_served(&load, &NAMES, 100).await;

    let report = load.stop().await;
    println!(
        "HAProxy was away for {:?}; {:?} after its start all servers were back; {} requests failed",
        started.since(died),
        restored.since(started),
        report.failed
    );
    let outside = report.failures.iter().filter(|it| it.at < died || it.due > restored);
    assert_eq!(outside.count(), 0, "{report}");
    let facts = |seen: &testkit::haproxy::Seen| {
        let rows = seen.membership("web").into_iter();
        rows.map(|(name, id, addr, _, weight)| (name, id, addr, weight)).collect::<Vec<_>>()
    };
    assert_eq!(facts(&stack.seen().await), facts(&before), "all servers as before");
}

#[tokio::test]
async fn a_killed_lb_sync_comes_back_and_changes_nothing() {
    let stack = Stack::native().await;
    let web = stack.service("web").instances(3).serving().await;
    let load = stack.load(300.per_second());
    let before = stack.seen().await;

    let deed = async {
        stack.lb_sync().restart().await;
        stack.until_served(&load, &NAMES, 100).await;
    };
    stack.during(deed, |s| s.pid == before.pid && s.membership("web") == before.membership("web")).await;

    web.instances(4).serving().await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

#[tokio::test]
async fn what_happened_while_lb_sync_was_away_is_made_up_for() {
    let stack = Stack::native().await;
    let web = stack.service("web").instances(3).serving().await;
    let load = stack.load(300.per_second());

    stack.lb_sync().kill().await;
    web.instance(1).kill_hard().await;
    stack.until_key(&web.instance(1).now().key(), false).await;
    let _joining = web.instances(4);
    stack.until_key(&web.instance(4).now().key(), true).await;
    stack.lb_sync().start().await;

    stack.until(|s| s.up("web") == ["web-2", "web-3", "web-4"] && s.servers("web").len() == 3).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

#[tokio::test]
async fn an_edit_by_hand_is_put_right_and_a_hand_made_server_is_left_alone() {
    let stack = Stack::native().await;
    stack.service("web").instances(2).serving().await;
    let app = stack.app("by-hand").await;
    let load = stack.load(300.per_second());
    let port = app.port();

    for command in [
        &*format!("add server web/by-hand 127.0.0.1:{port} id 77 weight 100"),
        "set server web/by-hand state ready",
        "set server web/web-1 weight 7",
    ] {
        stack.haproxy().ask(command).await.unwrap();
    }

    stack.until_within(AUDIT_MAX, |s| s.server("web", "web-1").is_some_and(|it| it.weight == 100)).await;
    assert_eq!(stack.seen().await.up("web"), ["by-hand", "web-1", "web-2"]);
    stack.until_served(&load, &["by-hand", "web-1", "web-2"], 50).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

/// In a backend that changes all the time: what is read back after each change has the edit, too.
#[tokio::test]
async fn an_edit_by_hand_in_a_backend_that_changes_is_put_right() {
    let stack = Stack::native().await;
    let web = stack.service("web").instances(3).serving().await;
    let load = stack.load(300.per_second());

    stack.haproxy().ask("set server web/web-1 state maint").await.unwrap();
    for n in 4..=6 {
        let _joining = web.instances(n);
        stack.until(|s| s.up("web").contains(&format!("web-{n}").as_str())).await;
    }
    for n in 4..=6 {
        web.instance(n).terminate().await;
    }

    stack.until_within(AUDIT_MAX, |s| s.up("web") == NAMES).await;
    stack.until_served(&load, &NAMES, 50).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

#[tokio::test]
async fn an_lb_sync_that_starts_while_etcd_is_away_serves_what_it_knew() {
    let stack = Stack::native().await;
    let web = stack.service("web").instances(3).serving().await;
    stack.lb_sync().until_saved(stack.home(), "web/web-3").await;

    stack.etcd().stop().await;
    stack.lb_sync().kill().await;
    stack.haproxy().restart().await;
    stack.lb_sync().start_blind();
    stack.until(|s| s.up("web") == NAMES).await;
    let load = stack.load(300.per_second());
    stack.until_served(&load, &NAMES, 50).await;

    // etcd back, nothing changes, and the next instance joins.
    let before = stack.seen().await.membership("web");
    let deed = async {
        stack.etcd().start().await;
        stack.until_served(&load, &NAMES, 300).await;
    };
    stack.during(deed, |s| s.membership("web") == before).await;
    web.instances(4).serving().await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}
