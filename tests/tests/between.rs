//! What happens between the parts: a leave while lb-sync is upgraded, and while HAProxy is reloaded in mid-answer.

use std::time::Duration;

use testkit::{Clock, PerSecond as _, Stack, http};

/// lb-sync is told to stop, as by an upgrade, and an instance leaves while it is away: the leave waits for it, since its
/// HAProxy serves on. Before, the stop took its presence away, and the app was stopped in rotation.
#[tokio::test]
async fn an_instance_that_leaves_while_lb_sync_is_upgraded_waits_for_it() {
    let stack = Stack::native().await;
    // HAProxy is young, and lb-sync does not know whether it replaced an old worker: it gives one its time.
    let web = stack.service("web").with_flag("--inflight", "3s").instances(3).serving().await;
    let load = stack.load(300.per_second());
    stack.until_served(&load, &["web-1", "web-2", "web-3"], 30).await;

    stack.lb_sync().stop().await;
    let leaving = web.instance(2);
    let upgraded = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        stack.lb_sync().start().await;
        Clock.now()
    };
    let (left, started) = tokio::join!(
        async {
            leaving.terminate().await;
            Clock.now()
        },
        upgraded
    );

    assert!(left > started, "it left before its balancer was back");
    stack.until(|s| s.servers("web") == ["web-1", "web-3"]).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

/// HAProxy is reloaded while answers are under way, which stay with the old worker; then their instance leaves. Before,
/// the new worker's lb-sync said `drained` at once, and the app was stopped with answers in its hands.
#[tokio::test]
async fn an_instance_that_leaves_after_a_reload_waits_for_the_old_worker() {
    let stack = Stack::native().with_affinity().with_files().with_master().await;
    let web = stack.service("web").instances(2).serving().await;
    web.instance(1).slow_down(1_500).await;
    let port = stack.haproxy().layout().traffic_port;
    let answers: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn(
                async move { (http::get_with_cookie(port, "LBI=web-1").await.unwrap(), Clock.now()) },
            )
        })
        .collect();
    let in_flight = |s: &testkit::haproxy::Seen| s.server("web", "web-1").is_some_and(|it| it.in_flight == 4);
    stack.until(in_flight).await;

    stack.haproxy().reload().await;
    web.instance(1).terminate().await;

    let left = Clock.now();
    for answer in answers {
        let (status, answered) = answer.await.unwrap();
        assert_eq!(status, 200);
        assert!(answered < left, "it left {:?} before an answer", answered.since(left));
    }
}
