//! Instances come, go, move and die under load: no client notices.

use std::time::Duration;

use testkit::service::TTL_S;
use testkit::{Clock, PerSecond as _, Stack};

#[tokio::test]
async fn instances_that_join_get_traffic_and_fail_no_request() {
    let stack = Stack::native().await;
    let web = stack.service("web").instances(1).serving().await;
    let load = stack.load(300.per_second());

    web.instances(3).serving().await;

    stack.until_served(&load, &["web-1", "web-2", "web-3"], 50).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

#[tokio::test]
async fn a_terminated_instance_leaves_without_a_failed_request() {
    let stack = Stack::native().await;
    let web = stack.service("web").instances(3).serving().await;
    let load = stack.load(300.per_second());
    stack.until_served(&load, &["web-2"], 50).await;

    let status = web.instance(2).terminate().await;

    assert!(status.success(), "the registrar hands on the app's own exit, not {status}");
    stack.until(|s| s.servers("web") == ["web-1", "web-3"]).await;
    stack.until_served(&load, &["web-1", "web-3"], 50).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

#[tokio::test]
async fn an_app_is_told_to_stop_only_after_it_is_out_of_rotation() {
    let stack = Stack::native().await;
    let web = stack.service("web").noting_stops().instances(3).serving().await;
    let load = stack.load(300.per_second());
    stack.until_served(&load, &["web-1"], 50).await;

    web.instance(1).terminate().await;

    let server = web.instance(1).now().server_when_stopped().unwrap();
    let out =
        server.as_ref().is_none_or(|server| server.status.starts_with("MAINT") && server.in_flight == 0);
    assert!(out, "its app was told to stop while HAProxy had it as {server:?}");
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

#[tokio::test]
async fn a_leaving_instance_finishes_its_slow_requests() {
    let stack = Stack::native().await;
    let web = stack.service("web").instances(2).serving().await;
    web.instance(1).slow_down(400).await;
    let load = stack.load(100.per_second());
    stack.until_served(&load, &["web-1"], 20).await;

    web.instance(1).terminate().await;

    stack.until(|s| s.servers("web") == ["web-2"]).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

#[tokio::test]
async fn a_dead_host_costs_no_request_and_its_key_and_server_go() {
    let stack = Stack::native().await;
    let web = stack.service("web").instances(3).serving().await;
    let key = web.instance(3).now().key();
    let load = stack.load(300.per_second());
    stack.until_served(&load, &["web-3"], 50).await;

    let killed = Clock.now();
    web.instance(3).kill_hard().await;

    stack.until_key(&key, false).await;
    let held = Clock.now().since(killed);
    assert!(held <= Duration::from_secs(u64::from(TTL_S) + 1), "the key was held for {held:?}");
    stack.until(|s| s.servers("web") == ["web-1", "web-2"]).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

#[tokio::test]
async fn an_app_that_dies_is_out_at_once_and_costs_no_request() {
    let stack = Stack::native().await;
    let web = stack.service("web").instances(3).serving().await;
    let load = stack.load(300.per_second());
    stack.until_served(&load, &["web-1"], 50).await;

    let dying = web.instance(1);
    let (status, out) = tokio::join!(dying.kill_app(), stack.until(|s| !s.up("web").contains(&"web-1")));

    assert_eq!(status.code(), Some(137), "the registrar ends as its app did");
    assert!(out < Duration::from_secs(u64::from(TTL_S)), "not on its end but on a timer: {out:?}");
    stack.until(|s| s.servers("web") == ["web-2", "web-3"]).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

#[tokio::test]
async fn an_instance_restarted_on_another_port_keeps_its_name() {
    let stack = Stack::native().await;
    let web = stack.service("web").instances(3).serving().await;
    let load = stack.load(300.per_second());
    stack.until_served(&load, &["web-2"], 50).await;

    web.instance(2).restart_on_new_port().await;

    stack.until_served(&load, &["web-1", "web-2", "web-3"], 50).await;
    assert_eq!(stack.seen().await.servers("web"), ["web-1", "web-2", "web-3"]);
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

#[tokio::test]
async fn an_instance_back_from_the_dead_takes_its_name_over_before_its_old_lease_ends() {
    let stack = Stack::native().await;
    let web = stack.service("web").instances(3).serving().await;
    let id = stack.seen().await.server("web", "web-2").unwrap().id;
    let load = stack.load(300.per_second());
    stack.until_served(&load, &["web-2"], 50).await;

    web.instance(2).kill_hard().await;
    web.instance(2).start_on_new_port();
    let took = web.instance(2).serving().await;

    assert!(took < Duration::from_secs(u64::from(TTL_S)), "it waited for its old lease: {took:?}");
    stack.until_served(&load, &["web-2"], 50).await;
    assert_eq!(stack.seen().await.server("web", "web-2").unwrap().id, id);
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

#[tokio::test]
async fn a_newer_registrar_takes_the_name_and_the_older_leaves_its_app_alone() {
    let stack = Stack::native().await;
    let web = stack.service("web").instances(2).serving().await;
    let old = web.instance(1).now();
    let load = stack.load(300.per_second());
    stack.until_served(&load, &["web-1"], 50).await;

    web.instance(1).start_on_new_port();
    web.instance(1).serving().await;

    stack.until_served(&load, &["web-1"], 50).await;
    assert_eq!(old.app_pids().unwrap().len(), 1, "the older one's app runs on");
    assert_eq!(stack.seen().await.server("web", "web-1").unwrap().port(), web.instance(1).port());
    old.terminate().await.unwrap();
    stack.until_served(&load, &["web-1"], 50).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

/// Fifty containers replaced in one go: first each beside its successor, then all killed and back elsewhere.
#[tokio::test]
async fn fifty_are_replaced_at_once_while_their_old_leases_live() {
    const COUNT: usize = 50;
    const LONG_TTL_S: u32 = 60;
    let stack = Stack::native().await;
    let web = stack.service("web").with_ttl_s(LONG_TTL_S).instances(COUNT).serving().await;
    let load = stack.load(200.per_second());
    stack.until_served(&load, &["web-1", "web-50"], 5).await;

    let old: Vec<_> = (1..=COUNT).map(|n| web.instance(n).now()).collect();
    for n in 1..=COUNT {
        web.instance(n).start_on_new_port();
    }
    for n in 1..=COUNT {
        web.instance(n).serving().await;
    }
    for instance in old {
        instance.terminate().await.unwrap();
    }
    stack.until_served(&load, &["web-1", "web-50"], 5).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");

    let killed = Clock.now();
    for n in 1..=COUNT {
        web.instance(n).kill_hard().await;
    }
    for n in 1..=COUNT {
        web.instance(n).start_on_new_port();
    }
    for n in 1..=COUNT {
        web.instance(n).serving().await;
    }
    let took = Clock.now().since(killed);
    assert!(
        took < Duration::from_secs(u64::from(LONG_TTL_S) / 2),
        "they waited for their old leases: {took:?}"
    );
    println!("{COUNT} killed and back elsewhere: {took:?}");
}

#[tokio::test]
async fn services_do_not_touch_each_other() {
    let stack = Stack::native().with_services(&["web", "api"]).await;
    let web = stack.service("web").instances(2).serving().await;
    let api = stack.service("api").instances(2).serving().await;
    let (load, other_load) = (web.load(150.per_second()), api.load(150.per_second()));
    stack.until_served(&load, &["web-1"], 20).await;
    stack.until_served(&other_load, &["api-1"], 20).await;
    let before = stack.seen().await.membership("api");

    let deed = async {
        web.instance(1).terminate().await;
        stack.until(|s| s.servers("web") == ["web-2"]).await;
    };
    stack.during(deed, |s| s.membership("api") == before).await;

    for report in [load.stop().await, other_load.stop().await] {
        assert_eq!(report.failed, 0, "{report}");
    }
}
