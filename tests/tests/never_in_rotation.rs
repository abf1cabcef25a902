//! HAProxy crashes when a server takes persistent traffic without ever having been in the balancing tree, and is deleted
//! then: `leastconn` and `first`, 2.6 to 3.4, by one sequence or another. lb-sync must send none of these sequences.

use serde_json::json;
use testkit::app::App;
use testkit::{Stack, http};

/// How many servers take the dangerous way at once: one is not always enough for the crash.
const INSTANCES: u16 = 8;

/// Requests that stick to each server, by its cookie.
const STICKY_REQUESTS: usize = 2;

fn record(port: u16, state: &str) -> String {
    let drain = json!({ "sticky_s": 3, "inflight_s": 3 });
    json!({ "address": "127.0.0.1", "port": port, "state": state, "drain": drain }).to_string()
}

/// An instance whose HAProxy check has never passed begins to leave; then its check passes, its sticky clients come, and
/// it goes. Before the rule "DRAIN only from up and ready" HAProxy 3.2 exited with signal 11 here.
async fn survives_instances_that_leave_before_their_first_check(
    algorithm: &'static str,
) -> anyhow::Result<()> {
    let stack = Stack::native()
        .with_affinity()
        .with_balance(algorithm)
        .with_lb_sync_flag("--first-check", "wait")
        .with_lb_sync_flag("--check-interval", "200ms")
        .await;
    let other = stack.app("other").await;
    let _other = stack.put_record("web", "other", other.record().to_string()).await;
    stack.until(|s| s.up("web") == ["other"]).await;
    let haproxy = stack.seen().await.pid;
    let traffic = stack.haproxy().layout().traffic_port;

    let mut leaving = Vec::new();
    for n in 0..INSTANCES {
        let (name, port) = (format!("late-{n}"), stack.ports().free()?);
        let registration = stack.put_record("web", &name, record(port, "up")).await;
        leaving.push((name, port, registration));
    }
    // Nothing listens at their ports yet: their checks fail.
    stack.until(|s| leaving.iter().all(|(name, ..)| s.server("web", name).is_some())).await;
    for (_, port, registration) in &leaving {
        registration.put(record(*port, "draining")).await;
    }
    for (name, ..) in &leaving {
        stack.until_key(&format!("{}/acks/lb/web/{name}", testkit::PREFIX), true).await;
    }
    let mut apps = Vec::new();
    for (name, port, _) in &leaving {
        apps.push(App::launch(stack.home(), name, *port).await?);
    }
    // In DRAIN and up, or in MAINT where the rule holds.
    let settled = |status: &str| status.starts_with("DRAIN") || status.starts_with("MAINT");
    stack
        .until(|s| {
            leaving.iter().all(|(name, ..)| s.server("web", name).is_none_or(|it| settled(&it.status)))
        })
        .await;
    for (name, ..) in &leaving {
        for _ in 0..STICKY_REQUESTS {
            assert_eq!(http::get_with_cookie(traffic, &format!("LBI={name}")).await?, 200);
        }
    }
    for (.., registration) in leaving {
        registration.delete().await;
    }

    stack.until(|s| s.servers("web") == ["other"]).await;
    for _ in 0..100 {
        assert_eq!(http::get_with_cookie(traffic, "LBI=none").await?, 200);
    }
    assert_eq!(stack.seen().await.pid, haproxy, "it is the same HAProxy");
    Ok(())
}

#[tokio::test]
async fn haproxy_survives_instances_that_leave_before_their_first_check_with_leastconn() {
    survives_instances_that_leave_before_their_first_check("leastconn").await.unwrap();
}

#[tokio::test]
async fn haproxy_survives_instances_that_leave_before_their_first_check_with_first() {
    survives_instances_that_leave_before_their_first_check("first").await.unwrap();
}
