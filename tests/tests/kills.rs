//! `kill -9` of HAProxy and of lb-sync at random moments, in a loop, while instances come and go; and much of a service
//! expiring at once. `LEASEHOLD_KILLS=200` makes the loop as long (12 unless told), `LEASEHOLD_SEED` the same again;
//! `LEASEHOLD_ETCD_AWAY_S=600` keeps etcd away for as long (4 s).

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::collections::BTreeSet;
use std::time::Duration;

use testkit::app::App;
use testkit::{Clock, PerSecond as _, Stack, Tick};

/// Instances that are there all the time.
const STEADY: [&str; 3] = ["web-1", "web-2", "web-3"];
/// Instances that come and go.
const FICKLE: usize = 3;
/// Longest pause before a kill: a start with its resync takes some 100 ms.
const PAUSE_MS_MAX: u64 = 150;
/// Kills for each of which failures are sorted out together: a report keeps 10,000 of them.
const KILLS_A_REPORT: u64 = 20;

#[expect(clippy::disallowed_methods, reason = "a test has no command line of its own")]
fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// An operator's changes to the registry: each call is one, and waits for nothing.
struct Comings<'s> {
    stack: &'s Stack,
    apps: Vec<App>,
    lease: i64,
    present: BTreeSet<usize>,
}

impl<'s> Comings<'s> {
    async fn new(stack: &'s Stack) -> Self {
        let mut apps = Vec::new();
        for n in 0..FICKLE {
            apps.push(stack.app(&format!("fickle-{n}")).await);
        }
        let lease = stack.etcd().grant().await.unwrap();
        Self { stack, apps, lease, present: BTreeSet::new() }
    }

    async fn change(&mut self, n: usize) {
        let key = format!("/leasehold/v1/instances/web/fickle-{n}");
        if self.present.remove(&n) {
            // Its app goes on: a client that is sent there is served, and its lease lives, so that it is gone on purpose.
            self.stack.etcd().delete(&key).await.unwrap();
        } else {
            let record = self.apps[n].record().to_string();
            self.stack.etcd().put(&key, record, self.lease).await.unwrap();
            self.present.insert(n);
        }
    }

    fn expected(&self) -> Vec<String> {
        let fickle = self.present.iter().map(|n| format!("fickle-{n}"));
        fickle.chain(STEADY.map(str::to_owned)).collect()
    }
}

#[tokio::test]
async fn kills_at_random_moments_cost_no_request_that_a_server_could_have_served() {
    println!("{}", kill_at_random(Stack::native().await, false).await);
}

/// HAProxy serves from its first request: no client waits for lb-sync.
#[tokio::test]
async fn kills_of_a_haproxy_on_files_cost_nothing_but_while_it_is_dead() {
    println!("{}", kill_at_random(Stack::native().with_files().await, true).await);
}

