//! What happens between the parts: leaves while lb-sync is upgraded and HAProxy reloaded, an etcd whose history runs
//! backwards, and one behind its own proxy.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, helpers included")]

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use testkit::haproxy::{HaProxy, Layout, Seen};
use testkit::home::Home;
use testkit::instance::Instance;
use testkit::lb_sync::LbSync;
use testkit::service::Member;
use testkit::stack::SEEN_MAX;
use testkit::{Clock, PREFIX, PerSecond as _, Stack, http, wait};

/// How long an answer takes where it is to be under way while something happens, in milliseconds.
const LONG_MS: u32 = 300;
/// Longer than any watch may be quiet without being asked for its progress, three times over.
const QUIET: Duration = Duration::from_secs(15);

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
    let in_flight = |s: &Seen| s.server("web", "web-1").is_some_and(|it| it.in_flight == 4);
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

/// HAProxy is reloaded at the moment at which a leave is over. Before, its files were up to a second old: the new worker had
/// who had left in rotation.
#[tokio::test]
async fn a_reload_right_after_a_leave_does_not_bring_the_instance_back() {
    let stack = Stack::native().with_files().with_master().await;
    let web = stack.service("web").with_flag("--inflight", "1s").instances(4).serving().await;
    for at in [1, 2, 3] {
        web.instance(at).terminate().await;
        let section = stack.haproxy().layout().sections.as_ref().unwrap().join("50-web.cfg");
        let text = std::fs::read_to_string(section).unwrap();
        let name = format!("server web-{at} ");
        let mut lines = text.lines().filter(|line| line.trim_start().starts_with(&name));
        assert!(lines.all(|line| line.ends_with(" disabled")), "web-{at} has left:\n{text}");
        stack.haproxy().reload().await;
        stack.until(|s| s.up("web").len() == 4 - at && s.servers("web").len() == 4 - at).await;
    }
}

/// Its registrar's metric of that name, which has one value.
async fn metric(instance: &Instance, name: &str) -> String {
    let metrics = instance.page("/metrics").await.unwrap();
    let lines = metrics.lines().filter(|line| line.starts_with(name));
    lines.filter_map(|line| line.rsplit_once(' ')).map(|(_, value)| value).collect()
}

