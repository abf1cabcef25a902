//! Records put by any client: what is good is served, what is not changes nothing.

use serde_json::json;
use testkit::{Clock, PREFIX, PerSecond as _, Stack};

#[tokio::test]
async fn a_bare_record_is_served_and_its_revoked_lease_removes_it() {
    let stack = Stack::native().await;
    stack.service("web").instances(2).serving().await;
    let app = stack.app("by-hand").await;
    let load = stack.load(300.per_second());

    let record = stack.put_record("web", "by-hand", app.record().to_string()).await;
    stack.until_served(&load, &["by-hand", "web-1", "web-2"], 50).await;
    record.revoke().await;

    stack.until(|s| s.servers("web") == ["web-1", "web-2"]).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

#[tokio::test]
async fn a_bare_record_that_is_deleted_is_removed_though_it_was_the_last() {
    let stack = Stack::native().await;
    let app = stack.app("by-hand").await;
    let record = stack.put_record("web", "by-hand", app.record().to_string()).await;
    stack.until(|s| s.up("web") == ["by-hand"]).await;

    // Its lease lives on: this was a wish, not an accident.
    record.delete().await;

    stack.until(|s| s.servers("web").is_empty()).await;
}

#[tokio::test]
async fn a_record_put_again_with_another_port_moves_the_server_without_a_failed_request() {
    let stack = Stack::native().await;
    stack.service("web").instances(1).serving().await;
    let (first, second) = (stack.app("first").await, stack.app("second").await);
    let record = stack.put_record("web", "by-hand", first.record().to_string()).await;
    stack.until(|s| s.up("web") == ["by-hand", "web-1"]).await;
    let before = stack.seen().await;
    let load = stack.load(300.per_second());
    stack.until_served(&load, &["first"], 50).await;

    record.put(second.record().to_string()).await;

    stack.until_served(&load, &["second"], 50).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
    let after = stack.seen().await;
    let id = |seen: &testkit::haproxy::Seen| seen.server("web", "by-hand").unwrap().id;
    assert_eq!(id(&after), id(&before), "it is the same server");
}

#[tokio::test]
async fn a_new_weight_changes_the_share_without_a_failed_request() {
    let stack = Stack::native().await;
    let (light, heavy) = (stack.app("light").await, stack.app("heavy").await);
    let record = stack.put_record("web", "light", light.record().to_string()).await;
    let _heavy = stack.put_record("web", "heavy", heavy.record().to_string()).await;
    stack.until(|s| s.up("web") == ["heavy", "light"]).await;
    let load = stack.load(300.per_second());
    stack.until_served(&load, &["heavy", "light"], 50).await;

    let lighter = json!({ "address": "127.0.0.1", "port": light.port(), "weight": 25 });
    record.put(lighter.to_string()).await;

    stack.until(|s| s.server("web", "light").is_some_and(|it| it.weight == 25)).await;
    let changed = Clock.now();
    stack.until_served(&load, &["heavy"], 400).await;
    let until = Clock.now();
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
    let served = report.served_between(changed, until);
    let (light, heavy) = (served["light"], served["heavy"]);
    assert!((80..=120).contains(&(light * 400 / heavy)), "25 to 100 became {light} to {heavy}");
}

#[tokio::test]
async fn an_operators_override_takes_an_instance_out_and_its_end_brings_it_back() {
    let stack = Stack::native().await;
    stack.service("web").instances(2).serving().await;
    let load = stack.load(300.per_second());
    stack.until_served(&load, &["web-1", "web-2"], 50).await;

    let overriding = json!({ "mode": "maintenance", "reason": "a scenario", "by": "the suite" });
    stack.put_override("web", "web-1", overriding.to_string()).await;
    stack.until(|s| s.up("web") == ["web-2"]).await;
    stack.delete_override("web", "web-1").await;

    stack.until(|s| s.up("web") == ["web-1", "web-2"]).await;
    stack.until_served(&load, &["web-1"], 50).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

#[tokio::test]
async fn bad_input_changes_nothing_and_the_last_good_record_stays_in_force() {
    let stack = Stack::native().await;
    stack.service("web").instances(1).serving().await;
    let (app, probe) = (stack.app("by-hand").await, stack.app("probe").await);
    let record = stack.put_record("web", "by-hand", app.record().to_string()).await;
    stack.until(|s| s.up("web") == ["by-hand", "web-1"]).await;
    let load = stack.load(300.per_second());
    let before = stack.seen().await.membership("web");

    let deed = async {
        for key in ["web/a b", "web/a;b", "web/-a", "web/", "web", "we b/a", "web/a/b", "web/a\nshow info"] {
            let key = format!("{PREFIX}/instances/{key}");
            stack.etcd().put(&key, app.record().to_string(), 0).await.unwrap();
        }
        let port = app.port();
        for value in [
            String::new(),
            "not json".into(),
            "[]".into(),
            json!({ "address": "127.0.0.1" }).to_string(),
            json!({ "address": "127.0.0.1", "port": 0 }).to_string(),
            json!({ "address": "127.0.0.1", "port": 65_536 }).to_string(),
            json!({ "address": "0.0.0.0", "port": port }).to_string(),
            json!({ "address": "localhost", "port": port }).to_string(),
            json!({ "address": "127.0.0.1 weight 1", "port": port }).to_string(),
            json!({ "address": "127.0.0.1;disable server web/web-1", "port": port }).to_string(),
            json!({ "address": "127.0.0.1", "port": port, "weight": 257 }).to_string(),
            json!({ "address": "127.0.0.1", "port": port, "state": "asleep" }).to_string(),
            json!({ "address": "127.0.0.1", "port": port, "labels": { "x": "y".repeat(1_000_000) } })
                .to_string(),
        ] {
            record.put(value).await;
        }
        stack.until_served(&load, &["by-hand", "web-1"], 50).await;
    };
    stack.during(deed, |s| s.membership("web") == before).await;

    // What is good is taken after all that: it was read, and refused.
    let _probe = stack.put_record("web", "probe", probe.record().to_string()).await;
    stack.until(|s| s.up("web") == ["by-hand", "probe", "web-1"]).await;
    record.put(app.record().to_string()).await;
    stack.until_served(&load, &["by-hand", "probe", "web-1"], 50).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

#[tokio::test]
async fn of_two_instances_at_one_address_the_later_is_served() {
    let stack = Stack::native().await;
    stack.service("web").instances(1).serving().await;
    let app = stack.app("by-hand").await;
    let _older = stack.put_record("web", "older", app.record().to_string()).await;
    stack.until(|s| s.up("web") == ["older", "web-1"]).await;
    let load = stack.load(300.per_second());

    let newer = stack.put_record("web", "newer", app.record().to_string()).await;
    stack.until(|s| s.up("web") == ["newer", "web-1"]).await;
    newer.delete().await;

    stack.until(|s| s.up("web") == ["older", "web-1"]).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}
