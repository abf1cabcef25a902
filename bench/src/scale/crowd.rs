//! The instances: a few apps that listen on all of loopback, at many addresses each.

use std::net::Ipv4Addr;

use anyhow::Result;
use serde_json::{Value, json};
use testkit::port::{Ports, loopback};

use super::SERVICE;
use crate::app::App;

/// Most instances: as many as there are addresses from 127.1.0.1 to 127.200.249.250 at one port, rounded down.
pub(super) const SIZE_MAX: i64 = 100_000;
/// The one that comes and goes.
pub(super) const EXTRA: &str = "extra";
/// Ports, each at as many addresses as it takes.
const PORTS: u32 = 4;
/// Addresses below one number of the second byte, and below one of the third.
const BLOCK: u32 = 250;

/// The apps behind all instances.
#[derive(Debug)]
pub(crate) struct Crowd {
    apps: Vec<App>,
    extra: App,
    services: u32,
}

impl Crowd {
    /// Spread over `services`.
    pub(crate) async fn start(ports: &Ports, services: u32) -> Result<Self> {
        let mut apps = Vec::new();
        for _ in 0..PORTS {
            // 127.0.0.0/8 is all ours, and listening on a part of it cannot be said.
            apps.push(App::start((Ipv4Addr::UNSPECIFIED, ports.free()?).into(), "crowd").await?);
        }
        Ok(Self { apps, extra: App::start(loopback(ports.free()?), EXTRA).await?, services })
    }

    /// All services: [`SERVICE`], and then numbers.
    pub(super) fn services(services: u32) -> Vec<String> {
        let name = |n: u32| if n == 0 { SERVICE.to_owned() } else { format!("{SERVICE}-{n}") };
        (0..services).map(name).collect()
    }

    /// Instance `n` as `SERVICE/INSTANCE`.
    pub(super) fn id(&self, n: u32) -> String {
        let service = match n % self.services {
            0 => SERVICE.to_owned(),
            n => format!("{SERVICE}-{n}"),
        };
        format!("{service}/{}", Self::name(n))
    }

    /// The name of instance `n`.
    pub(super) fn name(n: u32) -> String {
        format!("web-{n}")
    }

    /// Where instance `n` listens: no two at one address and port.
    pub(super) fn place(&self, n: u32) -> (Ipv4Addr, u16) {
        let at = n / PORTS;
        let byte = |value: u32| u8::try_from(value).unwrap_or(u8::MAX);
        let (high, middle, low) = (at / (BLOCK * BLOCK), at / BLOCK % BLOCK, at % BLOCK);
        let port = usize::try_from(n % PORTS).ok().and_then(|n| self.apps.get(n)).map_or(0, App::port);
        (Ipv4Addr::new(127, byte(1 + high), byte(middle), byte(1 + low)), port)
    }

    /// The shortest record of instance `n`.
    pub(super) fn record(&self, n: u32) -> Value {
        let (address, port) = self.place(n);
        json!({ "address": address, "port": port })
    }

    /// The port of the one that comes and goes.
    pub(super) fn extra_port(&self) -> u16 {
        self.extra.port()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[tokio::test]
    async fn no_two_share_a_place() {
        let crowd = Crowd::start(&Ports::claim().unwrap(), 1).await.unwrap();
        let count = u32::try_from(SIZE_MAX).unwrap();
        let places: BTreeSet<_> = (0..count).map(|n| crowd.place(n)).collect();
        assert_eq!(places.len(), usize::try_from(count).unwrap());
    }
}
