//! lb-sync is cut off from etcd, both ways or one way only, while instances leave and join. HAProxy goes on, and a leave
//! waits for the balancer for as long as it lingers. Takes root, for a network namespace.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed step is a failed test, helpers included"
)]

use std::time::Duration;

use testkit::apart::{self, Lost};
use testkit::lb_sync::BALANCER;
use testkit::service::{Service, TTL_S};
use testkit::stack::SEEN_MAX;
use testkit::{Clock, PREFIX, PerSecond as _, Stack, Tick, wait};

const NAMES: [&str; 4] = ["web-1", "web-2", "web-3", "web-4"];
/// Of lb-sync's presence, so that it ends soon after the cut.
const PRESENCE_TTL: &str = "3s";
/// How long a balancer counts that was present, unless the registrar is told otherwise.
const LINGER: Duration = Duration::from_millis(1_500 * TTL_S as u64);
/// How long an answer takes of the instance that leaves, in milliseconds.
const LONG_MS: u32 = 300;

/// A stack whose lb-sync can be cut off; none where no namespace can be made.
async fn stack() -> Option<Stack> {
    if !apart::is_possible() {
        println!("NOT TESTED: a partition takes root and the program `ip` (Debian: iproute2)");
        return None;
    }
    Some(Stack::native().with_lb_sync_apart().with_lb_sync_flag("--ttl", PRESENCE_TTL).await)
}

fn presence() -> String {
    format!("{PREFIX}/balancers/{BALANCER}")
}

/// Waits until lb-sync's presence has ended. Returns a moment at which it still stood.
async fn until_presence_ends(stack: &Stack) -> Tick {
    let mut stood = Clock.now();
    let ended = async || {
        let look = Clock.now();
        let is_there = stack.etcd().get(&presence()).await?.is_some();
        if is_there {
            stood = look;
        }
        Ok((!is_there).then_some(()))
    };
    wait::until(SEEN_MAX, "the end of lb-sync's presence", ended).await.unwrap();
    stood
}

/// The cable is whole again: all that has happened is made up for, and what happens is followed.
async fn converges(stack: &Stack, web: &Service<'_>) {
    stack.until(|s| s.up("web") == ["web-1", "web-2", "web-4", "web-5"] && s.servers("web").len() == 4).await;
    stack.until_key(&presence(), true).await;
    web.instance(4).terminate().await;
    stack.until(|s| s.servers("web") == ["web-1", "web-2", "web-5"]).await;
}

/// The partition outlasts the presence and the linger: the instance leaves without the balancer's word.
async fn a_long_partition(lost: Lost) {
    let Some(stack) = stack().await else { return };
    let web = stack.service("web").instances(4).serving().await;
    web.instance(3).slow_down(LONG_MS).await;
    let load = stack.load(200.per_second());
    stack.until_served(&load, &NAMES, 20).await;

    let deed = async {
        stack.apart().cut(lost);
        web.instance(5).start_on_new_port();
        let leaving = web.instance(3);
        let left = async {
            leaving.terminate().await;
            Clock.now()
        };
        let (left, stood) = tokio::join!(left, until_presence_ends(&stack));
        assert!(left > stood.plus(LINGER), "it left {:?} after its balancer's presence", left.since(stood));
        stack.until_key(&web.instance(5).now().key(), true).await;
        stack.until_served(&load, &["web-1", "web-2", "web-4"], 50).await;
    };
    // Nothing is drained or deleted, or even added, by what is not known.
    stack.during(deed, |s| s.servers("web") == NAMES).await;
    stack.apart().mend();

    converges(&stack, &web).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

/// The partition ends within the linger, though after the presence: the instance leaves by the balancer's word.
async fn a_short_partition(lost: Lost) {
    let Some(stack) = stack().await else { return };
    // Longer than a leave may take here: one that waits for its end has failed.
    let web = stack.service("web").with_flag("--linger", "60s").instances(4).serving().await;
    web.instance(3).slow_down(LONG_MS).await;
    let load = stack.load(200.per_second());
    stack.until_served(&load, &NAMES, 20).await;

    stack.apart().cut(lost);
    let leaving = web.instance(3);
    let left = async {
        leaving.terminate().await;
        Clock.now()
    };
    let deed = async {
        web.instance(5).start_on_new_port();
        until_presence_ends(&stack).await;
        stack.until_key(&web.instance(5).now().key(), true).await;
    };
    let healed = async {
        stack.during(deed, |s| s.up("web") == NAMES).await;
        let healed = Clock.now();
        stack.apart().mend();
        healed
    };
    let (left, healed) = tokio::join!(left, healed);
    assert!(left > healed, "it left {:?} before its balancer was back", healed.since(left));

    converges(&stack, &web).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

#[tokio::test]
async fn an_instance_leaves_an_lb_sync_that_is_cut_off_after_its_linger() {
    a_long_partition(Lost::Both).await;
}

#[tokio::test]
async fn an_instance_leaves_an_lb_sync_that_etcd_does_not_reach_after_its_linger() {
    a_long_partition(Lost::ToIt).await;
}

#[tokio::test]
async fn an_instance_that_leaves_while_lb_sync_is_cut_off_waits_for_its_return() {
    a_short_partition(Lost::Both).await;
}

#[tokio::test]
async fn an_instance_that_leaves_while_etcd_does_not_reach_lb_sync_waits_for_its_return() {
    a_short_partition(Lost::ToIt).await;
}
