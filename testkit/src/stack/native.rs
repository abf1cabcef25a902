//! How a stack of native processes is started.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use anyhow::Result;

use super::Stack;
use crate::apart::Apart;
use crate::etcd::{Etcd, Proxy};
use crate::fail::OrFail as _;
use crate::haproxy::{self, HaProxy, Layout};
use crate::home::Home;
use crate::lb_sync::LbSync;
use crate::port::Ports;
use crate::slot::Slot;

/// How programs reach etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// All of them directly.
    Loopback,
    /// All of them by its own proxy.
    Proxy,
    /// lb-sync by a cable that can be cut, the others directly.
    Cable,
}

/// What stack to start. Awaited it becomes a [`Stack`], or the test fails.
#[derive(Clone, Debug)]
#[must_use = "a stack is started by `.await`, or by `.start()`"]
pub struct Native {
    services: Vec<String>,
    affinity: bool,
    balance: &'static str,
    files: bool,
    master: bool,
    etcd_members: usize,
    way: Way,
    traffic_port: Option<u16>,
    stats_port: Option<u16>,
    lb_sync_port: Option<u16>,
    lb_sync_flags: Vec<String>,
}

impl Default for Native {
    fn default() -> Self {
        Self {
            services: vec!["web".into()],
            affinity: false,
            balance: "roundrobin",
            files: false,
            master: false,
            etcd_members: 1,
            way: Way::Loopback,
            traffic_port: None,
            stats_port: None,
            lb_sync_port: None,
            lb_sync_flags: Vec::new(),
        }
    }
}

impl Native {
    /// HAProxy has a backend for each of these; without it, for `web`.
    pub fn with_services(mut self, names: &[&str]) -> Self {
        self.services = names.iter().map(ToString::to_string).collect();
        self
    }

    /// Clients stay with their instance, by a cookie.
    pub fn with_affinity(mut self) -> Self {
        self.affinity = true;
        self
    }

    /// The backends balance by this algorithm instead of `roundrobin`.
    pub fn with_balance(mut self, algorithm: &'static str) -> Self {
        self.balance = algorithm;
        self
    }

    /// lb-sync keeps the backend sections as files, and HAProxy starts on them.
    pub fn with_files(mut self) -> Self {
        self.files = true;
        self
    }

    /// HAProxy runs as a master with a worker, so that it can be reloaded, and lb-sync may ask the master.
    pub fn with_master(mut self) -> Self {
        self.master = true;
        self
    }

    /// etcd has so many members.
    pub fn with_etcd_members(mut self, count: usize) -> Self {
        self.etcd_members = count;
        self
    }

    /// lb-sync and the registrars speak to etcd's own proxy.
    pub fn with_etcd_proxy(mut self) -> Self {
        self.way = Way::Proxy;
        self
    }

    /// lb-sync runs in a network namespace of its own, and reaches etcd by a cable that can be cut. See
    /// [`crate::apart::is_possible`].
    pub fn with_lb_sync_apart(mut self) -> Self {
        self.way = Way::Cable;
        self
    }

    /// Traffic comes in at this port, not at any free one.
    pub fn with_traffic_port(mut self, port: u16) -> Self {
        self.traffic_port = Some(port);
        self
    }

    /// The stats page is at this port.
    pub fn with_stats_port(mut self, port: u16) -> Self {
        self.stats_port = Some(port);
        self
    }

    /// lb-sync listens at this port.
    pub fn with_lb_sync_port(mut self, port: u16) -> Self {
        self.lb_sync_port = Some(port);
        self
    }

    /// lb-sync is started with `flag value` too.
    pub fn with_lb_sync_flag(mut self, flag: &str, value: &str) -> Self {
        self.lb_sync_flags.extend([flag.into(), value.into()]);
        self
    }

    /// Starts it, without a turn: for programs that run one stack.
    pub async fn start(self) -> Result<Stack> {
        let home = Arc::new(Home::new()?);
        let ports = Ports::claim()?;
        let port = |fixed: Option<u16>| fixed.map_or_else(|| ports.free(), Ok);
        let layout = Layout {
            socket: haproxy::socket_in(&home),
            traffic_port: port(self.traffic_port)?,
            stats_port: port(self.stats_port)?,
            services: self.services,
            affinity: self.affinity,
            balance: self.balance,
            sections: self.files.then(|| home.join("sections")),
            master: self.master.then(|| home.join("master.sock")),
        };
        let mut flags = self.lb_sync_flags;
        if let Some(folder) = &layout.sections {
            let (folder, base) = (folder.display(), home.join("haproxy.cfg"));
            flags.extend(["--conf-dir".into(), folder.to_string()]);
            flags.extend(["--conf-base".into(), base.display().to_string()]);
        }
        if let Some(socket) = &layout.master {
            flags.extend(["--master-socket".into(), socket.display().to_string()]);
        }
        let apart = if self.way == Way::Cable { Some(Apart::new(&home, &ports)?) } else { None };
        let also_at = apart.as_ref().map(Apart::here);
        let etcd = Etcd::launch_with(&home, &ports, self.etcd_members, also_at).await?;
        let proxy =
            if self.way == Way::Proxy { Some(Proxy::launch(&home, &ports, &etcd).await?) } else { None };
        let haproxy = HaProxy::launch(&home, layout).await?;
        let lb_sync_port = port(self.lb_sync_port)?;
        let socket = haproxy.socket();
        let lb_sync = if let (Some(apart), Some(endpoints)) = (&apart, etcd.endpoints_from_afar()) {
            LbSync::launch_apart(&home, &endpoints, socket, lb_sync_port, &flags, apart).await?
        } else {
            let endpoints = proxy.as_ref().map_or_else(|| etcd.endpoints(), Proxy::endpoint);
            LbSync::launch_with(&home, &endpoints, socket, lb_sync_port, &flags).await?
        };
        let instances = Mutex::default();
        Ok(Stack { instances, lb_sync, haproxy, apart, proxy, etcd, ports, home, _slot: None })
    }
}

impl IntoFuture for Native {
    type Output = Stack;
    type IntoFuture = Pin<Box<dyn Future<Output = Stack>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let slot = Slot::take().await.or_fail();
            let stack = self.start().await.or_fail();
            Stack { _slot: Some(slot), ..stack }
        })
    }
}
