//! Time as a value: decisions are given a [`Tick`], only tasks read a [`Clock`].

use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};

/// Longest uninterrupted sleep of [`Clock::until`]. The runtime's timers stand still while the machine is
/// suspended; waking this often is what finds out that time has passed.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// A moment, in microseconds since this machine booted, suspended time included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(u64);

impl Tick {
    /// The moment `ms` milliseconds after boot.
    #[must_use]
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000))
    }

    /// The moment `us` microseconds after boot.
    #[must_use]
    pub const fn from_us(us: u64) -> Self {
        Self(us)
    }

    /// This moment and `wait` more.
    #[must_use]
    pub fn plus(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero if it is not in the past.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// The machine's clocks. The only place where they are read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Clock {
    /// Now, on `CLOCK_BOOTTIME`: unlike the monotonic clock it goes on while the machine is suspended, as
    /// etcd's does while our lease runs out.
    #[must_use]
    pub fn now(self) -> Tick {
        // The call fails only for an unknown clock (Linux has had this one since 2.6.39).
        let read = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
        Tick::default().plus(read)
    }

    /// The time of day, for people: nothing is decided from it.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the edge where time enters")]
    pub fn time_of_day(self) -> SystemTime {
        SystemTime::now()
    }

    /// Returns once `moment` has come; never, for `None`.
    pub async fn until(self, moment: Option<Tick>) {
        let Some(moment) = moment else {
            return std::future::pending().await;
        };
        loop {
            let left = moment.since(self.now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(SLEEP_MAX)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_never_go_below_zero() {
        let (early, late) = (Tick::from_ms(5), Tick::from_ms(9));
        assert_eq!(late.since(early), Duration::from_millis(4));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(Tick::from_us(u64::MAX).plus(Duration::MAX), Tick::from_us(u64::MAX));
    }

    #[tokio::test]
    async fn the_clock_goes_forward_and_until_waits() {
        let clock = Clock;
        let start = clock.now();
        clock.until(Some(start.plus(Duration::from_millis(5)))).await;
        assert!(clock.now().since(start) >= Duration::from_millis(5));
    }
}
