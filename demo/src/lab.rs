//! The lab: three apps behind HAProxy, each under a registrar.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use testkit::haproxy::Seen;
use testkit::instance::{Instance, Spec};
use testkit::process::{Daemon, outcome};
use testkit::service::TTL_S;
use testkit::stack::SEEN_MAX;
use testkit::{Stack, program};

use crate::port::must_be_free;
use crate::screen::say;

/// The service of the lab.
pub(crate) const SERVICE: &str = "web";
/// How many apps it begins with.
pub(crate) const APPS: u16 = 3;
/// How many more ports the tour takes for apps: one that joins, one that moves.
const TOUR_APPS: u16 = 2;
/// How often is looked who has ended.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Where the lab listens, all of it on 127.0.0.1. etcd takes any free port.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Ports {
    /// Where HAProxy takes traffic.
    #[arg(long = "traffic-port", value_name = "PORT", default_value_t = 8080)]
    traffic: u16,
    /// Where HAProxy shows its stats page.
    #[arg(long = "stats-port", value_name = "PORT", default_value_t = 1936)]
    stats: u16,
    /// Where lb-sync shows its health.
    #[arg(long = "lb-sync-port", value_name = "PORT", default_value_t = 7100)]
    lb_sync: u16,
    /// Where the first app listens; the others follow it.
    #[arg(long = "app-port", value_name = "PORT", default_value_t = 3001, value_parser = clap::value_parser!(u16).range(1..65_530))]
    app: u16,
    /// Where the first app's registrar listens; the others follow it.
    #[arg(long = "registrar-port", value_name = "PORT", default_value_t = 7101, value_parser = clap::value_parser!(u16).range(1..65_530))]
    registrar: u16,
}

/// The running lab.
pub(crate) struct Lab {
    pub(crate) stack: Stack,
    ports: Ports,
}

impl Ports {
    fn must_be_free(&self) -> Result<()> {
        must_be_free(self.traffic, "HAProxy's traffic", "--traffic-port")?;
        must_be_free(self.stats, "HAProxy's stats page", "--stats-port")?;
        must_be_free(self.lb_sync, "lb-sync", "--lb-sync-port")?;
        for n in 0..APPS + TOUR_APPS {
            must_be_free(self.app + n, "an app", "--app-port")?;
            must_be_free(self.registrar + n, "a registrar", "--registrar-port")?;
        }
        Ok(())
    }
}

impl Lab {
    /// Starts everything and waits until all apps serve.
    pub(crate) async fn start(ports: &Ports) -> Result<Self> {
        programs_must_be_there()?;
        ports.must_be_free()?;
        let native = Stack::native()
            .with_traffic_port(ports.traffic)
            .with_stats_port(ports.stats)
            .with_lb_sync_port(ports.lb_sync);
        let lab = Self { stack: native.start().await?, ports: ports.clone() };
        for n in 1..=APPS {
            lab.launch(n, n)?;
        }
        lab.until("all apps up in HAProxy", |seen| seen.up(SERVICE).len() == usize::from(APPS)).await?;
        Ok(lab)
    }

    /// Starts the app `web-<n>` on the `place`th port.
    pub(crate) fn launch(&self, n: u16, place: u16) -> Result<Arc<Instance>> {
        self.stack.launch(Spec {
            service: SERVICE.into(),
            name: name_of(n),
            app_port: self.app_port(place),
            registrar_port: self.ports.registrar + place - 1,
            ttl_s: TTL_S,
            notes_its_stop: false,
            flags: Vec::new(),
        })
    }

    /// The port of the `place`th app.
    pub(crate) fn app_port(&self, place: u16) -> u16 {
        self.ports.app + place - 1
    }

    /// The app `web-<n>`.
    pub(crate) fn app(&self, n: u16) -> Result<Arc<Instance>> {
        self.stack.instance(SERVICE, &name_of(n))
    }

    /// Waits until HAProxy shows what `condition` wants; how long that took.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&Seen) -> bool) -> Result<Duration> {
        self.stack.wait_until(SEEN_MAX, what, condition).await
    }

    /// Says so whenever a process has ended; never returns.
    pub(crate) async fn tell_who_ends(&self) {
        let mut told = BTreeSet::new();
        loop {
            for (name, daemon) in self.daemons() {
                let ended = daemon.process().ok().and_then(|process| Some((process.pid(), process.ended()?)));
                if let Some((pid, status)) = ended
                    && told.insert(pid)
                {
                    say(format_args!("{name} (process {pid}) has ended: {}", outcome(status)));
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Ends everything in order.
    pub(crate) async fn end(self) -> Result<()> {
        self.stack.end().await
    }

    fn daemons(&self) -> Vec<(String, Lent<'_>)> {
        let fixed = [
            ("etcd", self.stack.etcd().daemon()),
            ("HAProxy", self.stack.haproxy().daemon()),
            ("lb-sync", self.stack.lb_sync().daemon()),
        ];
        let fixed = fixed.into_iter().map(|(name, daemon)| (name.to_owned(), Lent::Fixed(daemon)));
        let apps = (1..=APPS).filter_map(|n| Some((name_of(n), Lent::App(self.app(n).ok()?))));
        fixed.chain(apps).collect()
    }
}

/// A daemon of the stack, or of one of its instances.
enum Lent<'l> {
    Fixed(&'l Daemon),
    App(Arc<Instance>),
}

impl std::ops::Deref for Lent<'_> {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        match self {
            Self::Fixed(daemon) => daemon,
            Self::App(instance) => instance.registrar(),
        }
    }
}

/// The name of the `n`th app.
pub(crate) fn name_of(n: u16) -> String {
    format!("{SERVICE}-{n}")
}

/// All that is missing is named at once, before anything is started.
fn programs_must_be_there() -> Result<()> {
    let system = ["etcd", "haproxy"].map(program::system);
    let ours = ["lb-sync", "registrar", "webapp"].map(program::ours);
    let missing: Vec<String> =
        system.into_iter().chain(ours).filter_map(|found| Some(found.err()?.to_string())).collect();
    if missing.is_empty() { Ok(()) } else { Err(anyhow::Error::msg(missing.join("\n"))) }
        .context("not everything that the demo needs is here")
}
