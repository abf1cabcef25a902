//! Where balancers reach the app.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::str::FromStr;
use std::time::Duration;

use registry::backoff::Backoff;
use registry::time::Clock;

/// Longest a name may take to resolve.
const RESOLVE_MAX: Duration = Duration::from_secs(3);
/// Waits between attempts: the network, or etcd's name, may come up after us.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// How the address is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressChoice {
    /// The local address of the route to etcd: where etcd is reached from, balancers can usually reach.
    Auto,
    /// This one.
    Is(IpAddr),
}

/// Text that names no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an address: write an IP address (10.0.0.5, fd00::5), or auto for the local address of the route to etcd"
)]
pub struct AddressError(String);

impl FromStr for AddressChoice {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        text.parse::<IpAddr>()
            .map(|address| Self::Is(address.to_canonical()))
            .map_err(|_| AddressError(text.chars().take(80).collect()))
    }
}

/// The address, as soon as it can be known; `endpoints` are etcd's. `seed` spreads the attempts of many.
pub async fn find(choice: AddressChoice, endpoints: &[String], seed: u64) -> IpAddr {
    if let AddressChoice::Is(address) = choice {
        return address;
    }
    let clock = Clock;
    let mut retry = Backoff::new(RETRY_FIRST, RETRY_MAX, seed);
    let mut told = String::new();
    loop {
        for endpoint in endpoints {
            match local_address_towards(endpoint).await {
                Ok(address) => return address,
                Err(error) => {
                    let text = format!("cannot find our address on the way to {endpoint}: {error}");
                    if text != told {
                        tracing::warn!("{text}\n  it is tried again; --address IP names it instead");
                        told = text;
                    }
                }
            }
        }
        clock.until(Some(clock.now().plus(retry.after_failure()))).await;
    }
}

/// The address from which this machine would talk to `endpoint` (`http://HOST:PORT`). Connecting a UDP socket looks
/// up the route and sends nothing.
async fn local_address_towards(endpoint: &str) -> io::Result<IpAddr> {
    let host = endpoint.split_once("://").map_or(endpoint, |(_, host)| host);
    let found = tokio::time::timeout(RESOLVE_MAX, tokio::net::lookup_host(host)).await;
    let found =
        found.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "its name did not resolve in time"))??;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for target in found {
        match route_to(target) {
            Ok(address) => return Ok(address),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn route_to(target: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(target)?;
    Ok(socket.local_addr()?.ip().to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_literal_or_auto() {
        assert_eq!("auto".parse(), Ok(AddressChoice::Auto));
        assert_eq!("::1".parse(), Ok(AddressChoice::Is(Ipv6Addr::LOCALHOST.into())));
        assert_eq!("::ffff:10.0.0.5".parse(), Ok(AddressChoice::Is([10, 0, 0, 5].into())));
        for bad in ["", "localhost", "10.0.0.5:80", "10.0.0.0/8"] {
            assert!(bad.parse::<AddressChoice>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn the_way_to_a_loopback_etcd_is_loopback() {
        let endpoints = ["http://no-such-host.invalid:1".to_owned(), "http://127.0.0.1:2379".to_owned()];
        let found = find(AddressChoice::Auto, &endpoints, 1);
        let found = tokio::time::timeout(Duration::from_secs(10), found).await.unwrap();
        assert_eq!(found, IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
}
