//! Which endpoint is in use: stay while it works, move to the next when it fails.
//!
//! Our own, because the client's balancer spreads calls over endpoints whether they are alive or not
//! (seen: two endpoints, one dead, a third of the calls failed).

/// One stay at an endpoint. A failure names the epoch it happened in, so that several tasks which see the same
/// failure move on once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch(u64);

/// The rotation over `count` endpoints.
#[derive(Debug)]
pub(crate) struct Rotation {
    count: usize,
    index: usize,
    epoch: u64,
}

impl Rotation {
    pub(crate) fn new(count: usize) -> Self {
        Self { count: count.max(1), index: 0, epoch: 0 }
    }

    /// The endpoint in use.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.epoch)
    }

    /// The endpoint of `epoch` failed. True if that moved the rotation, false if it had already moved on.
    pub(crate) fn failed(&mut self, epoch: Epoch) -> bool {
        if epoch != self.epoch() {
            return false;
        }
        self.index = (self.index + 1) % self.count;
        self.epoch += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_until_a_failure_and_moves_once_for_each() {
        let mut rotation = Rotation::new(3);
        let first = rotation.epoch();
        assert_eq!(rotation.index(), 0);
        assert!(rotation.failed(first));
        assert!(!rotation.failed(first), "a second report of the same failure does not skip an endpoint");
        assert_eq!(rotation.index(), 1);
        assert!(rotation.failed(rotation.epoch()));
        assert!(rotation.failed(rotation.epoch()));
        assert_eq!(rotation.index(), 0, "it comes round");
    }

    #[test]
    fn a_single_endpoint_is_tried_again_with_a_new_client() {
        let mut rotation = Rotation::new(1);
        assert!(rotation.failed(rotation.epoch()));
        assert_eq!(rotation.index(), 0);
    }
}
