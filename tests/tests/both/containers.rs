//! The scene as containers: an etcd of one or three members, one or two balancers, and any number of webapps, on two
//! networks: `control`, which leads to etcd, and `traffic`, which leads to the apps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use testcontainers::core::ExecCommand;
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, GenericImage, ImageExt as _};
use testkit::haproxy::{Seen, seen_over_tcp};
use testkit::{Clock, wait};
use tokio::sync::Mutex;

use crate::scene::{Part, SERVICE, Scene, TTL_S, name_of};

/// The images' tag, unless `LEASEHOLD_TEST_TAG` names another: `compose/build test` makes them, and `scripts/run-tests` has it
/// do so.
const TAG: &str = "test";
/// Where the lab has HAProxy's admin socket.
const ADMIN_PORT: u16 = 9999;
/// Longest that an instance may take to leave, and a daemon to answer.
const END_MAX_S: i32 = 60;
const READY_MAX: Duration = Duration::from_mins(1);

type Container = ContainerAsync<GenericImage>;

/// What to start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) etcds: usize,
    pub(crate) balancers: usize,
}

/// A link that can be cut.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Link {
    /// Between an instance and etcd.
    InstanceToEtcd(usize),
    /// Between the first balancer and etcd.
    BalancerToEtcd,
    /// Between the first balancer, as well as any other, and an instance.
    BalancerToInstance(usize),
}

/// A stack of containers. Dropped, containers and networks are removed: the webapps first, etcd, which the network `control`
/// was made with, last.
pub(crate) struct Containers {
    webapps: Mutex<BTreeMap<usize, Container>>,
    balancers: Vec<Container>,
    etcds: Vec<Container>,
    run: String,
    /// Of the network `traffic`.
    subnet: String,
    endpoints: String,
    traffic: IpAddr,
}

impl Containers {
    /// `None` where there is no Docker and it is not asked for: said loudly.
    pub(crate) async fn start(plan: Plan) -> Option<Self> {
        if let Err(error) = docker(&["image", "inspect", &format!("leasehold/haproxy:{}", tag())]) {
            let required = std::env::var_os("LEASEHOLD_REQUIRE_DOCKER").is_some_and(|value| value == "1");
            assert!(
                !required,
                "LEASEHOLD_REQUIRE_DOCKER is set, and there are no containers to test: {error:#}"
            );
            println!(
                "NOT TESTED: there is no Docker with our images here ({error:#}); compose/build test makes them"
            );
            return None;
        }
        Some(Self::launch(plan).await.unwrap())
    }

    async fn launch(plan: Plan) -> Result<Self> {
        let run = format!("leasehold-test-{}-{:x}", std::process::id(), fastrand::u32(..));
        let (mut etcds, tag) = (vec![], tag());
        let members: Vec<String> = (1..=plan.etcds).map(|n| format!("{run}-etcd-{n}")).collect();
        let peers: Vec<String> = members.iter().map(|name| format!("{name}=http://{name}:2380")).collect();
        for name in &members {
            let etcd = GenericImage::new("leasehold/etcd", &tag)
                .with_network(network(&run, "control"))
                .with_container_name(name)
                .with_env_var("ETCD_NAME", name)
                .with_env_var("ETCD_ADVERTISE_CLIENT_URLS", format!("http://{name}:2379"))
                .with_env_var("ETCD_INITIAL_ADVERTISE_PEER_URLS", format!("http://{name}:2380"))
                .with_env_var("ETCD_INITIAL_CLUSTER", peers.join(","));
            etcds.push(etcd.start().await?);
        }
        let endpoints: Vec<String> = members.iter().map(|name| format!("http://{name}:2379")).collect();
        let endpoints = endpoints.join(",");
        let mut balancers = vec![];
        for n in 1..=plan.balancers {
            let balancer = GenericImage::new("leasehold/haproxy", &tag)
                .with_network(network(&run, "traffic"))
                .with_container_name(format!("{run}-ha-{n}"))
                .with_hostname(format!("ha-{n}"))
                .with_env_var("LEASEHOLD_ETCD_ENDPOINTS", &endpoints)
                .start()
                .await?;
            docker(&["network", "connect", &network(&run, "control"), balancer.id()])?;
            balancers.push(balancer);
        }
        let subnet = "{{range .IPAM.Config}}{{.Subnet}}{{end}}";
        let subnet = docker(&["network", "inspect", "-f", subnet, &network(&run, "traffic")])?;
        let first = balancers.first().context("a scene has a balancer")?;
        let traffic = address(first.id(), &network(&run, "traffic"))?;
        let webapps = Mutex::default();
        let scene = Self { webapps, balancers, etcds, run, subnet, endpoints, traffic };
        scene.ready().await?;
        Ok(scene)
    }

    /// Waits until every balancer is in sync with etcd.
    async fn ready(&self) -> Result<()> {
        for balancer in &self.balancers {
            let probe = async || {
                let probed = docker(&["exec", balancer.id(), "lb-sync", "probe"]);
                Ok(probed.is_ok().then_some(()))
            };
            wait::until(READY_MAX, "a balancer in sync", probe).await?;
        }
        Ok(())
    }

    /// Cuts a link, or mends it.
    pub(crate) async fn cut(&self, link: Link, is_cut: bool) {
        let verb = if is_cut { "disconnect" } else { "connect" };
        let (kind, id) = match link {
            Link::InstanceToEtcd(number) => ("control", self.id_of(number).await),
            Link::BalancerToInstance(number) => ("traffic", self.id_of(number).await),
            Link::BalancerToEtcd => ("control", self.balancers[0].id().to_owned()),
        };
        // Mended, it gets the address that was its own: the lowest that is free.
        docker(&["network", verb, &network(&self.run, kind), &id]).unwrap();
    }

