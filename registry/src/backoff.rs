//! How long to wait after a failure: exponential, with full jitter, so that many who failed together do not
//! come back together.

use std::time::Duration;

use fastrand::Rng;

/// Waits that grow from `first` to `max`; each is a uniform draw from zero to the current bound.
///
/// The randomness is a seed handed in at the edge: the same seed gives the same waits.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
    rng: Rng,
}

impl Backoff {
    /// Starts with bounds of `first`, doubling to `max`.
    #[must_use]
    pub fn new(first: Duration, max: Duration, seed: u64) -> Self {
        Self { first, max, failures: 0, rng: Rng::with_seed(seed) }
    }

    /// The wait after one more failure. The very first retry waits at least half its bound: a peer that
    /// answers "no" at once must not be asked in a tight loop.
    pub fn after_failure(&mut self) -> Duration {
        let doubled = self.first.saturating_mul(1_u32 << self.failures.min(20));
        self.failures = self.failures.saturating_add(1);
        let bound = u64::try_from(doubled.min(self.max).as_micros()).unwrap_or(u64::MAX);
        let least = u64::try_from(self.first.as_micros() / 2).unwrap_or(0).min(bound);
        Duration::from_micros(self.rng.u64(least..=bound))
    }

    /// It worked: the next failure starts from `first` again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last success.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// `wait`, made up to a tenth shorter: beats of many processes spread out and none is late.
    pub fn jittered(&mut self, wait: Duration) -> Duration {
        wait.mul_f64(1.0 - 0.1 * self.rng.f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_within_their_growing_bound_and_spread() {
        let mut spread = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2), seed);
            for failure in 0..12_u32 {
                let wait = backoff.after_failure();
                let bound = Duration::from_millis(100 << failure.min(10)).min(Duration::from_secs(2));
                assert!(wait <= bound && wait >= Duration::from_millis(50), "{failure}: {wait:?}");
                spread.insert(wait);
            }
            backoff.reset();
            assert!(backoff.after_failure() <= Duration::from_millis(100));
        }
        assert!(spread.len() > 400, "full jitter: {} distinct waits", spread.len());
    }
}
