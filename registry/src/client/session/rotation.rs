//! Which endpoint is in use: stay while it works, move to the next when it fails.
//!
//! Our own, because the client's balancer spreads calls over endpoints whether they are alive or not
//! (seen: two endpoints, one dead, a third of the calls failed).

/// One stay at an endpoint. A failure names the turn it happened in, so that several tasks which see the same
/// failure move on once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn(u64);

/// The rotation over `count` endpoints.
#[derive(Debug)]
pub(crate) struct Rotation {
    count: usize,
    index: usize,
    turn: u64,
}

impl Rotation {
    pub(crate) fn new(count: usize) -> Self {
        Self { count: count.max(1), index: 0, turn: 0 }
    }

    /// The endpoint in use.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    pub(crate) fn turn(&self) -> Turn {
        Turn(self.turn)
    }

    /// The endpoint of `turn` failed. True if that moved the rotation, false if it had already moved on.
    pub(crate) fn failed(&mut self, turn: Turn) -> bool {
        if turn != self.turn() {
            return false;
        }
        self.index = (self.index + 1) % self.count;
        self.turn += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_until_a_failure_and_moves_once_for_each() {
        let mut rotation = Rotation::new(3);
        let first = rotation.turn();
        assert_eq!(rotation.index(), 0);
        assert!(rotation.failed(first));
        assert!(!rotation.failed(first), "a second report of the same failure does not skip an endpoint");
        assert_eq!(rotation.index(), 1);
        assert!(rotation.failed(rotation.turn()));
        assert!(rotation.failed(rotation.turn()));
        assert_eq!(rotation.index(), 0, "it comes round");
    }

    #[test]
    fn a_single_endpoint_is_tried_again_with_a_new_client() {
        let mut rotation = Rotation::new(1);
        assert!(rotation.failed(rotation.turn()));
        assert_eq!(rotation.index(), 0);
    }
}
