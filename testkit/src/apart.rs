//! A host of its own for a process: a network namespace with one cable, which loses packets when it is told to.
//!
//! Needs root and `ip` of iproute2. The namespace and its cable go with the stack's folder, however the test ends.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::fail::OrFail as _;
use crate::home::Home;
use crate::port::Ports;
use crate::program;

/// The file of [`Home`] that names the namespace and the cable, which have one name.
pub(crate) const NAME_FILE: &str = "netns";
/// The first two bytes of all addresses here, of the block for benchmarks (RFC 2544), which is not routed. The third is
/// the number of the stack's block of ports.
const NETWORK: [u8; 2] = [198, 19];
const NETWORK_LEN: u32 = 30;
/// The cable's end within the namespace.
const FAR_END: &str = "eth0";
/// A hardware address that no interface has. A packet sent to it is dropped by the other end, without a word to either.
const NO_INTERFACE: &str = "02:00:00:00:00:01";

/// Which packets are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Those to the namespace and those from it.
    Both,
    /// Those to it: what it sends arrives.
    ToIt,
}

/// The namespace and its cable.
#[derive(Clone, Debug)]
pub struct Apart {
    name: String,
    here: IpAddr,
    there: IpAddr,
}

/// Whether a namespace can be made here.
#[must_use]
pub fn is_possible() -> bool {
    // Of a process its folder has the effective user.
    let is_root = fs::metadata("/proc/self").is_ok_and(|it| it.uid() == 0);
    is_root && program::system("ip").is_ok()
}

impl Apart {
    /// A new one, which goes with `home`.
    pub fn new(home: &Home, ports: &Ports) -> Result<Self> {
        let block = ports.block();
        let [a, b] = NETWORK;
        let addr = |last| IpAddr::from(Ipv4Addr::new(a, b, block, last));
        let apart = Self { name: format!("leasehold-t{block}"), here: addr(1), there: addr(2) };
        let Self { name, here, there } = &apart;
        // Left by a test that was killed with its sweeper: the block is ours now, and so is what has its number.
        let _ = ip(&["link", "delete", name]);
        let _ = ip(&["netns", "delete", name]);
        fs::write(home.join(NAME_FILE), format!("{name}\n"))
            .context("cannot write the name of the namespace")?;
        ip(&["netns", "add", name])?;
        ip(&["link", "add", name, "type", "veth", "peer", "name", FAR_END, "netns", name])?;
        ip(&["address", "add", &format!("{here}/{NETWORK_LEN}"), "dev", name])?;
        ip(&["link", "set", name, "up"])?;
        ip(&["-n", name, "address", "add", &format!("{there}/{NETWORK_LEN}"), "dev", FAR_END])?;
        ip(&["-n", name, "link", "set", FAR_END, "up"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        Ok(apart)
    }

    /// Where it reaches us.
    #[must_use]
    pub fn here(&self) -> IpAddr {
        self.here
    }

    /// Where we reach it.
    #[must_use]
    pub fn there(&self) -> IpAddr {
        self.there
    }

    /// What to put before a command for it to run there. The process stays the one that is started.
    #[must_use]
    pub fn words(&self) -> [String; 3] {
        ["netns", "exec", &self.name].map(Into::into)
    }

    /// Loses those packets from now on.
    pub fn cut(&self, lost: Lost) {
        Self::send_nowhere(&["neighbour"], self.there, &self.name).or_fail();
        if lost == Lost::Both {
            Self::send_nowhere(&["-n", &self.name, "neighbour"], self.here, FAR_END).or_fail();
        }
    }

    /// Loses none from now on.
    pub fn mend(&self) {
        ip(&["neighbour", "flush", "dev", &self.name, "nud", "permanent"]).or_fail();
        ip(&["-n", &self.name, "neighbour", "flush", "dev", FAR_END, "nud", "permanent"]).or_fail();
    }

    fn send_nowhere(words: &[&str], to: IpAddr, interface: &str) -> Result<()> {
        let to = to.to_string();
        let more = ["replace", &to, "lladdr", NO_INTERFACE, "dev", interface, "nud", "permanent"];
        ip(&[words, &more].concat())
    }
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new(program::system("ip")?).args(args).output().context("cannot run ip")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {}", args.join(" "), said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::process::Stdio;
    use std::time::Duration;

    use super::*;
    use crate::{Clock, wait};

    /// Longest that a connection to the next host takes, and longest wait for one that comes through.
    const CONNECT_MAX_S: &str = "1";
    const MENDED_MAX: Duration = Duration::from_secs(20);

    fn connects(apart: &Apart, port: u16) -> bool {
        let script = format!("exec timeout {CONNECT_MAX_S} bash -c ': < /dev/tcp/{}/{port}'", apart.here());
        let mut command = Command::new(program::system("ip").unwrap());
        command.args(apart.words()).args(["sh", "-c", &script]).stderr(Stdio::null());
        command.status().unwrap().success()
    }

    #[tokio::test]
    async fn packets_are_lost_as_told_and_the_namespace_goes_with_the_folder() {
        if !is_possible() {
            println!("NOT TESTED: a network namespace takes root and the program `ip` (Debian: iproute2)");
            return;
        }
        let (home, ports) = (Home::new().unwrap(), Ports::claim().unwrap());
        let apart = Apart::new(&home, &ports).unwrap();
        let listener = TcpListener::bind((apart.here(), ports.free().unwrap())).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(connects(&apart, port));
        for lost in [Lost::ToIt, Lost::Both] {
            apart.cut(lost);
            let start = Clock.now();
            assert!(!connects(&apart, port), "{lost:?}");
            let waited = Clock.now().since(start);
            assert!(waited >= Duration::from_secs(1), "{lost:?}: it was refused after {waited:?}, not lost");
            apart.mend();
            let mended = async || Ok(connects(&apart, port).then_some(()));
            wait::until(MENDED_MAX, "a connection", mended).await.unwrap();
        }
        let is_there =
            || ip(&["-n", &apart.name, "link"]).is_ok() || ip(&["link", "show", &apart.name]).is_ok();
        assert!(is_there());
        drop(home);
        assert!(!is_there(), "{} is left", apart.name);
    }
}
