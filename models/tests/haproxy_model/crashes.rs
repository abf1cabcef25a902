//! Sequences that make HAProxy crash, and their harmless neighbours: the model says which is which.
//!
//! Each sequence is gone through by eight servers, three times over, since a corrupt tree kills HAProxy only with a later
//! request that walks it.

use std::time::Duration;

use haproxy::{Command, Dialogue};
use models::haproxy::{BackendSetup, Haproxy, NoAnswer, NoStream, Request, WorkerId};
use registry::time::Clock;

use super::apps::Apps;
use super::client;
use super::pair::{MAPS, SECTIONS, version_of};
use super::real::Real;
use super::script::BACKENDS;

const ROUNDS: usize = 3;
const SERVERS: usize = 8;
/// Longest that a doomed HAProxy may live on under requests.
const LIVES_MAX: Duration = Duration::from_secs(3);

/// Both, for as long as they live.
struct Two {
    real: Real,
    dialogue: Option<Dialogue>,
    model: Haproxy,
    worker: WorkerId,
    apps: Apps,
    /// Why the model crashed.
    why: Option<String>,
}

impl Two {
    async fn start() -> Self {
        let real = Real::start(SECTIONS, &MAPS).await;
        let mut dialogue = real.dialogue().await;
        let info = dialogue.ask(&[Command::ShowInfo]).await.unwrap();
        let backends = BACKENDS.map(BackendSetup::named).to_vec();
        let mut model = Haproxy::new(version_of(&info[0]), backends, Clock.now());
        let worker = model.connect().unwrap();
        let apps = Apps::start().await;
        let mut two = Self { real, dialogue: Some(dialogue), model, worker, apps, why: None };
        two.tell(&format!("add server web/base {} id 9999 weight 100", two.apps.addr(0))).await;
        two.tell("set server web/base state ready").await;
        two
    }

    async fn tell(&mut self, line: &str) {
        if let Some(dialogue) = &mut self.dialogue
            && dialogue.ask_lines(&[line.to_owned()]).await.is_err()
        {
            self.dialogue = None;
        }
        if self.why.is_none()
            && let Err(NoAnswer::Crashed(crashed)) = self.model.ask(Clock.now(), self.worker, line)
        {
            self.why = Some(crashed.why);
        }
    }

    async fn request(&mut self, cookie: Option<&str>) {
        client::request(&self.real.front(), "GET", "/", cookie).await;
        if self.why.is_some() {
            return;
        }
        let request = Request { backend: "web", cookie, choice: 7 };
        match self.model.open_stream(Clock.now(), self.worker, request, |_| true) {
            Ok(stream) => self.model.close_stream(Clock.now(), stream.id, false),
            Err(NoStream::Crashed(crashed)) => self.why = Some(crashed.why),
            Err(other) => panic!("{other:?}"),
        }
    }

    /// One server goes through `steps`. `P` stands for requests that stick to it.
    async fn go_through(&mut self, number: usize, steps: &[&str]) {
        let name = format!("s{number}");
        for step in steps {
            if *step == "P" {
                self.request(Some(&name)).await;
                self.request(Some(&name)).await;
            } else if let Some(options) = step.strip_prefix("add ") {
                let (addr, id) = (self.apps.addr(1), 10_000 + number);
                self.tell(&format!("add server web/{name} {addr} id {id} {options}")).await;
            } else if *step == "del" {
                self.tell(&format!("del server web/{name}")).await;
            } else {
                self.tell(&format!("set server web/{name} {step}")).await;
            }
        }
    }

    /// Whether the real one has ended, after some more requests.
    async fn has_ended(&mut self) -> bool {
        let deadline = Clock.now().plus(LIVES_MAX);
        for _ in 0..30 {
            self.request(None).await;
        }
        while self.why.is_some() && Clock.now() < deadline && !self.real.has_ended() {
            client::request(&self.real.front(), "GET", "/", None).await;
        }
        self.real.has_ended()
    }
}

async fn compare(steps: &[&str], crashes: bool) {
    let mut two = Two::start().await;
    for _ in 0..ROUNDS {
        for number in 0..SERVERS {
            two.go_through(number, steps).await;
        }
        for number in 0..SERVERS {
            two.go_through(number, &["state maint", "del"]).await;
        }
        two.request(None).await;
    }
    let has_ended = two.has_ended().await;
    assert_eq!((has_ended, two.why.is_some()), (crashes, crashes), "{steps:?}: {:?}", two.why);
}

#[tokio::test]
async fn servers_that_were_usable_do_no_harm() {
    for steps in [
        &["add weight 100", "state ready", "P"][..],
        &["add weight 100", "state ready", "state drain", "P"],
        &["add weight 100", "state ready", "state maint", "state drain", "P"],
        &["add weight 1", "state ready", "weight 0", "P"],
        &["add weight 100", "state ready", "state drain", "P", "weight 50", "P"],
        &["add weight 0", "state ready", "weight 10", "state drain", "P"],
        &["add weight 100", "state drain", "state ready", "P"],
        &["add weight 100", "state drain"],
    ] {
        compare(steps, false).await;
    }
}

#[tokio::test]
async fn weight_0_from_the_start_crashes() {
    compare(&["add weight 0", "state ready", "P"], true).await;
    compare(&["add weight 0", "state ready", "P", "weight 10", "P"], true).await;
}

#[tokio::test]
async fn weight_0_before_ready_crashes() {
    compare(&["add weight 100", "weight 0", "state ready", "P"], true).await;
}

#[tokio::test]
async fn drain_before_ready_crashes() {
    compare(&["add weight 100", "state drain", "P"], true).await;
    compare(&["add weight 100", "state drain", "P", "state ready", "P"], true).await;
}

#[tokio::test]
async fn a_phantom_is_balanced_to_although_it_drains() {
    let mut two = Two::start().await;
    two.go_through(0, &["add weight 100", "state drain", "P"]).await;
    let mut reached = std::collections::BTreeSet::new();
    for _ in 0..40 {
        reached.insert(client::request(&two.real.front(), "GET", "/", None).await.server);
    }
    assert!(reached.contains(&Some("s0".into())), "{reached:?}");
    let phantom = two.model.servers(two.worker).find(|server| server.name == "s0").unwrap();
    assert!(phantom.selectable && phantom.endangers_haproxy());
}
