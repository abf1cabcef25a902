//! Which address of ours others reach us by: where etcd is reached from, they usually can.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// Longest a name may take to resolve.
const RESOLVE_MAX: Duration = Duration::from_secs(3);

/// The address from which this machine would talk to `endpoint` (`http://HOST:PORT`). Connecting a UDP socket looks
/// up the route and sends nothing.
pub async fn local_address_towards(endpoint: &str) -> io::Result<IpAddr> {
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