/// A registrar's claim to its name does not end by what etcd remembers of an earlier owner.
async fn assert_none_stands_down(members: &[Member<'_>]) {
    for member in members {
        assert_eq!(metric(&member.now(), "leasehold_registrar_superseded").await, "0", "{}", member.name());
    }
}

/// Of four instances, one has moved since the backup, one has left, one has joined, and one is as it was. History runs
/// backwards, and the revisions soon pass the old ones: nothing may be taken for news that is old.
#[tokio::test]
async fn an_etcd_restored_from_a_backup_brings_nothing_stale_back_and_displaces_no_one() {
    let stack = Stack::native().await;
    let web = stack.service("web").instances(3).serving().await;
    let backup = stack.etcd().save();
    web.instance(1).restart_on_new_port().await;
    web.instance(3).terminate().await;
    web.instance(4).start_on_new_port();
    stack.until(|s| s.up("web") == ["web-1", "web-2", "web-4"]).await;
    let living = [web.instance(1), web.instance(2), web.instance(4)];
    let names = ["web-1", "web-2", "web-4"];
    for member in &living {
        member.slow_down(LONG_MS).await;
    }
    let load = stack.load(200.per_second());
    stack.until_served(&load, &names, 30).await;

    let serve = |s: &Seen| {
        let at =
            |it: &Member<'_>| s.server("web", it.name()).is_some_and(|server| server.port() == it.port());
        living.iter().all(at) && names.iter().all(|name| s.up("web").contains(name))
    };
    let deed = async {
        stack.etcd().restore(&backup).await;
        for member in &living {
            let ours = format!("\"port\":{}", member.port());
            let key = member.now().key();
            let written = async || {
                let record = stack.etcd().get(&key).await.ok().flatten();
                Ok(record.filter(|it| it.replace(' ', "").contains(&ours)))
            };
            wait::until(SEEN_MAX, format!("{key} at {ours}"), written).await.unwrap();
        }
        stack.until_key(&format!("{PREFIX}/instances/web/web-3"), false).await;
        stack.until(|s| s.servers("web") == names).await;
        stack.until_served(&load, &names, 100).await;
    };
    stack.during(deed, serve).await;

    assert_none_stands_down(&living).await;
    // What is in sync follows: one joins and one leaves.
    web.instance(3).start_on_new_port();
    web.instance(3).serving().await;
    web.instance(2).terminate().await;
    stack.until(|s| s.servers("web") == ["web-1", "web-3", "web-4"]).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

/// With everything gone from etcd, what lb-sync last knew still says who gets no traffic: the one whose app is ill, and the
/// one that an operator has taken out. Their registrars write them again, the override is remembered.
async fn a_wipe_brings_no_traffic_back(mode: &str) {
    let stack = Stack::native().await;
    let web = stack.service("web").instances(4).serving().await;
    // Its app answers HAProxy's checks, and its registrar's fail: the registry alone keeps it out.
    let ill = stack.home().join("ill");
    let check = format!("exec:test ! -e {}", ill.display());
    let fifth = stack.service("web").with_flag("--check", &check);
    fifth.instance(5).start_on_new_port();
    fifth.instance(5).serving().await;
    let load = stack.load(300.per_second());
    stack.until_served(&load, &["web-1", "web-2", "web-3", "web-4", "web-5"], 20).await;
    let overriding = json!({ "mode": mode, "reason": "a scenario", "by": "the suite" });
    // A registry that has lived: the new history does not pass its revision while all write themselves anew.
    for _ in 0..100 {
        stack.put_override("web", "web-99", overriding.to_string()).await;
    }
    stack.put_override("web", "web-4", overriding.to_string()).await;
    std::fs::write(&ill, "").unwrap();
    let living = ["web-1", "web-2", "web-3"];
    stack.until(|s| s.up("web") == living).await;
    // What was in flight there has been answered, and counted.
    stack.until_served(&load, &living, 20).await;
    let before = (load.served("web-4"), load.served("web-5"));
    web.instance(1).slow_down(LONG_MS).await;

    let deed = async {
        stack.etcd().wipe().await;
        for n in 1..=5 {
            stack.until_key(&web.instance(n).now().key(), true).await;
        }
        stack.until_served(&load, &living, 200).await;
    };
    stack.during(deed, |s| s.up("web") == living).await;

    assert_eq!((load.served("web-4"), load.served("web-5")), before, "served by one that was taken out");
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

#[tokio::test]
async fn a_wiped_etcd_brings_none_back_that_is_ill_or_in_maintenance() {
    a_wipe_brings_no_traffic_back("maintenance").await;
}

#[tokio::test]
async fn a_wiped_etcd_brings_none_back_that_is_ill_or_drained() {
    a_wipe_brings_no_traffic_back("drain").await;
}

/// etcd's own proxy joins the watches of its clients and has its own view of what is new. Nothing happens for longer than
/// the quiet after which a watch is asked for its progress: none may be taken for dead.
#[tokio::test]
async fn behind_etcds_own_proxy_all_are_in_sync_and_stay_so() {
    let stack = Stack::native().with_etcd_proxy().await;
    let web = stack.service("web").instances(3).serving().await;
    let load = stack.load(200.per_second());
    stack.until_served(&load, &["web-1", "web-2", "web-3"], 20).await;
    let before = stack.seen().await.membership("web");
    let lb_sync = stack.lb_sync();
    let healthy = async || {
        let (status, said) = http::get(lb_sync.port(), "/healthz").await?;
        anyhow::ensure!(status == 200, "lb-sync is out of sync: {said}");
        for n in 1..=3 {
            let held = metric(&web.instance(n).now(), "leasehold_registrar_lease_held").await;
            anyhow::ensure!(held == "1", "web-{n} holds its lease: {held:?}");
        }
        anyhow::ensure!(stack.seen().await.membership("web") == before, "HAProxy's servers changed");
        Ok(())
    };
    wait::during(tokio::time::sleep(QUIET), healthy).await.unwrap();

    web.instance(1).slow_down(LONG_MS).await;
    web.instance(1).terminate().await;
    stack.until(|s| s.servers("web") == ["web-2", "web-3"]).await;
    web.instance(4).start_on_new_port();
    stack.until_served(&load, &["web-2", "web-3", "web-4"], 20).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

/// lb-sync is stopped in the middle of a leave, which waits for long answers; the next life goes on with it. Before the
/// last answer is there, nothing may say that it has left.
#[tokio::test]
async fn an_lb_sync_upgraded_in_the_middle_of_a_leave_ends_it_after_the_last_answer() {
    const ANSWERS: u32 = 4;
    let stack = Stack::native().with_affinity().await;
    let web = stack.service("web").instances(3).serving().await;
    let load = stack.load(200.per_second());
    stack.until_served(&load, &["web-1", "web-2", "web-3"], 20).await;
    web.instance(1).slow_down(1_800).await;
    let port = stack.haproxy().layout().traffic_port;
    let ask = || async move { (http::get_with_cookie(port, "LBI=web-1").await.unwrap(), Clock.now()) };
    let answers: Vec<_> = (0..ANSWERS).map(|_| tokio::spawn(ask())).collect();
    stack.until(|s| s.server("web", "web-1").is_some_and(|it| it.in_flight >= ANSWERS)).await;

    let leaving = web.instance(1);
    let upgraded = async {
        stack.until(|s| s.server("web", "web-1").is_some_and(|it| it.status.starts_with("MAINT"))).await;
        stack.lb_sync().stop().await;
        stack.lb_sync().start().await;
    };
    let (left, ()) = tokio::join!(
        async {
            leaving.terminate().await;
            Clock.now()
        },
        upgraded
    );

    for answer in answers {
        let (status, answered) = answer.await.unwrap();
        assert_eq!(status, 200);
        assert!(answered < left, "it left {:?} before an answer", answered.since(left));
    }
    stack.until(|s| s.servers("web") == ["web-2", "web-3"]).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

/// Two processes of `HAProxy`, each with an lb-sync that was given the name of the other: a cloned host, or one host with two of them. Before,
/// both wrote the same acks, and an instance was stopped once either of them had drained it.
#[tokio::test]
async fn an_instance_that_leaves_waits_for_both_balancers_of_one_name() {
    let stack = Stack::native().await;
    let home = Arc::new(Home::new().unwrap());
    let free = || stack.ports().free().unwrap();
    let (socket, services) = (home.join("haproxy.sock"), stack.haproxy().layout().services.clone());
    let layout = Layout {
        socket,
        traffic_port: free(),
        stats_port: free(),
        services,
        ..stack.haproxy().layout().clone()
    };
    let haproxy = HaProxy::launch(&home, layout).await.unwrap();
    let endpoint = stack.etcd_endpoints();
    let second = LbSync::launch(&home, &endpoint, haproxy.socket(), free()).await.unwrap();
    let web = stack.service("web").with_flag("--inflight", "1s").instances(2).serving().await;
    for name in ["lb", "lb.2"] {
        stack.until_key(&format!("{PREFIX}/balancers/{name}"), true).await;
        stack.until_key(&format!("{PREFIX}/acks/{name}/web/web-1"), true).await;
    }
    let metrics = second.page("/metrics").await.unwrap();
    assert!(metrics.contains("leasehold_lb_name_taken 1"), "{metrics}");
    assert!(stack.lb_sync().page("/metrics").await.unwrap().contains("leasehold_lb_name_taken 0"));

    second.pause();
    let leaving = web.instance(1);
    let resumed = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        second.resume();
        Clock.now()
    };
    let (left, resumed) = tokio::join!(
        async {
            leaving.terminate().await;
            Clock.now()
        },
        resumed
    );
    assert!(left > resumed, "it left before the second of that name had drained it");

    // The next life of the second one has its name at once.
    let name = format!("{PREFIX}/balancers/lb.2");
    let before = stack.etcd().get(&name).await.unwrap();
    second.restart().await;
    let another = async || Ok(stack.etcd().get(&name).await?.filter(|now| before.as_ref() != Some(now)));
    wait::until(Duration::from_secs(5), "the next life under lb.2", another).await.unwrap();
    stack.until_key(&format!("{PREFIX}/balancers/lb.3"), false).await;
}

/// Presence that is deleted or written over by hand is put back, sooner than the keys under the lease are asked about (30 s): a
/// leave would not wait for this balancer.
#[tokio::test]
async fn presence_that_is_deleted_or_written_over_is_put_back() {
    let stack = Stack::native().await;
    let (etcd, key) = (stack.etcd(), format!("{PREFIX}/balancers/lb"));
    stack.until_key(&key, true).await;
    let before = etcd.get(&key).await.unwrap();
    let is_back = async || {
        let look = async || Ok((etcd.get(&key).await? == before).then_some(()));
        wait::until(Duration::from_secs(5), "presence as it was", look).await.unwrap();
    };
    etcd.delete(&key).await.unwrap();
    is_back().await;
    etcd.put(&key, r#"{"services":[]}"#, 0).await.unwrap();
    is_back().await;
    assert_ne!(etcd.lease_of(&key).await.unwrap(), 0, "under lb-sync's lease");
}
