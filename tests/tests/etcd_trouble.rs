//! etcd goes away, stalls or forgets: what is served stays served.

use std::time::Duration;

use nix::sys::signal::Signal;
use testkit::service::TTL_S;
use testkit::{PerSecond as _, Stack, process};

const NAMES: [&str; 3] = ["web-1", "web-2", "web-3"];

#[tokio::test]
async fn a_restart_of_etcd_touches_no_server_and_loses_no_lease() {
    let stack = Stack::native().await;
    let web = stack.service("web").instances(3).serving().await;
    let key = web.instance(1).now().key();
    let lease = stack.etcd().lease_of(&key).await.unwrap();
    let load = stack.load(300.per_second());
    let before = stack.seen().await.membership("web");

    let deed = async {
        stack.etcd().restart().await;
        stack.until_served(&load, &NAMES, 200).await;
    };
    stack.during(deed, |s| s.membership("web") == before).await;

    assert_eq!(stack.etcd().lease_of(&key).await.unwrap(), lease, "a broken stream is not a lost lease");
    web.instances(4).serving().await;
    stack.until_served(&load, &["web-4"], 50).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

#[tokio::test]
async fn an_etcd_that_stalls_for_longer_than_every_ttl_removes_none() {
    let stack = Stack::native().await;
    let web = stack.service("web").instances(3).serving().await;
    let load = stack.load(300.per_second());
    let before = stack.seen().await.membership("web");

    let deed = async {
        stack.etcd().pause();
        // The stall itself is what is tested: three times the ttl.
        tokio::time::sleep(Duration::from_secs(10)).await;
        stack.etcd().resume();
        for n in 1..=3 {
            stack.until_key(&web.instance(n).now().key(), true).await;
        }
        stack.until_served(&load, &NAMES, 100).await;
    };
    stack.during(deed, |s| s.membership("web") == before).await;

    web.instances(4).serving().await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

#[tokio::test]
async fn an_etcd_that_has_lost_its_data_gets_it_back_from_the_registrars() {
    let stack = Stack::native().await;
    let web = stack.service("web").instances(3).serving().await;
    let load = stack.load(300.per_second());
    let before = stack.seen().await.membership("web");

    let deed = async {
        stack.etcd().wipe().await;
        for n in 1..=3 {
            stack.until_key(&web.instance(n).now().key(), true).await;
        }
        stack.until_served(&load, &NAMES, 200).await;
    };
    stack.during(deed, |s| s.membership("web") == before).await;

    web.instance(1).terminate().await;
    stack.until(|s| s.servers("web") == ["web-2", "web-3"]).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

#[tokio::test]
async fn registrars_that_all_die_together_are_not_believed_while_their_apps_answer() {
    let stack = Stack::native().await;
    let web = stack.service("web").instances(3).serving().await;
    let load = stack.load(300.per_second());

    let deed = async {
        for n in 1..=3 {
            web.instance(n).kill_registrar().await;
        }
        for n in 1..=3 {
            stack.until_key(&web.instance(n).now().key(), false).await;
        }
        // The first to expire was one of three, and believed; with the others it is taken back.
        stack.until(|s| s.up("web") == NAMES).await;
        stack.until_served(&load, &NAMES, 200).await;
    };
    stack.during(deed, |s| s.up("web").len() >= 2).await;

    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

/// No bound takes the last server of a service that HAProxy's check passes; its check does. Before, the service was dark after
/// `--guard-max`.
#[tokio::test]
async fn the_only_instance_is_served_beyond_the_bound_of_suspects_while_its_app_answers() {
    let stack = Stack::native().with_lb_sync_flag("--guard-max", "1s").await;
    let web = stack.service("web").instances(1).serving().await;
    let load = stack.load(300.per_second());
    let apps = web.instance(1).now().app_pids().unwrap();

    let deed = async {
        web.instance(1).kill_registrar().await;
        stack.until_key(&web.instance(1).now().key(), false).await;
        // Four times the bound, at this rate.
        stack.until_served(&load, &["web-1"], 1_200).await;
    };
    stack.during(deed, |s| s.up("web") == ["web-1"]).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");

    for app in apps {
        process::signal(app, Signal::SIGKILL).unwrap();
    }
    stack.until(|s| s.servers("web").is_empty()).await;
}

#[tokio::test]
async fn a_registrar_that_slept_through_its_lease_registers_again_under_its_name() {
    let stack = Stack::native().await;
    let web = stack.service("web").instances(3).serving().await;
    let sleeper = web.instance(2);
    let key = sleeper.now().key();
    let load = stack.load(300.per_second());

    sleeper.pause_registrar();
    stack.until_key(&key, false).await;
    tokio::time::sleep(Duration::from_secs(2 * u64::from(TTL_S))).await;
    sleeper.resume_registrar();

    stack.until_key(&key, true).await;
    sleeper.serving().await;
    stack.until_served(&load, &NAMES, 50).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}
