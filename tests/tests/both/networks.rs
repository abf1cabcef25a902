//! What only containers can be put through: cut networks, members of etcd lost, a balancer killed.

use std::time::Duration;

use crate::containers::{Containers, Link, Plan};
use crate::scene::{SERVICE, Scene, TTL_S, load, name_of, start, until, until_served, until_serving};

const ONE: Plan = Plan { etcds: 1, balancers: 1 };

/// Longer than any lease.
async fn past_every_ttl() {
    tokio::time::sleep(Duration::from_secs(u64::from(2 * TTL_S))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_cut_off_from_etcd_costs_no_request_and_returns_by_itself() {
    let Some(scene) = Containers::start(ONE).await else { return };
    start(&scene, 3).await;
    let load = load(&scene);
    scene.cut(Link::InstanceToEtcd(3), true).await;
    // Its lease ends; whether it is believed to be gone is the guard's to say.
    past_every_ttl().await;
    scene.cut(Link::InstanceToEtcd(3), false).await;
    until_serving(&scene, 1..=3).await;
    until_served(&load, 3, 20).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balancer_cut_off_from_etcd_serves_on_and_catches_up() {
    let Some(scene) = Containers::start(ONE).await else { return };
    start(&scene, 3).await;
    let load = load(&scene);
    scene.cut(Link::BalancerToEtcd, true).await;
    scene.join(4).await;
    past_every_ttl().await;
    let seen = scene.look().await.unwrap();
    assert_eq!(seen.up(SERVICE).len(), 3, "nothing is drained on old news: {seen}");
    scene.cut(Link::BalancerToEtcd, false).await;
    until_serving(&scene, 1..=4).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

/// Packets to it vanish: a connection takes as long as HAProxy's `timeout connect`.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_cut_off_from_the_balancer_is_passed_over_and_returns() {
    let Some(scene) = Containers::start(ONE).await else { return };
    start(&scene, 3).await;
    let load = load(&scene);
    until_served(&load, 3, 20).await;
    scene.cut(Link::BalancerToInstance(3), true).await;
    until(&scene, "it is out of rotation", |seen| !seen.up(SERVICE).contains(&name_of(3).as_str())).await;
    scene.cut(Link::BalancerToInstance(3), false).await;
    until(&scene, "it is back", |seen| seen.up(SERVICE).len() == 3).await;
    let report = load.stop().await;
    println!(
        "an instance was cut off from the balancer: {} of {} requests failed",
        report.failed, report.sent
    );
    // At most those that were on their way to it: two of HAProxy's checks, at a third of 100 a second.
    assert!(report.failed <= 300, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_member_of_three_may_be_lost_and_with_two_everything_serves_on() {
    let Some(scene) = Containers::start(Plan { etcds: 3, balancers: 1 }).await else { return };
    start(&scene, 3).await;
    let load = load(&scene);
    // The leader is among them.
    for member in 0..3 {
        scene.etcd_member_hangs(member, true).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        scene.etcd_member_hangs(member, false).await;
    }
    scene.etcd_member(0, false).await;
    scene.join(4).await;
    until_serving(&scene, 1..=4).await;

    scene.etcd_member(1, false).await;
    past_every_ttl().await;
    let seen = scene.look().await.unwrap();
    assert_eq!(seen.up(SERVICE).len(), 4, "nothing is drained without a quorum: {seen}");
    scene.join(5).await;
    scene.etcd_member(1, true).await;
    scene.etcd_member(0, true).await;
    until_serving(&scene, 1..=5).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_balancer_has_its_own_view_and_does_not_hold_up_a_leave_when_it_dies() {
    let Some(scene) = Containers::start(Plan { etcds: 1, balancers: 2 }).await else { return };
    start(&scene, 3).await;
    let (first, second) = (scene.look_at(0).await.unwrap(), scene.look_at(1).await.unwrap());
    assert_eq!((first.up(SERVICE).len(), second.up(SERVICE).len()), (3, 3));
    let load = load(&scene);
    let ((), took) = tokio::join!(
        async {
            // While the leave is under way.
            scene.kill_balancer(1);
        },
        scene.leave(3),
    );
    println!("a leave took {took:?} while a balancer died");
    until_serving(&scene, 1..=2).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}
