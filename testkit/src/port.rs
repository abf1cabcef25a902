//! Free ports on loopback, such that two stacks, in one process or in two, never take the same.
//!
//! Asking the kernel for port 0 and closing it again is a race: every outgoing connection takes its own port from
//! the same range. These are taken from below that range, in blocks; who holds a block's first port holds the block.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Result, bail};

/// First port of the first block. Linux takes outgoing ports from 32768 up (`ip_local_port_range`).
const FIRST: u16 = 20_000;
/// Ports in a block: a stack with fifty instances, each started three times, takes some 300.
const BLOCK_LEN: u16 = 400;
/// Blocks in all.
const BLOCKS: u16 = 30;

/// A block of ports, ours until it is dropped.
#[derive(Debug)]
pub struct Ports {
    /// Bound for as long as the block is ours; no connection is ever accepted.
    _claim: TcpListener,
    first: u16,
    used: AtomicU16,
}

impl Ports {
    /// Takes a free block.
    pub fn claim() -> Result<Self> {
        // From a random block on: a port that has just been given back may still be knocked at by old clients.
        let start = fastrand::u16(..BLOCKS);
        for n in 0..BLOCKS {
            let first = FIRST + (start + n) % BLOCKS * BLOCK_LEN;
            if let Ok(claim) = TcpListener::bind(loopback(first)) {
                return Ok(Self { _claim: claim, first, used: AtomicU16::new(1) });
            }
        }
        let last = FIRST + BLOCKS * BLOCK_LEN - 1;
        bail!("every block of ports from {FIRST} to {last} is taken")
    }

    /// The number of the block: no other stack of this machine has it at the same time.
    #[must_use]
    pub fn block(&self) -> u8 {
        u8::try_from((self.first - FIRST) / BLOCK_LEN).unwrap_or(u8::MAX)
    }

    /// A free port of the block; the same one is never given twice.
    pub fn free(&self) -> Result<u16> {
        loop {
            let n = self.used.fetch_add(1, Ordering::Relaxed);
            if n >= BLOCK_LEN {
                bail!("the stack has used up its {BLOCK_LEN} ports from {} on", self.first);
            }
            let port = self.first + n;
            // A process that knows nothing of blocks may listen here.
            if is_free(port) {
                return Ok(port);
            }
        }
    }
}

/// Whether `port` of loopback is free at this moment.
#[must_use]
pub fn is_free(port: u16) -> bool {
    TcpListener::bind(loopback(port)).is_ok()
}

/// `127.0.0.1:port`.
#[must_use]
pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_blocks_share_no_port_and_a_taken_one_is_passed_over() {
        let (a, b) = (Ports::claim().unwrap(), Ports::claim().unwrap());
        assert_ne!(a.first, b.first);
        let squatter = TcpListener::bind(loopback(a.first + 1)).unwrap();
        assert_eq!(a.free().unwrap(), a.first + 2);
        drop(squatter);
    }

    #[test]
    fn a_block_has_an_end() {
        let ports = Ports::claim().unwrap();
        let given = std::iter::from_fn(|| ports.free().ok()).count();
        assert!(given < usize::from(BLOCK_LEN));
    }
}
