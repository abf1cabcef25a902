//! What scenarios need of a stack, however it is made.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use testkit::haproxy::Seen;
use testkit::load::{self, Load};
use testkit::{PerSecond as _, wait};

/// The service of all scenarios; its instances are `webapp-1`, `webapp-2`, …
pub(crate) const SERVICE: &str = "webapp";
/// The ttl of its instances' leases, in seconds.
pub(crate) const TTL_S: u32 = 3;
/// Longest wait for something to be seen: a container takes seconds to start where twenty are started.
const SEEN_MAX: Duration = Duration::from_mins(2);
/// Requests a second.
const RATE: u32 = 100;

/// What can be stopped in mid-air.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// An instance: its registrar and its app.
    Instance(usize),
    /// The (only) etcd.
    Etcd,
    /// lb-sync; HAProxy goes on.
    LbSync,
}

/// A stack that runs, of which nothing is left when it is dropped.
pub(crate) trait Scene {
    /// Where HAProxy takes traffic.
    fn traffic(&self) -> SocketAddr;
    /// What HAProxy says at this moment; an error while it does not answer.
    async fn look(&self) -> anyhow::Result<Seen>;
    /// The instances that the registry has; an error while etcd does not answer.
    async fn registered(&self) -> anyhow::Result<BTreeSet<String>>;
    /// Starts the instance of this number, at an address where none was; does not wait for it to serve.
    async fn join(&self, number: usize);
    /// TERM, and waits for its end; how long that took.
    async fn leave(&self, number: usize) -> Duration;
    /// Ends it as a host does that loses its power.
    async fn kill(&self, number: usize);
    /// Stops it in mid-air.
    async fn pause(&self, part: Part);
    /// Lets it go on.
    async fn resume(&self, part: Part);
}

/// `webapp-3`
pub(crate) fn name_of(number: usize) -> String {
    format!("{SERVICE}-{number}")
}

/// Waits until HAProxy shows what `condition` wants.
pub(crate) async fn until(scene: &impl Scene, what: &str, condition: impl Fn(&Seen) -> bool) -> Seen {
    let mut last = Seen::default();
    let look = async || {
        if let Ok(seen) = scene.look().await {
            last = seen;
        }
        Ok(condition(&last).then(|| last.clone()))
    };
    match wait::until(SEEN_MAX, what, look).await {
        Ok((seen, _)) => seen,
        Err(error) => panic!("{error:#}: {last}"),
    }
}

/// Waits until exactly these instances serve, by HAProxy and by the registry. For a moment the two may differ: of an etcd that
/// was stopped in mid-air a lease may be gone that the registrar is about to replace, and its instance stays as a suspect.
pub(crate) async fn until_serving(scene: &impl Scene, numbers: impl IntoIterator<Item = usize>) {
    let names: BTreeSet<String> = numbers.into_iter().map(name_of).collect();
    let mut last = (Seen::default(), BTreeSet::new());
    let look = async || {
        if let (Ok(seen), Ok(registered)) = (scene.look().await, scene.registered().await) {
            last = (seen, registered);
        }
        let (seen, registered) = &last;
        let all: BTreeSet<String> = seen.servers(SERVICE).into_iter().map(str::to_owned).collect();
        let so = all == names && seen.up(SERVICE).len() == names.len() && *registered == names;
        Ok(so.then_some(()))
    };
    if let Err(error) = wait::until(SEEN_MAX, format!("{names:?} serving, and no other"), look).await {
        panic!("{error:#}: {}; registered are {:?}", last.0, last.1);
    }
}

/// Starts those instances and waits until they serve.
pub(crate) async fn start(scene: &impl Scene, count: usize) {
    for number in 1..=count {
        scene.join(number).await;
    }
    until_serving(scene, 1..=count).await;
}

/// A load on the service.
pub(crate) fn load(scene: &impl Scene) -> Load {
    let (target, rate) = (scene.traffic(), RATE.per_second());
    Load::start(load::Plan { target, service: SERVICE.into(), path: "/".into(), rate, sticky_clients: 0 })
        .unwrap()
}

/// Waits until that instance has served `count` requests more than now.
pub(crate) async fn until_served(load: &Load, number: usize, count: u64) {
    let name = name_of(number);
    let before = load.served(&name);
    let enough = async || Ok((load.served(&name) >= before + count).then_some(()));
    wait::until(SEEN_MAX, format!("{count} requests more served by {name}"), enough).await.unwrap();
}
