//! What happens to a stack, and what its clients may notice of it.

use std::time::Duration;

use crate::scene::{Part, SERVICE, Scene, TTL_S, load, name_of, start, until, until_served, until_serving};

pub(crate) async fn instances_join_and_leave_without_a_failed_request(scene: &impl Scene) {
    start(scene, 2).await;
    let load = load(scene);
    scene.join(3).await;
    until_serving(scene, 1..=3).await;
    until_served(&load, 3, 20).await;

    scene.leave(1).await;

    until_serving(scene, 2..=3).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

pub(crate) async fn a_service_grows_to_twenty_and_shrinks_to_three(scene: &impl Scene) {
    start(scene, 3).await;
    let pid = scene.look().await.unwrap().pid;
    let load = load(scene);
    for number in 4..=20 {
        scene.join(number).await;
    }
    until_serving(scene, 1..=20).await;
    until_served(&load, 20, 5).await;
    for number in 4..=20 {
        scene.leave(number).await;
    }
    until_serving(scene, 1..=3).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
    assert_eq!(scene.look().await.unwrap().pid, pid, "HAProxy is the process that it was");
}

pub(crate) async fn an_instance_that_is_killed_is_replaced_under_its_name(scene: &impl Scene) {
    start(scene, 3).await;
    let load = load(scene);
    until_served(&load, 3, 20).await;

    scene.kill(3).await;
    until_serving(scene, 1..=2).await;
    scene.join(3).await;
    until_serving(scene, 1..=3).await;
    // Again, and this time its successor is there before the old lease has ended.
    scene.kill(3).await;
    scene.join(3).await;
    until_served(&load, 3, 20).await;

    let report = load.stop().await;
    assert_eq!(report.failed, 0, "asking twice is asking once: {report}");
}

pub(crate) async fn every_instance_is_replaced_one_after_the_other(scene: &impl Scene) {
    start(scene, 3).await;
    let load = load(scene);
    for number in 1..=3 {
        until_served(&load, number, 10).await;
        scene.leave(number).await;
        scene.join(number).await;
        until_serving(scene, 1..=3).await;
    }
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

/// It keeps its connections and answers none: only its clients have to wait.
pub(crate) async fn an_instance_that_hangs_is_passed_over_and_returns(scene: &impl Scene) {
    start(scene, 3).await;
    let load = load(scene);
    until_served(&load, 3, 20).await;
    scene.pause(Part::Instance(3)).await;
    until(scene, "the hanging one out of rotation", |seen| !seen.up(SERVICE).contains(&name_of(3).as_str()))
        .await;
    until_served(&load, 1, 100).await;
    scene.resume(Part::Instance(3)).await;
    until_serving(scene, 1..=3).await;
    until_served(&load, 3, 20).await;
    let report = load.stop().await;
    // At most those that were sent to it before HAProxy's check had noticed: a third of 100 a second.
    println!("an instance hung: {} of {} requests failed", report.failed, report.sent);
    assert!(report.failed <= 300, "{report}");
}

pub(crate) async fn an_etcd_that_hangs_is_no_news(scene: &impl Scene) {
    start(scene, 3).await;
    let load = load(scene);
    scene.pause(Part::Etcd).await;
    // Longer than any lease.
    tokio::time::sleep(Duration::from_secs(u64::from(2 * TTL_S))).await;
    let seen = scene.look().await.unwrap();
    assert_eq!(seen.up(SERVICE).len(), 3, "nothing is drained on old news: {seen}");
    scene.resume(Part::Etcd).await;
    scene.join(4).await;
    until_serving(scene, 1..=4).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

pub(crate) async fn an_lb_sync_that_hangs_catches_up(scene: &impl Scene) {
    start(scene, 2).await;
    let load = load(scene);
    scene.pause(Part::LbSync).await;
    scene.join(3).await;
    until_served(&load, 1, 50).await;
    scene.resume(Part::LbSync).await;
    until_serving(scene, 1..=3).await;
    scene.leave(1).await;
    until_serving(scene, 2..=3).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}
