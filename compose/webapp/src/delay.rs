//! The delay that slows the app down on purpose, so that a balancer can be watched coping with a slow server.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// The longest delay, in milliseconds: beyond the 50 s of the lab's HAProxy timeouts, so that these can be shown too.
pub(crate) const DELAY_MAX_MS: u64 = 60_000;

/// What `POST /delay` takes and answers with.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Setting {
    /// In milliseconds.
    delay: u64,
}

/// Why a wish for a delay was refused.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The body did not arrive, or was too large to be taken in.
    Unread(String),
    NotOurJson(serde_json::Error),
    TooLong(u64),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unread(why) => writeln!(f, "cannot take in the delay: {why}")?,
            Self::NotOurJson(error) => writeln!(f, "cannot read the delay: {error}")?,
            Self::TooLong(ms) => writeln!(f, "a delay of {ms} ms is too long; at most {DELAY_MAX_MS} ms")?,
        }
        writeln!(f, r#"  send JSON with the delay in milliseconds: {{"delay": 250}}; 0 takes it away"#)
    }
}

/// How long every GET waits. A change is for the requests that come after it.
#[derive(Debug, Default)]
pub(crate) struct Delay(AtomicU64);

impl Delay {
    fn get(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }

    /// Waits for the delay in force now.
    pub(crate) async fn wait(&self) {
        let delay = self.get();
        // Even a sleep of nothing ends only with the timer's next millisecond.
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }

    /// Takes over the delay in the body of a request.
    pub(crate) fn set(&self, body: &[u8]) -> Result<Setting, Refused> {
        let setting: Setting = serde_json::from_slice(body).map_err(Refused::NotOurJson)?;
        if setting.delay > DELAY_MAX_MS {
            return Err(Refused::TooLong(setting.delay));
        }
        self.0.store(setting.delay, Ordering::Relaxed);
        Ok(setting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_none_at_first_and_it_can_be_set_and_taken_away() {
        let delay = Delay::default();
        assert_eq!(delay.get(), Duration::ZERO);
        delay.set(br#"{"delay": 250}"#).unwrap();
        assert_eq!(delay.get(), Duration::from_millis(250));
        delay.set(br#"{"delay": 60000}"#).unwrap();
        delay.set(br#"{"delay": 0}"#).unwrap();
        assert_eq!(delay.get(), Duration::ZERO);
    }

    #[test]
    fn a_bad_one_is_refused_with_an_example_and_changes_nothing() {
        let delay = Delay::default();
        delay.set(br#"{"delay": 1}"#).unwrap();
        let bad = ["", "250", "{}", r#"{"delay": -1}"#, r#"{"delay": "250"}"#, r#"{"delay": 60001}"#];
        for bad in bad.into_iter().chain([r#"{"delay": 1.5}"#, r#"{"dleay": 1}"#, "\u{0}"]) {
            let why = delay.set(bad.as_bytes()).unwrap_err().to_string();
            assert!(why.contains(r#"{"delay": 250}"#), "{bad}: {why}");
        }
        assert_eq!(delay.get(), Duration::from_millis(1));
    }
}
