//! A stack: etcd, HAProxy, lb-sync, and the instances of some services.

mod native;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::panic::Location;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

pub use native::Native;

use crate::apart::Apart;
use crate::app::App;
use crate::etcd::{Etcd, Proxy, Registration};
use crate::fail::OrFail as _;
use crate::haproxy::{HaProxy, Seen};
use crate::home::Home;
use crate::instance::{Instance, LEAVE_MAX, Spec};
use crate::lb_sync::LbSync;
use crate::load::{self, Load, Rate};
use crate::port::{Ports, loopback};
use crate::process::{Daemon, END_MAX};
use crate::service::Service;
use crate::slot::Slot;
use crate::{PREFIX, wait};

/// Longest that a scenario waits for something to be seen, unless it names a bound: long beside what is promised, for
/// the machine may be busy.
pub const SEEN_MAX: Duration = Duration::from_secs(20);

/// Instances by service and name: the present life of each, and the lives before it.
type Lives = BTreeMap<(String, String), Vec<Arc<Instance>>>;

/// A stack that runs. Dropped, it leaves nothing behind.
///
/// The fields are dropped from top to bottom: the instances first, the folder last.
#[derive(Debug)]
pub struct Stack {
    instances: Mutex<Lives>,
    lb_sync: LbSync,
    haproxy: HaProxy,
    apart: Option<Apart>,
    proxy: Option<Proxy>,
    etcd: Etcd,
    ports: Ports,
    home: Arc<Home>,
    _slot: Option<Slot>,
}

impl Stack {
    /// A stack of native processes on loopback: `Stack::native().await`.
    pub fn native() -> Native {
        Native::default()
    }

    /// Its etcd.
    #[must_use]
    pub fn etcd(&self) -> &Etcd {
        &self.etcd
    }

    /// Where its programs find etcd.
    #[must_use]
    pub fn etcd_endpoints(&self) -> String {
        self.proxy.as_ref().map_or_else(|| self.etcd.endpoints(), Proxy::endpoint)
    }

    /// Its HAProxy.
    #[must_use]
    pub fn haproxy(&self) -> &HaProxy {
        &self.haproxy
    }

    /// Its lb-sync.
    #[must_use]
    pub fn lb_sync(&self) -> &LbSync {
        &self.lb_sync
    }

    /// Where its lb-sync runs, if that was asked for.
    #[must_use]
    pub fn apart(&self) -> &Apart {
        self.apart.as_ref().context("lb-sync was not started apart").or_fail()
    }

    /// Its ports.
    #[must_use]
    pub fn ports(&self) -> &Ports {
        &self.ports
    }

    /// Its folder.
    #[must_use]
    pub fn home(&self) -> &Arc<Home> {
        &self.home
    }

    /// The words for the service `name`.
    #[must_use]
    pub fn service(&self, name: &str) -> Service<'_> {
        Service::new(self, name)
    }

    /// The present life of an instance that was started here.
    pub fn instance(&self, service: &str, name: &str) -> Result<Arc<Instance>> {
        let lives = self.lives();
        let now = lives.get(&(service.into(), name.into())).and_then(|lives| lives.last());
        now.cloned().with_context(|| format!("there is no instance {service}/{name}"))
    }

    /// Starts an instance. One of the same name goes on until it is ended.
    pub fn launch(&self, spec: Spec) -> Result<Arc<Instance>> {
        let id = (spec.service.clone(), spec.name.clone());
        let instance = Arc::new(Instance::launch(&self.home, &self.etcd_endpoints(), spec)?);
        self.lives().entry(id).or_default().push(Arc::clone(&instance));
        Ok(instance)
    }

    /// Starts a load on `service`.
    pub fn start_load(&self, service: &str, rate: Rate, sticky_clients: usize) -> Result<Load> {
        Load::start(load::Plan {
            target: loopback(self.haproxy.layout().traffic_port),
            path: "/".into(),
            service: service.into(),
            rate,
            sticky_clients,
        })
    }

    /// Waits until HAProxy shows what `condition` wants, and says how long that took.
    pub async fn wait_until(
        &self,
        bound: Duration,
        what: impl Display,
        condition: impl Fn(&Seen) -> bool,
    ) -> Result<Duration> {
        let mut last = Seen::default();
        let look = async || {
            if let Some(surprise) = self.surprises().pop() {
                bail!(surprise);
            }
            // HAProxy may be between two lives.
            if let Ok(seen) = self.haproxy.seen().await {
                last = seen;
            }
            Ok(condition(&last).then_some(()))
        };
        let waited = wait::until(bound, what, look).await;
        let ((), took) = waited.with_context(|| format!("{last}"))?;
        Ok(took)
    }

    /// Everything that has ended without having been told to.
    #[must_use]
    pub fn surprises(&self) -> Vec<String> {
        let fixed = self.fixed().filter_map(Daemon::surprise);
        let lives = self.lives();
        let instances = lives.values().flatten().filter_map(|it| it.registrar().surprise());
        fixed.chain(instances).collect()
    }

    /// Ends everything in order: the instances leave, then lb-sync, HAProxy and etcd stop.
    pub async fn end(self) -> Result<()> {
        let lives: Vec<_> = self.lives().values().flatten().cloned().collect();
        let mut leaving = Vec::new();
        for instance in &lives {
            let registrar = instance.registrar().process()?;
            if registrar.ended().is_none() {
                registrar.signal(Signal::SIGTERM)?;
                leaving.push(registrar);
            }
        }
        for registrar in leaving {
            registrar.end(LEAVE_MAX).await?;
        }
        for daemon in self.fixed() {
            let process = daemon.process()?;
            if process.ended().is_none() {
                process.terminate(END_MAX).await?;
            }
        }
        Ok(())
    }

    /// What is no instance, in the order in which it is stopped.
    fn fixed(&self) -> impl Iterator<Item = &Daemon> {
        let proxy = self.proxy.iter().map(Proxy::daemon);
        [self.lb_sync.daemon(), self.haproxy.daemon()].into_iter().chain(proxy).chain(self.etcd.daemons())
    }

    fn lives(&self) -> MutexGuard<'_, Lives> {
        // Held for single statements: a panic elsewhere leaves nothing half done.
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The words of scenarios. Each ends the scenario if it cannot be done.
impl Stack {
    /// Starts a load on the first service.
    #[must_use]
    pub fn load(&self, rate: Rate) -> Load {
        let first = self.haproxy.layout().services.first();
        self.service(first.map_or("", String::as_str)).load(rate)
    }

