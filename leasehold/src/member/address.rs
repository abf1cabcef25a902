//! Where balancers reach the app.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use registry::backoff::Backoff;
use registry::local_addr::local_address_towards;
use registry::time::Clock;

/// Waits between attempts: the network, or etcd's name, may come up after us.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Longest name of an interface, in bytes (IFNAMSIZ, without its NUL).
const INTERFACE_LEN_MAX: usize = 15;

/// How the address is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressChoice {
    /// The local address of the route to etcd: where etcd is reached from, balancers can usually reach.
    Auto,
    /// This one.
    Is(IpAddr),
    /// The first of this interface; an IPv4 one, if it has any.
    Interface(String),
    /// The first of this machine's within this network.
    Within(Network),
}

/// A network, written `10.0.0.0/8` or `fd00::/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    len: u8,
}

impl Network {
    fn holds(self, address: IpAddr) -> bool {
        match (self.base, address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.len)).unwrap_or(0);
                u32::from(base) & mask == u32::from(address) & mask
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.len)).unwrap_or(0);
                u128::from(base) & mask == u128::from(address) & mask
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (base, len) = text.split_once('/').ok_or(())?;
        let base: IpAddr = base.parse().map_err(|_| ())?;
        let len: u8 = len.parse().map_err(|_| ())?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        if len <= most { Ok(Self { base, len }) } else { Err(()) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.len)
    }
}

/// Text that names no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an address: write an IP address (10.0.0.5, fd00::5), an interface (eth0), a network that it is in (10.0.0.0/8), or auto for the local address of the route to etcd"
)]
pub struct AddressError(String);

impl FromStr for AddressChoice {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Is(address.to_canonical()));
        }
        if let Ok(network) = text.parse() {
            return Ok(Self::Within(network));
        }
        // As the kernel takes them (`dev_valid_name`), without those that look like a mistyped address.
        let legal = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':');
        let fits = (1..=INTERFACE_LEN_MAX).contains(&text.len()) && text.chars().all(legal);
        let number = text.chars().all(|c| c.is_ascii_digit() || c == '.');
        if fits && !number {
            return Ok(Self::Interface(text.to_owned()));
        }
        Err(AddressError(text.chars().take(80).collect()))
    }
}

/// The address, as soon as it can be known; `endpoints` are etcd's. `seed` spreads the attempts of many.
pub async fn find(choice: &AddressChoice, endpoints: &[String], seed: u64) -> IpAddr {
    let clock = Clock;
    let mut retry = Backoff::new(RETRY_FIRST, RETRY_MAX, seed);
    let mut told = String::new();
    loop {
        match look(choice, endpoints).await {
            Ok(address) => return address,
            Err(text) => {
                if text != told {
                    tracing::warn!("{text}\n  it is tried again; --address IP names it instead");
                    told = text;
                }
            }
        }
        clock.until(Some(clock.now().plus(retry.after_failure()))).await;
    }
}

async fn look(choice: &AddressChoice, endpoints: &[String]) -> Result<IpAddr, String> {
    match choice {
        AddressChoice::Is(address) => Ok(*address),
        AddressChoice::Auto => {
            let mut failed = "no etcd endpoint is named".to_owned();
            for endpoint in endpoints {
                match local_address_towards(endpoint).await {
                    Ok(address) => return Ok(address),
                    Err(error) => {
                        failed = format!("cannot find our address on the way to {endpoint}: {error}");
                    }
                }
            }
            Err(failed)
        }
        AddressChoice::Interface(name) => {
            let ours = addresses()?;
            let found = best(ours.iter().filter(|(interface, _)| interface == name));
            found.ok_or_else(|| format!("no interface {name} with an address: there are {}", listed(&ours)))
        }
        AddressChoice::Within(network) => {
            let ours = addresses()?;
            let found = best(ours.iter().filter(|(_, address)| network.holds(*address)));
            found.ok_or_else(|| format!("no address within {network}: there are {}", listed(&ours)))
        }
    }
}

/// The addresses of the interfaces that are up, those that are good on their own link only excepted.
fn addresses() -> Result<Vec<(String, IpAddr)>, String> {
    let all = getifaddrs().map_err(|error| format!("cannot list the interfaces: {error}"))?;
    let usable = all.filter(|one| one.flags.contains(InterfaceFlags::IFF_UP));
    let address = |address: nix::sys::socket::SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|found| IpAddr::V4(found.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|found| IpAddr::V6(found.ip())))
    };
    let found = usable.filter_map(|one| Some((one.interface_name, address(one.address?)?)));
    let local = |address: &IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    Ok(found.filter(|(_, address)| !local(address)).collect())
}

fn best<'a>(found: impl Iterator<Item = &'a (String, IpAddr)>) -> Option<IpAddr> {
    found.map(|(_, address)| *address).min_by_key(IpAddr::is_ipv6)
}

fn listed(ours: &[(String, IpAddr)]) -> String {
    let all: Vec<_> = ours.iter().map(|(interface, address)| format!("{interface} {address}")).collect();
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn an_address_is_a_literal_or_auto() {
        assert_eq!("auto".parse(), Ok(AddressChoice::Auto));
        assert_eq!("::1".parse(), Ok(AddressChoice::Is(Ipv6Addr::LOCALHOST.into())));
        assert_eq!("::ffff:10.0.0.5".parse(), Ok(AddressChoice::Is([10, 0, 0, 5].into())));
        assert_eq!("eth0.100".parse(), Ok(AddressChoice::Interface("eth0.100".into())));
        for bad in
            ["", "10.0.0.5:80", "10.0.0.0/33", "fd00::/129", "10.0.0", "a-name-that-is-too-long", "a b"]
        {
            assert!(bad.parse::<AddressChoice>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_network_holds_what_begins_like_it() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("192.168.42.0/24", "192.168.42.42", "192.168.43.1"),
            ("10.1.2.3/32", "10.1.2.3", "10.1.2.4"),
            ("fd00::/8", "fd12::1", "10.0.0.1"),
        ] {
            let AddressChoice::Within(network) = network.parse().unwrap() else { panic!("{network}") };
            assert!(network.holds(inside.parse().unwrap()) && !network.holds(outside.parse().unwrap()));
        }
        let AddressChoice::Within(all) = "0.0.0.0/0".parse().unwrap() else { panic!("a network") };
        assert!(all.holds([1, 2, 3, 4].into()));
    }

    #[tokio::test]
    async fn loopback_is_an_interface_and_a_network() {
        for choice in ["lo", "127.0.0.0/8"] {
            let found = look(&choice.parse().unwrap(), &[]).await;
            assert_eq!(found, Ok(Ipv4Addr::LOCALHOST.into()), "{choice}");
        }
        let error = look(&"nosuch0".parse().unwrap(), &[]).await.unwrap_err();
        assert!(error.contains("no interface nosuch0") && error.contains("lo 127.0.0.1"), "{error}");
    }

    #[tokio::test]
    async fn the_way_to_a_loopback_etcd_is_loopback() {
        let endpoints = ["http://no-such-host.invalid:1".to_owned(), "http://127.0.0.1:2379".to_owned()];
        let found = find(&AddressChoice::Auto, &endpoints, 1);
        let found = tokio::time::timeout(Duration::from_secs(10), found).await.unwrap();
        assert_eq!(found, IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
}