    /// Stops a member of etcd, or starts it again.
    pub(crate) async fn etcd_member(&self, n: usize, runs: bool) {
        let etcd = &self.etcds[n];
        if runs { etcd.start().await.unwrap() } else { etcd.stop_with_timeout(Some(5)).await.unwrap() }
    }

    /// Stops a member of etcd in mid-air, or lets it go on.
    pub(crate) async fn etcd_member_hangs(&self, n: usize, hangs: bool) {
        let etcd = &self.etcds[n];
        if hangs { etcd.pause().await.unwrap() } else { etcd.unpause().await.unwrap() }
    }

    /// What the balancer of this number says.
    pub(crate) async fn look_at(&self, n: usize) -> Result<Seen> {
        let ip = address(self.balancers[n].id(), &network(&self.run, "traffic"))?;
        seen_over_tcp(SocketAddr::new(ip, ADMIN_PORT)).await
    }

    /// Kills the balancer of this number.
    pub(crate) fn kill_balancer(&self, n: usize) {
        docker(&["kill", self.balancers[n].id()]).unwrap();
    }

    async fn id_of(&self, number: usize) -> String {
        self.webapps.lock().await[&number].id().to_owned()
    }

    /// Has the first balancer's shell run `script`.
    async fn in_balancer(&self, script: &str) {
        let command = ExecCommand::new(["sh", "-c", script]);
        let mut done = self.balancers[0].exec(command).await.unwrap();
        let errors = done.stderr_to_vec().await.unwrap();
        assert_eq!(done.exit_code().await.unwrap(), Some(0), "{}", String::from_utf8_lossy(&errors));
    }

    async fn signal_lb_sync(&self, signal: &str) {
        let script = format!(
            "for p in /proc/[0-9]*; do if [ \"$(cat $p/comm)\" = lb-sync ]; then kill -{signal} ${{p#/proc/}}; fi; done"
        );
        self.in_balancer(&script).await;
    }
}

impl Scene for Containers {
    fn traffic(&self) -> SocketAddr {
        SocketAddr::new(self.traffic, 80)
    }

    async fn look(&self) -> Result<Seen> {
        seen_over_tcp(SocketAddr::new(self.traffic, ADMIN_PORT)).await
    }

    async fn registered(&self) -> Result<BTreeSet<String>> {
        let listed =
            docker(&["exec", self.balancers[0].id(), "registrar", "list", SERVICE, "--output", "json"])?;
        let listed: Vec<serde_json::Value> = serde_json::from_str(&listed)?;
        let name = |one: &serde_json::Value| Some(one["instance"].as_str()?.to_owned());
        Ok(listed.iter().filter_map(name).collect())
    }

    async fn join(&self, number: usize) {
        let name = name_of(number);
        let webapp = GenericImage::new("leasehold/webapp", &tag())
            .with_network(network(&self.run, "traffic"))
            .with_env_var("LEASEHOLD_INSTANCE", &name)
            .with_env_var("TAG", &name)
            .with_env_var("LEASEHOLD_TTL", format!("{TTL_S}s"))
            .with_env_var("LEASEHOLD_ADDRESS", &self.subnet)
            .with_env_var("LEASEHOLD_ETCD_ENDPOINTS", &self.endpoints)
            .start()
            .await
            .unwrap();
        docker(&["network", "connect", &network(&self.run, "control"), webapp.id()]).unwrap();
        self.webapps.lock().await.insert(number, webapp);
    }

    async fn leave(&self, number: usize) -> Duration {
        let webapp = self.webapps.lock().await.remove(&number).unwrap();
        let start = Clock.now();
        webapp.stop_with_timeout(Some(END_MAX_S)).await.unwrap();
        let took = Clock.now().since(start);
        assert_eq!(webapp.exit_code().await.unwrap(), Some(0), "it ended by itself, within its grace");
        webapp.rm().await.unwrap();
        took
    }

    async fn kill(&self, number: usize) {
        let webapp = self.webapps.lock().await.remove(&number).unwrap();
        docker(&["kill", webapp.id()]).unwrap();
        webapp.rm().await.unwrap();
    }

    async fn pause(&self, part: Part) {
        match part {
            Part::Instance(number) => self.webapps.lock().await[&number].pause().await.unwrap(),
            Part::Etcd => self.etcds[0].pause().await.unwrap(),
            Part::LbSync => self.signal_lb_sync("STOP").await,
        }
    }

    async fn resume(&self, part: Part) {
        match part {
            Part::Instance(number) => self.webapps.lock().await[&number].unpause().await.unwrap(),
            Part::Etcd => self.etcds[0].unpause().await.unwrap(),
            Part::LbSync => self.signal_lb_sync("CONT").await,
        }
    }
}

fn tag() -> String {
    std::env::var_os("LEASEHOLD_TEST_TAG")
        .and_then(|tag| tag.into_string().ok())
        .unwrap_or_else(|| TAG.into())
}

fn network(run: &str, kind: &str) -> String {
    format!("{run}-{kind}")
}

fn address(id: &str, network: &str) -> Result<IpAddr> {
    let format =
        format!("{{{{with index .NetworkSettings.Networks \"{network}\"}}}}{{{{.IPAddress}}}}{{{{end}}}}");
    let ip = docker(&["inspect", "-f", &format, id])?;
    ensure!(!ip.is_empty(), "{id} is not on {network}");
    Ok(ip.parse()?)
}

/// What testcontainers has no word for.
fn docker(words: &[&str]) -> Result<String> {
    let output = Command::new("docker").args(words).stdin(Stdio::null()).output();
    let output = output.context("cannot run docker")?;
    if !output.status.success() {
        bail!("`docker {}` failed: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