/// Returns what came of it.
async fn kill_at_random(stack: Stack, on_files: bool) -> String {
    let (kills, seed) = (number("LEASEHOLD_KILLS", 12), number("LEASEHOLD_SEED", fastrand::u64(..)));
    let mut random = fastrand::Rng::with_seed(seed);
    stack.service("web").instances(3).serving().await;
    if on_files {
        let section = stack.home().join("sections/50-web.cfg");
        let text = || std::fs::read_to_string(&section).unwrap_or_default();
        let whole = || STEADY.iter().all(|name| text().contains(&format!("server {name} ")));
        stack.until(|_| whole()).await;
    }
    let mut comings = Comings::new(&stack).await;
    let (mut sent, mut unserved, mut of_haproxy) = (0, 0, 0);
    for round in 0..kills.div_ceil(KILLS_A_REPORT) {
        let mut gaps: Vec<(Tick, Tick)> = Vec::new();
        let load = stack.load(300.per_second());
        stack.until_served(&load, &STEADY, 10).await;
        for _ in 0..KILLS_A_REPORT.min(kills - round * KILLS_A_REPORT) {
            comings.change(random.usize(..FICKLE)).await;
            // The moment is what is tested.
            tokio::time::sleep(Duration::from_millis(random.u64(..PAUSE_MS_MAX))).await;
            if random.bool() {
                of_haproxy += 1;
                let died = Clock.now();
                stack.haproxy().kill().await;
                comings.change(random.usize(..FICKLE)).await;
                stack.haproxy().start().await;
                if !on_files {
                    // It starts with no servers: no request is served before they are back.
                    stack.until(|s| STEADY.iter().all(|name| s.up("web").contains(name))).await;
                }
                gaps.push((died, Clock.now()));
            } else {
                stack.lb_sync().kill().await;
                comings.change(random.usize(..FICKLE)).await;
                stack.lb_sync().start_blind();
            }
        }
        let expected = comings.expected();
        stack.until(|s| s.up("web") == expected && s.servers("web") == expected).await;
        stack.until_served(&load, &STEADY, 10).await;
        let report = load.stop().await;
        let outside = |it: &&testkit::load::Failure| {
            !gaps.iter().any(|(died, restored)| it.at >= *died && it.due <= *restored)
        };
        let failures: Vec<_> = report.failures.iter().filter(outside).collect();
        assert!(failures.is_empty(), "seed {seed}: {report} {failures:?}");
        (sent, unserved) = (sent + report.sent, unserved + report.failed);
    }
    format!(
        "LEASEHOLD_SEED={seed}: {kills} kills, {of_haproxy} of HAProxy: {sent} requests, {unserved} failed while HAProxy was \
         away or empty, 0 others"
    )
}

#[tokio::test]
async fn while_etcd_is_away_everything_serves_and_what_changed_is_made_up_for() {
    let away = Duration::from_secs(number("LEASEHOLD_ETCD_AWAY_S", 4));
    let stack = Stack::native().await;
    let web = stack.service("web").instances(3).serving().await;
    let load = stack.load(100.per_second());
    let before = stack.seen().await.membership("web");

    let deed = async {
        stack.etcd().kill().await;
        // The time without etcd is what is tested: longer than every ttl.
        tokio::time::sleep(away).await;
        stack.until_served(&load, &STEADY, 10).await;
        stack.etcd().start().await;
        for n in 1..=3 {
            stack.until_key(&web.instance(n).now().key(), true).await;
        }
        stack.until_served(&load, &STEADY, 30).await;
    };
    stack.during(deed, |s| s.membership("web") == before).await;

    web.instances(4).serving().await;
    web.instance(1).terminate().await;
    stack.until(|s| s.servers("web") == ["web-2", "web-3", "web-4"]).await;
    let report = load.stop().await;
    println!("etcd was away for {away:?}: {} requests, {} failed", report.sent, report.failed);
    assert_eq!(report.failed, 0, "{report}");
}

#[tokio::test]
async fn six_of_ten_leases_that_end_at_once_cost_nothing_while_the_apps_answer() {
    let stack = Stack::native().await;
    let mut apps = Vec::new();
    for n in 0..10 {
        apps.push(stack.app(&format!("web-{n}")).await);
    }
    let leases = [stack.etcd().grant().await.unwrap(), stack.etcd().grant().await.unwrap()];
    let register = async |n: usize, lease: i64| {
        let key = format!("/leasehold/v1/instances/web/web-{n}");
        stack.etcd().put(&key, apps[n].record().to_string(), lease).await.unwrap();
    };
    for n in 0..10 {
        register(n, leases[usize::from(n < 4)]).await;
    }
    let names: Vec<String> = (0..10).map(|n| format!("web-{n}")).collect();
    stack.until(|s| s.up("web") == names).await;
    let load = stack.load(300.per_second());
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let before = stack.seen().await.membership("web");

    let deed = async {
        stack.etcd().call("revoke", async |mut etcd| etcd.lease_revoke(leases[0]).await).await.unwrap();
        stack.until_served(&load, &all, 30).await;
        for n in 4..10 {
            register(n, leases[1]).await;
        }
        stack.until_served(&load, &all, 10).await;
    };
    stack.during(deed, |s| s.membership("web") == before).await;

    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}