    /// What HAProxy says at this moment.
    pub async fn seen(&self) -> Seen {
        self.haproxy.seen().await.or_fail()
    }

    /// Waits until HAProxy shows what `condition` wants.
    #[track_caller]
    pub fn until(&self, condition: impl Fn(&Seen) -> bool) -> impl Future<Output = Duration> {
        self.until_within(SEEN_MAX, condition)
    }

    /// The same, for what may take longer or must not.
    #[track_caller]
    pub fn until_within(
        &self,
        bound: Duration,
        condition: impl Fn(&Seen) -> bool,
    ) -> impl Future<Output = Duration> {
        let what = format!("the condition at {}", Location::caller());
        async move { self.wait_until(bound, what, condition).await.or_fail() }
    }

    /// HAProxy shows what `condition` wants, at every look, while `deed` is done.
    #[track_caller]
    pub fn during<T>(
        &self,
        deed: impl Future<Output = T>,
        condition: impl Fn(&Seen) -> bool,
    ) -> impl Future<Output = T> {
        let here = Location::caller();
        let look = async move || {
            let seen = self.haproxy.seen().await?;
            if !condition(&seen) {
                bail!("the condition at {here} did not hold: {seen}");
            }
            Ok(())
        };
        async move { wait::during(deed, look).await.or_fail() }
    }

    /// Waits until `load` has been served by each of `instances` `count` times more than now.
    pub async fn until_served(&self, load: &Load, instances: &[&str], count: u64) {
        let before: Vec<u64> = instances.iter().map(|name| load.served(name)).collect();
        let what = format!("{count} requests more served by each of {instances:?}");
        let enough = || instances.iter().zip(&before).all(|(name, n)| load.served(name) >= n + count);
        wait::until(SEEN_MAX, what, async || Ok(enough().then_some(()))).await.or_fail();
    }

    /// Waits until etcd holds `key`, or does not.
    pub async fn until_key(&self, key: &str, there: bool) -> Duration {
        let what = format!("{key} {} etcd", if there { "in" } else { "gone from" });
        let look = async || Ok((self.etcd.get(key).await?.is_some() == there).then_some(()));
        wait::until(SEEN_MAX, what, look).await.or_fail().1
    }

    /// Starts a webapp that is registered nowhere.
    pub async fn app(&self, tag: &str) -> App {
        let port = self.ports.free().or_fail();
        App::launch(&self.home, tag, port).await.or_fail()
    }

    /// Registers an instance as any etcd client can: a lease and a put.
    pub async fn put_record(
        &self,
        service: &str,
        instance: &str,
        value: impl Into<Vec<u8>>,
    ) -> Registration<'_> {
        let key = format!("{PREFIX}/instances/{service}/{instance}");
        self.etcd.register(key, value).await.or_fail()
    }

    /// Puts an operator's override.
    pub async fn put_override(&self, service: &str, instance: &str, value: impl Into<Vec<u8>>) {
        let key = format!("{PREFIX}/overrides/{service}/{instance}");
        self.etcd.put(&key, value, 0).await.or_fail();
    }

    /// Takes an operator's override back.
    pub async fn delete_override(&self, service: &str, instance: &str) {
        let key = format!("{PREFIX}/overrides/{service}/{instance}");
        self.etcd.delete(&key).await.or_fail();
    }
}
