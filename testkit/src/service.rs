//! The words for a service and its instances.

use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::fail::OrFail as _;
use crate::instance::{Instance, Spec};
use crate::load::{Load, Rate};
use crate::stack::{SEEN_MAX, Stack};

/// The ttl of an instance's lease: the shortest that holds several beats and that etcd grants as asked.
pub const TTL_S: u32 = 3;

/// A service of a stack, and how its next instances are started.
#[derive(Clone, Debug)]
pub struct Service<'s> {
    stack: &'s Stack,
    name: String,
    notes_stops: bool,
    ttl_s: u32,
    flags: Vec<String>,
}

/// Instances that have been started and may not serve yet.
#[derive(Debug)]
#[must_use = "say what is waited for: `.serving()`"]
pub struct Starting<'s> {
    service: Service<'s>,
    names: Vec<String>,
}

/// One instance of a service, by name: through all its lives.
#[derive(Clone, Debug)]
pub struct Member<'s> {
    service: Service<'s>,
    name: String,
}

impl<'s> Service<'s> {
    pub(crate) fn new(stack: &'s Stack, name: &str) -> Self {
        Self { stack, name: name.into(), notes_stops: false, ttl_s: TTL_S, flags: Vec::new() }
    }

    /// From now on its instances note what HAProxy says when their app is told to stop.
    #[must_use]
    pub fn noting_stops(mut self) -> Self {
        self.notes_stops = true;
        self
    }

    /// From now on its instances' leases have this ttl, in seconds.
    #[must_use]
    pub fn with_ttl_s(mut self, ttl_s: u32) -> Self {
        self.ttl_s = ttl_s;
        self
    }

    /// From now on its registrars are started with `flag value` too.
    #[must_use]
    pub fn with_flag(mut self, flag: &str, value: &str) -> Self {
        self.flags.extend([flag.into(), value.into()]);
        self
    }

    /// Starts what is missing for there to be `count` instances, named `<service>-1` up.
    pub fn instances(&self, count: usize) -> Starting<'s> {
        let names: Vec<String> = (1..=count).map(|n| self.name_of(n)).collect();
        for name in &names {
            if self.stack.instance(&self.name, name).is_err() {
                self.launch(name).or_fail();
            }
        }
        Starting { service: self.clone(), names }
    }

    /// The instance `<service>-<n>`.
    #[must_use]
    pub fn instance(&self, n: usize) -> Member<'s> {
        Member { service: self.clone(), name: self.name_of(n) }
    }

    /// Starts a load on it.
    #[must_use]
    pub fn load(&self, rate: Rate) -> Load {
        self.stack.start_load(&self.name, rate, 0).or_fail()
    }

    /// Starts a load on it from clients that keep their cookie.
    #[must_use]
    pub fn load_of_sticky_clients(&self, clients: usize, rate: Rate) -> Load {
        self.stack.start_load(&self.name, rate, clients).or_fail()
    }

    fn name_of(&self, n: usize) -> String {
        format!("{}-{n}", self.name)
    }

    fn launch(&self, name: &str) -> Result<Arc<Instance>> {
        self.stack.launch(Spec {
            service: self.name.clone(),
            name: name.into(),
            app_port: self.stack.ports().free()?,
            registrar_port: self.stack.ports().free()?,
            ttl_s: self.ttl_s,
            notes_its_stop: self.notes_stops,
            flags: self.flags.clone(),
        })
    }
}

impl<'s> Starting<'s> {
    /// Waits until HAProxy serves from all of them.
    pub async fn serving(self) -> Service<'s> {
        let Self { service, names } = self;
        for name in &names {
            Member { service: service.clone(), name: name.clone() }.serving().await;
        }
        service
    }
}

impl Member<'_> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its present life.
    #[must_use]
    pub fn now(&self) -> Arc<Instance> {
        self.service.stack.instance(&self.service.name, &self.name).or_fail()
    }

    /// Where its app listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.now().spec().app_port
    }

    /// Waits until HAProxy serves from it, at the port that it has now.
    pub async fn serving(&self) -> Duration {
        let port = self.port();
        let what = format!("{} up in HAProxy at port {port}", self.name);
        let serves = |seen: &crate::haproxy::Seen| {
            let server = seen.server(&self.service.name, &self.name);
            server.is_some_and(|server| server.is_up() && server.port() == port)
        };
        self.service.stack.wait_until(SEEN_MAX, what, serves).await.or_fail()
    }

    /// TERM to its registrar; waits for its end.
    pub async fn terminate(&self) -> ExitStatus {
        self.now().terminate().await.or_fail()
    }

    /// `kill -9` to registrar and app.
    pub async fn kill_hard(&self) {
        self.now().kill_hard().await.or_fail();
    }

    /// `kill -9` to the app alone; waits for the registrar's end.
    pub async fn kill_app(&self) -> ExitStatus {
        self.now().kill_app().await.or_fail()
    }

    /// `kill -9` to the registrar alone.
    pub async fn kill_registrar(&self) {
        self.now().kill_registrar().await.or_fail();
    }

    /// SIGSTOP to its registrar.
    pub fn pause_registrar(&self) {
        self.signal_registrar(Signal::SIGSTOP).or_fail();
    }

    /// SIGCONT to its registrar.
    pub fn resume_registrar(&self) {
        self.signal_registrar(Signal::SIGCONT).or_fail();
    }

    /// Lets every GET of its app wait for `delay_ms`.
    pub async fn slow_down(&self, delay_ms: u32) {
        self.now().slow_down(delay_ms).await.or_fail();
    }

    /// Starts it again, under its name and on another port; does not wait for it to serve.
    pub fn start_on_new_port(&self) {
        self.service.launch(&self.name).or_fail();
    }

    /// Ends it in order, then starts it again on another port and waits until it serves there.
    pub async fn restart_on_new_port(&self) {
        self.terminate().await;
        self.start_on_new_port();
        self.serving().await;
    }

    /// Starts a second one of its name on another port, waits until that serves, and ends the first.
    pub async fn move_to_new_port(&self) {
        let old = self.now();
        self.start_on_new_port();
        self.serving().await;
        old.terminate().await.or_fail();
    }

    fn signal_registrar(&self, signal: Signal) -> Result<()> {
        self.now().registrar().process()?.signal(signal)
    }
}
