//! The scene as native processes on loopback.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use testkit::haproxy::Seen;
use testkit::port::loopback;
use testkit::process::signal;
use testkit::{Clock, PREFIX, Stack};

use crate::scene::{Part, SERVICE, Scene, TTL_S};

/// A stack of processes.
pub(crate) struct Native(Stack);

impl Native {
    pub(crate) async fn start() -> Self {
        Self(Stack::native().with_services(&[SERVICE]).await)
    }

    fn signal(&self, part: Part, what: Signal) {
        match part {
            Part::Instance(number) => {
                let instance = self.0.service(SERVICE).instance(number).now();
                let apps = instance.app_pids().unwrap();
                instance.registrar().process().unwrap().signal(what).unwrap();
                for app in apps {
                    signal(app, what).unwrap();
                }
            }
            Part::Etcd => self.0.etcd().daemon().process().unwrap().signal(what).unwrap(),
            Part::LbSync => self.0.lb_sync().daemon().process().unwrap().signal(what).unwrap(),
        }
    }
}

impl Scene for Native {
    fn traffic(&self) -> SocketAddr {
        loopback(self.0.haproxy().layout().traffic_port)
    }

    async fn look(&self) -> anyhow::Result<Seen> {
        self.0.haproxy().seen().await
    }

    async fn registered(&self) -> anyhow::Result<BTreeSet<String>> {
        let prefix = format!("{PREFIX}/instances/{SERVICE}/");
        let keys = self.0.etcd().keys(&prefix).await?;
        Ok(keys.into_iter().filter_map(|key| key.strip_prefix(&prefix).map(str::to_owned)).collect())
    }

    async fn join(&self, number: usize) {
        self.0.service(SERVICE).with_ttl_s(TTL_S).instance(number).start_on_new_port();
    }

    async fn leave(&self, number: usize) -> Duration {
        let start = Clock.now();
        self.0.service(SERVICE).instance(number).terminate().await;
        Clock.now().since(start)
    }

    async fn kill(&self, number: usize) {
        self.0.service(SERVICE).instance(number).kill_hard().await;
    }

    async fn pause(&self, part: Part) {
        self.signal(part, Signal::SIGSTOP);
    }

    async fn resume(&self, part: Part) {
        self.signal(part, Signal::SIGCONT);
    }
}
