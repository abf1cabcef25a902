//! The harness itself: a suite that cannot see a failure proves nothing.
#![expect(clippy::unwrap_used, reason = "clippy knows tests by their attribute, and helpers have none")]

use std::sync::Arc;
use std::time::Duration;

use testkit::PerSecond as _;
use testkit::app::App;
use testkit::etcd::Etcd;
use testkit::haproxy::{HaProxy, Layout};
use testkit::home::Home;
use testkit::load::{Load, Plan};
use testkit::port::{Ports, loopback};
use testkit::wait;

const SEEN_MAX: Duration = Duration::from_secs(20);

fn layout(home: &Home, ports: &Ports, affinity: bool) -> Layout {
    Layout {
        socket: home.join("haproxy.sock"),
        traffic_port: ports.free().unwrap(),
        stats_port: ports.free().unwrap(),
        services: vec!["web".into(), "api".into()],
        affinity,
        balance: "roundrobin",
        sections: None,
        master: None,
    }
}

fn load(port: u16, sticky_clients: usize) -> Load {
    let (target, service, path) = (loopback(port), "web".into(), "/".into());
    let plan = Plan { target, service, path, rate: 200.per_second(), sticky_clients };
    Load::start(plan).unwrap()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    wait::until(SEEN_MAX, what, async || Ok(condition().then_some(()))).await.unwrap();
}

/// Adds `app` to the backend `web`, as an administrator would by hand.
async fn add(haproxy: &HaProxy, app: &App, name: &str) {
    let port = app.port();
    for command in
        [format!("add server web/{name} 127.0.0.1:{port}"), format!("set server web/{name} state ready")]
    {
        haproxy.ask(&command).await.unwrap();
    }
}

#[tokio::test]
async fn a_load_counts_what_is_served_and_what_fails() {
    let home = Arc::new(Home::new().unwrap());
    let ports = Ports::claim().unwrap();
    let app = App::launch(&home, "a", ports.free().unwrap()).await.unwrap();
    let load = load(app.port(), 0);
    until("requests served", || load.served("a") > 20).await;
    assert_eq!(load.so_far().failed, 0);

    app.daemon().process().unwrap().kill().await.unwrap();

    until("requests that fail", || load.so_far().failed > 20).await;
    let report = load.stop().await;
    assert_eq!(report.sent, report.ok + report.failed);
    assert!(report.failures[0].what.contains("onnect"), "{report}");
}

#[tokio::test]
async fn haproxys_own_answers_are_failures() {
    let home = Arc::new(Home::new().unwrap());
    let ports = Ports::claim().unwrap();
    let haproxy = HaProxy::launch(&home, layout(&home, &ports, false)).await.unwrap();
    let load = load(haproxy.layout().traffic_port, 0);

    until("requests that fail", || load.so_far().failed > 20).await;

    let report = load.stop().await;
    assert!(report.failures.iter().all(|failure| failure.what == "status 503"), "{report}");
}

#[tokio::test]
async fn servers_are_seen_and_a_killed_one_costs_no_request() {
    let home = Arc::new(Home::new().unwrap());
    let ports = Ports::claim().unwrap();
    let haproxy = HaProxy::launch(&home, layout(&home, &ports, false)).await.unwrap();
    let mut apps = Vec::new();
    for name in ["a", "b"] {
        let app = App::launch(&home, name, ports.free().unwrap()).await.unwrap();
        add(&haproxy, &app, name).await;
        apps.push(app);
    }
    let seen = haproxy.seen().await.unwrap();
    assert_eq!(seen.up("web"), ["a", "b"], "{seen}");
    assert_eq!(seen.server("web", "a").unwrap().port(), apps[0].port());
    let load = load(haproxy.layout().traffic_port, 0);
    until("both serve", || load.served("a") > 20 && load.served("b") > 20).await;

    apps[0].daemon().process().unwrap().kill().await.unwrap();

    let before = load.served("b");
    until("the other serves alone", || load.served("b") > before + 200).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

#[tokio::test]
async fn sticky_clients_are_told_apart_and_their_moves_are_seen() {
    let home = Arc::new(Home::new().unwrap());
    let ports = Ports::claim().unwrap();
    let haproxy = HaProxy::launch(&home, layout(&home, &ports, true)).await.unwrap();
    let mut apps = Vec::new();
    for name in ["a", "b"] {
        let app = App::launch(&home, name, ports.free().unwrap()).await.unwrap();
        add(&haproxy, &app, name).await;
        apps.push(app);
    }
    let load = load(haproxy.layout().traffic_port, 10);
    until("both serve", || load.served("a") > 50 && load.served("b") > 50).await;
    assert_eq!(load.so_far().moves, []);

    haproxy.ask("set server web/a state maint").await.unwrap();

    until("moves", || !load.so_far().moves.is_empty()).await;
    let report = load.stop().await;
    assert!(report.moves.iter().all(|moved| moved.to == "b"), "{:?}", report.moves);
    assert_eq!(report.failed, 0, "{report}");
}

#[tokio::test]
async fn an_etcd_can_be_restarted_paused_and_wiped() {
    let home = Arc::new(Home::new().unwrap());
    let etcd = Etcd::launch(&home, &Ports::claim().unwrap()).await.unwrap();
    let kept = etcd.register("/a/kept".into(), "1").await.unwrap();
    etcd.register("/a/revoked".into(), "2").await.unwrap().revoke().await;
    etcd.register("/a/deleted".into(), "3").await.unwrap().delete().await;
    kept.put("4").await;

    etcd.restart().await;
    assert_eq!(etcd.get("/a/kept").await.unwrap().as_deref(), Some("4"));
    etcd.pause();
    assert!(etcd.get("/a/kept").await.is_err());
    etcd.resume();
    assert_eq!(etcd.keys("/a/").await.unwrap(), ["/a/kept"]);
    etcd.wipe().await;
    assert_eq!(etcd.keys("/").await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn haproxy_can_be_restarted() {
    let home = Arc::new(Home::new().unwrap());
    let ports = Ports::claim().unwrap();
    let haproxy = HaProxy::launch(&home, layout(&home, &ports, false)).await.unwrap();
    let before = haproxy.seen().await.unwrap().pid;
    haproxy.restart().await;
    let between = haproxy.seen().await.unwrap().pid;
    haproxy.kill().await;
    assert!(haproxy.seen().await.is_err());
    haproxy.start().await;
    let after = haproxy.seen().await.unwrap().pid;
    assert!(before != between && between != after);
}
