//! A way from the registry to HAProxy, and what it took in all rounds.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::register::Leave;
use super::way::Way;
use crate::table::Times;

/// Longest that a round may take; it is some 50 ms.
const ROUND_MAX: Duration = Duration::from_mins(1);

/// A way, and what it took in all rounds.
pub(crate) struct Measured<'s> {
    pub(super) name: &'static str,
    way: Way<'s>,
    rest: Duration,
    pub(super) join: Times,
    pub(super) leave: Times,
}

impl<'s> Measured<'s> {
    /// Nothing was measured yet. Its changes come as soon as the last has been seen.
    pub(crate) fn new(name: &'static str, way: Way<'s>) -> Self {
        Self::resting(name, way, Duration::ZERO)
    }

    /// Its changes come so much later.
    pub(crate) fn resting(name: &'static str, way: Way<'s>, rest: Duration) -> Self {
        Self { name, way, rest, join: Times::default(), leave: Times::default() }
    }

    /// Takes one round's times.
    pub(super) async fn take(&mut self, leave: Leave, counts: bool) -> Result<()> {
        let round = tokio::time::timeout(ROUND_MAX, Box::pin(self.way.round(leave, self.rest))).await;
        let round =
            round.with_context(|| format!("{}: a round was not over within {ROUND_MAX:?}", self.name))?;
        let (join, left) = round.with_context(|| self.name)?;
        if counts {
            self.join.push(join);
            self.leave.push(left);
        }
        Ok(())
    }

    pub(super) fn json(&self) -> Value {
        json!({ "put_to_served_ms": self.join.json(), "end_to_last_hit_ms": self.leave.json() })
    }

    pub(super) fn ratios(&self, other: &Self) -> Value {
        let (join, leave) = (self.join.ratios(&other.join), self.leave.ratios(&other.leave));
        json!({ "put_to_served": join, "end_to_last_hit": leave })
    }
}
