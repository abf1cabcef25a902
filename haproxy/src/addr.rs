//! Where a server listens, in the only forms that every HAProxy reads alike.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// An IP address and a port that HAProxy can connect to. HAProxy itself takes port 0, `0.0.0.0`, ports beyond 65535
/// (silently wrapped) and host names (never resolved in a dynamic server), so it cannot be left to refuse them.
///
/// Displays as `10.0.0.5:3000` or `[fd00::5]:3000`: the form that `add server` takes on 2.6, 3.0 and 3.2 alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerAddr {
    ip: IpAddr,
    port: u16,
}

/// Why an address is not one for a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IllegalAddr {
    /// Port 0 names no listener.
    #[error("port 0 is no port to connect to")]
    PortZero,
    /// `0.0.0.0` and `::` name no host.
    #[error("{0} names no host")]
    Unspecified(IpAddr),
    /// A zone (`%eth0`) names an interface of one host; HAProxy takes such an address for a host name.
    #[error("an IPv6 address with a zone cannot be a server's")]
    Zone,
}

impl ServerAddr {
    /// `port` at `ip`.
    pub fn new(ip: IpAddr, port: u16) -> Result<Self, IllegalAddr> {
        if port == 0 {
            Err(IllegalAddr::PortZero)
        } else if ip.is_unspecified() {
            Err(IllegalAddr::Unspecified(ip))
        } else {
            Ok(Self { ip, port })
        }
    }

    /// The host.
    #[must_use]
    pub const fn ip(self) -> IpAddr {
        self.ip
    }

    /// The TCP port, never 0.
    #[must_use]
    pub const fn port(self) -> u16 {
        self.port
    }
}

impl TryFrom<SocketAddr> for ServerAddr {
    type Error = IllegalAddr;

    fn try_from(addr: SocketAddr) -> Result<Self, IllegalAddr> {
        match addr {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => Err(IllegalAddr::Zone),
            _ => Self::new(addr.ip(), addr.port()),
        }
    }
}

impl From<ServerAddr> for SocketAddr {
    fn from(addr: ServerAddr) -> Self {
        Self::new(addr.ip, addr.port)
    }
}

impl fmt::Display for ServerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::from(*self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ServerAddr, IllegalAddr> {
        text.parse::<SocketAddr>().unwrap().try_into()
    }

    #[test]
    fn only_a_host_and_a_port_pass() {
        assert_eq!(parse("10.0.0.5:3000").unwrap().to_string(), "10.0.0.5:3000");
        assert_eq!(parse("[FD00::0:5]:3000").unwrap().to_string(), "[fd00::5]:3000");
        assert_eq!(parse("10.0.0.5:0"), Err(IllegalAddr::PortZero));
        assert_eq!(parse("[::]:80"), Err(IllegalAddr::Unspecified("::".parse().unwrap())));
        assert_eq!(parse("[fe80::1%3]:80"), Err(IllegalAddr::Zone));
    }
}
