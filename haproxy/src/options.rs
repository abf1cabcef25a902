//! What `add server` is told beyond address, id and weight. `default-server` is never inherited: all of it is repeated.

use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

/// How HAProxy treats a new server. Two options are always given, whatever is set here: see the `Display`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServerOptions {
    /// HAProxy's own checks. Without them a server is believed to be up; with them, [`Command::EnableHealth`] starts them.
    ///
    /// [`Command::EnableHealth`]: super::Command::EnableHealth
    pub check: Option<Check>,
    /// Starts down, from 3.1 on without having been up for an instant (`init-state`).
    pub init_down: bool,
    /// Seconds over which a server that comes up is given its full share; 0 for at once.
    pub slowstart_s: u16,
}

/// HAProxy's own check of a server. What is asked is the backend's `option …chk`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    /// Time between two checks.
    pub inter: CheckInterval,
    /// Passed checks in a row that make a server up.
    pub rise: NonZeroU16,
    /// Failed checks in a row that make it down.
    pub fall: NonZeroU16,
    /// Time between two checks of a server that is down; `None` for the same as `inter`. A server that starts down waits
    /// this long for its first check (104 ms for 100 ms, 2.0 s for an `inter` of 2 s; the same on 2.6, 3.0 and 3.2).
    pub down_inter: Option<CheckInterval>,
}

/// Time between two checks: 1 ms to one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckInterval(NonZeroU32);

/// Why a time is not a check interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a check interval is 1 ms to 24 h, not {0:?}")]
pub struct IllegalInterval(pub Duration);

impl TryFrom<Duration> for CheckInterval {
    type Error = IllegalInterval;

    fn try_from(every: Duration) -> Result<Self, IllegalInterval> {
        /// HAProxy would take 24.8 days (an `int` of milliseconds); a day is beyond any use.
        const MAX_MS: u32 = 24 * 60 * 60 * 1000;
        u32::try_from(every.as_millis())
            .ok()
            .filter(|ms| *ms <= MAX_MS)
            .and_then(NonZeroU32::new)
            .map(Self)
            .ok_or(IllegalInterval(every))
    }
}

impl CheckInterval {
    /// Milliseconds.
    #[must_use]
    pub const fn as_millis(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for ServerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Check { inter, rise, fall, down_inter }) = self.check {
            write!(f, "check inter {}ms rise {rise} fall {fall} ", inter.as_millis())?;
            if let Some(down_inter) = down_inter {
                write!(f, "downinter {}ms ", down_inter.as_millis())?;
            }
        }
        if self.init_down {
            f.write_str("init-state fully-down ")?;
        }
        if self.slowstart_s > 0 {
            write!(f, "slowstart {}s ", self.slowstart_s)?;
        }
        // 2.6 never reuses a connection to a dynamic server unless told: 7.6 k instead of 19.9 k requests a second.
        f.write_str("pool-purge-delay 5s pool-max-conn -1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_bounded() {
        assert!(CheckInterval::try_from(Duration::ZERO).is_err());
        assert!(CheckInterval::try_from(Duration::from_micros(999)).is_err());
        assert_eq!(CheckInterval::try_from(Duration::from_secs(2)).unwrap().as_millis(), 2000);
        assert!(CheckInterval::try_from(Duration::from_hours(24)).is_ok());
        assert!(CheckInterval::try_from(Duration::from_millis(86_400_001)).is_err());
    }
}
