//! How long what has died still gets traffic, and what that costs the clients.

mod host;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::value_parser;
use serde_json::{Value, json};
use testkit::PerSecond as _;
use testkit::instance::{Instance, Spec};
use testkit::{Clock, Stack, Tick, wait};

use crate::machine;
use crate::process::signal;
use crate::screen::say;
use crate::table::{self, Times};

/// The service.
const SERVICE: &str = "web";
/// Who dies.
const VICTIM: &str = "victim";
/// Instances that stay, so that requests have a server to go to.
const STEADY: usize = 2;
/// Longest that anything may take.
const SEEN_MAX: Duration = Duration::from_mins(1);
/// The ttl that `registrar run` has by default, in seconds.
const TTL_S: u32 = 10;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Plan {
    /// How many apps are killed.
    #[arg(long, default_value_t = 50, value_parser = value_parser!(u32).range(1..=1_000))]
    apps: u32,
    /// How many apps are stopped in mid-air, registrars killed, and both at once: each takes seconds.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(0..=100))]
    slow: u32,
    /// Requests a second in the meantime.
    #[arg(long, default_value_t = 500, value_parser = value_parser!(u32).range(1..=5_000))]
    rate: u32,
}

/// What dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// `kill -9` to the app.
    App,
    /// SIGSTOP to the app: it takes connections and answers none.
    AppHangs,
    /// `kill -9` to the registrar; the app goes on.
    Registrar,
    /// `kill -9` to both.
    Both,
    /// Its host's cable is pulled: nothing comes from there any more, no reset either.
    Host,
}

/// Measures and prints.
pub(crate) async fn run(plan: Plan) -> Result<Value> {
    let stack = Stack::native().with_services(&[SERVICE]).start().await?;
    let about = machine::describe()?;
    say(&about);
    for n in 1..=STEADY {
        launch(&stack, &format!("steady-{n}")).await?;
    }
    say("");
    let mut deaths = Vec::new();
    for (death, rounds) in [
        (Death::App, plan.apps),
        (Death::AppHangs, plan.slow),
        (Death::Registrar, plan.slow),
        (Death::Both, plan.slow),
        (Death::Host, plan.slow),
    ] {
        if death == Death::Host && !host::possible() {
            say("host cut off → out: not measured, for it takes root and the program `ip`");
            continue;
        }
        deaths.push(measure(&stack, death, rounds, plan.rate).await?);
    }
    stack.end().await?;
    Ok(json!({ "on": machine::lines(&about), "rate": plan.rate, "deaths": deaths }))
}

async fn measure(stack: &Stack, death: Death, rounds: u32, rate: u32) -> Result<Value> {
    let load = stack.start_load(SERVICE, rate.per_second(), 0)?;
    let mut times = Times::default();
    for _ in 0..rounds {
        let took = if death == Death::Host { host::round(stack).await? } else { round(stack, death).await? };
        times.push(took);
    }
    let report = load.stop().await;
    say(table::one(death.title(), &times));
    say(format_args!("    failed: {} of {} requests", report.failed, report.sent));
    for failure in report.failures.iter().take(3) {
        say(format_args!("    {failure:?}"));
    }
    Ok(
        json!({ "what": death.title(), "out_ms": times.json(), "requests": report.sent, "failed": report.failed }),
    )
}

/// From a death until HAProxy has no server of that name in rotation.
async fn round(stack: &Stack, death: Death) -> Result<Duration> {
    let victim = launch(stack, VICTIM).await?;
    let (registrar, apps) = (victim.registrar().process()?, victim.app_pids()?);
    ensure!(!apps.is_empty(), "the victim has no app");
    registrar.let_go();
    let died = Clock.now();
    match death {
        Death::App => apps.iter().try_for_each(|pid| signal(*pid, "KILL"))?,
        Death::AppHangs => apps.iter().try_for_each(|pid| signal(*pid, "STOP"))?,
        Death::Registrar => signal(registrar.pid(), "KILL")?,
        Death::Both => {
            signal(registrar.pid(), "KILL")?;
            apps.iter().try_for_each(|pid| signal(*pid, "KILL"))?;
        }
        Death::Host => {} // Has rounds of its own.
    }
    let took = until_out(stack, died).await?;
    for pid in &apps {
        // Ended already, where it was that what died.
        let _ = signal(*pid, "KILL");
    }
    let _ = signal(registrar.pid(), "KILL");
    until_deleted(stack).await?;
    Ok(took)
}

/// Looks, without a pause, until HAProxy has the victim in rotation no more: a look is what the time is known by.
async fn until_out(stack: &Stack, died: Tick) -> Result<Duration> {
    loop {
        let seen = stack.haproxy().seen().await?;
        let took = Clock.now().since(died);
        if !seen.up(SERVICE).contains(&VICTIM) {
            return Ok(took);
        }
        ensure!(took < SEEN_MAX, "still in rotation after {took:?}");
    }
}

async fn until_deleted(stack: &Stack) -> Result<()> {
    let gone = async || {
        let seen = stack.haproxy().seen().await?;
        Ok((!seen.servers(SERVICE).contains(&VICTIM)).then_some(()))
    };
    wait::until(SEEN_MAX, "the victim's server deleted", gone).await?;
    Ok(())
}

async fn launch(stack: &Stack, name: &str) -> Result<Arc<Instance>> {
    let ports = testkit::port::Ports::claim()?;
    let instance = stack.launch(Spec {
        service: SERVICE.into(),
        name: name.into(),
        app_port: ports.free()?,
        registrar_port: ports.free()?,
        ttl_s: TTL_S,
        notes_its_stop: false,
        flags: vec![],
    })?;
    let up = async || Ok(stack.haproxy().seen().await?.up(SERVICE).contains(&name).then_some(()));
    wait::until(SEEN_MAX, format!("{name} in rotation"), up).await.context("it does not serve")?;
    Ok(instance)
}

impl Death {
    fn title(self) -> &'static str {
        match self {
            Self::App => "app killed → out",
            Self::AppHangs => "app hangs → out",
            Self::Registrar => "registrar killed → out",
            Self::Both => "both killed → out",
            Self::Host => "host cut off → out",
        }
    }
}
