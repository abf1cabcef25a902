//! HAProxy lives through every order of add, ready, drain, maint, weight, delete, of checks that fail and pass, and of
//! clients that stick to servers, as lb-sync sends it: some orders crash every HAProxy (see `never_in_rotation.rs`).
//!
//! Records, overrides and apps change at random from a fixed seed. `LEASEHOLD_STRESS_S=20` makes it as long for each
//! algorithm (2 s unless told; `scripts/matrix` does), `LEASEHOLD_SEED` makes it another.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed step is a failed test, helpers included"
)]

mod app;
mod changes;

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use testkit::lb_sync::BALANCER;
use testkit::{Clock, PREFIX, Stack, http, program, wait};
use tokio::task::JoinSet;

use crate::app::App;
use crate::changes::{Changes, SERVICE};

/// Instances that change, and clients that stick to each of them.
const INSTANCES: usize = 8;
const STICKY_CLIENTS: usize = 2;
/// Clients that stick to none.
const OTHER_CLIENTS: usize = 4;
/// Between an answer and the client's next request.
const CLIENT_PAUSE: Duration = Duration::from_millis(15);
/// Between two changes, in milliseconds, at most.
const PAUSE_MS_MAX: u64 = 10;
/// Every so many changes lb-sync is killed, and started again.
const KILL_EVERY: usize = 150;
/// Longest until HAProxy has what should be: lb-sync tries again after 30 s what HAProxy has refused.
const CONVERGED_MAX: Duration = Duration::from_mins(1);
const SEED: u64 = 20;
/// An instance that is well all the time.
const STEADY: &str = "steady";

#[expect(clippy::disallowed_methods, reason = "a test has no command line of its own")]
fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_survives_all_that_may_happen_with_leastconn() {
    survives("leastconn").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_survives_all_that_may_happen_with_first() {
    survives("first").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_survives_all_that_may_happen_with_roundrobin() {
    survives("roundrobin").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_survives_all_that_may_happen_with_random() {
    survives("random").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_survives_all_that_may_happen_with_a_consistent_hash() {
    survives("hdr(cookie)\n    hash-type consistent").await;
}

/// Half of the time servers get traffic at once, half of it after HAProxy's first check of them.
async fn survives(algorithm: &'static str) {
    let half = Duration::from_secs(number("LEASEHOLD_STRESS_S", 2)) / 2;
    for first_check in ["wait", "skip"] {
        survives_with(algorithm, first_check, half).await;
    }
}

async fn survives_with(algorithm: &'static str, first_check: &str, time: Duration) {
    let stack = Stack::native()
        .with_affinity()
        .with_balance(algorithm)
        .with_lb_sync_flag("--first-check", first_check)
        .with_lb_sync_flag("--check-interval", "200ms")
        .await;
    let haproxy = stack.seen().await.pid;
    let steady = App::start(STEADY, stack.ports().free().unwrap());
    let record = serde_json::json!({ "address": "127.0.0.1", "port": steady.port() });
    let _steady = stack.put_record(SERVICE, STEADY, record.to_string()).await;
    stack.until(|s| s.up(SERVICE) == [STEADY]).await;
    let seed = number("LEASEHOLD_SEED", SEED);
    let mut changes = Changes::new(&stack, INSTANCES, seed).await;
    let clients = Clients::start(&stack, changes.names());

    let mut random = fastrand::Rng::with_seed(seed);
    let (start, mut count) = (Clock.now(), 0);
    while Clock.now().since(start) < time {
        changes.next().await;
        count += 1;
        if count % KILL_EVERY == 0 {
            stack.lb_sync().kill().await;
            stack.lb_sync().start_blind();
        }
        tokio::time::sleep(Duration::from_millis(random.u64(..PAUSE_MS_MAX))).await;
        let surprises = stack.surprises();
        assert!(
            surprises.is_empty(),
            "{algorithm}, {first_check}, seed {seed}, after {count}: {surprises:?}"
        );
    }
    let mut expected = changes.settle().await;
    expected.insert(STEADY.into(), steady.port());
    let took = stack
        .until_within(CONVERGED_MAX, |s| {
            let right = |(name, port): (&String, &u16)| {
                let server = s.server(SERVICE, name);
                server.is_some_and(|it| it.is_up() && it.port() == *port && it.weight == 100)
            };
            s.servers(SERVICE).len() == expected.len() && expected.iter().all(right)
        })
        .await;
    let answers = clients.stop().await;
    assert_eq!(stack.seen().await.pid, haproxy, "it is the same HAProxy");
    until_nothing_is_left_to_do(&stack, first_check).await;
    println!(
        "{} with --first-check {first_check}: {count} changes, converged after {took:?}; answers: {answers:?}",
        algorithm.lines().next().unwrap_or_default()
    );
}

/// lb-sync itself says that nothing is left to do: neither with a server nor with what is kept of it.
async fn until_nothing_is_left_to_do(stack: &Stack, first_check: &str) {
    let flags = [
        ("--etcd-endpoints", stack.etcd_endpoints()),
        ("--haproxy-socket", stack.haproxy().socket().display().to_string()),
        ("--listen", format!("127.0.0.1:{}", stack.lb_sync().port())),
        ("--balancer", BALANCER.into()),
        ("--prefix", PREFIX.into()),
        ("--first-check", first_check.into()),
        ("--check-interval", "200ms".into()),
    ];
    let mut plan = Command::new(program::ours("lb-sync").unwrap());
    plan.arg("plan").args(flags.into_iter().flat_map(|(flag, value)| [flag.into(), value]));
    let mut last = String::new();
    let is_done = async || {
        let said = plan.output()?;
        last = [&said.stdout[..], &said.stderr].map(String::from_utf8_lossy).concat();
        Ok(said.status.success().then_some(()))
    };
    let done = wait::until(CONVERGED_MAX, "an empty plan", is_done).await;
    assert!(done.is_ok(), "{done:?}: {last}");
}

/// Clients that ask all the time. What they are answered is counted: an app that is cut off in mid-answer fails some.
struct Clients {
    tasks: JoinSet<()>,
    answers: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Clients {
    fn start(stack: &Stack, names: Vec<String>) -> Self {
        let port = stack.haproxy().layout().traffic_port;
        let answers = Arc::<Mutex<BTreeMap<String, u64>>>::default();
        let sticky = names.into_iter().flat_map(|name| vec![name; STICKY_CLIENTS]);
        let cookies = sticky.chain((0..OTHER_CLIENTS).map(|n| format!("none-{n}")));
        let mut tasks = JoinSet::new();
        for cookie in cookies {
            let (cookie, answers) = (format!("LBI={cookie}"), Arc::clone(&answers));
            tasks.spawn(async move {
                loop {
                    let answer = http::get_with_cookie(port, &cookie).await;
                    let what = answer.map_or_else(|_| "none".into(), |status| status.to_string());
                    *answers.lock().unwrap().entry(what).or_default() += 1;
                    tokio::time::sleep(CLIENT_PAUSE).await;
                }
            });
        }
        Self { tasks, answers }
    }

    /// How many were answered by which status.
    async fn stop(mut self) -> BTreeMap<String, u64> {
        self.tasks.shutdown().await;
        self.answers.lock().unwrap().clone()
    }
}
