//! One change among thousands, as often as a median needs: one instance joins, is weighed, and leaves.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use testkit::{Clock, Tick};

use super::SERVICE;
use super::crowd::EXTRA;
use crate::poller::{Poller, Question};
use crate::socket::Socket;
use crate::table::Times;

/// How often each change is made.
const ROUNDS: u32 = 20;
/// Answers in a row after which no server is taken to be there.
const SETTLED: u64 = 5;
/// Longest that a change may take to be seen.
const SEEN_MAX: Duration = Duration::from_secs(20);
/// The weight that it joins with, and the one that is set.
pub(super) const WEIGHT_FIRST: u32 = 100;
pub(super) const WEIGHT: u32 = 77;

/// What each change took.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes {
    pub(super) join: Times,
    pub(super) weigh: Times,
    pub(super) leave: Times,
}

/// A way to make the changes to the instance [`EXTRA`].
pub(super) trait Hand {
    /// It joins.
    async fn join(&mut self) -> Result<()>;
    /// Everything that follows by itself from what was done has come to rest; the next change is to find every process idle.
    async fn rested(&mut self) -> Result<()>;
    /// Its weight becomes [`WEIGHT`].
    async fn weigh(&mut self) -> Result<()>;
    /// It leaves; returns once it is out of rotation with nothing in flight.
    async fn leave(&mut self) -> Result<()>;
    /// It is deleted, and what follows from that has come to rest.
    async fn delete(&mut self) -> Result<()>;
}

impl Changes {
    /// Makes them, and looks at `haproxy`, whose traffic comes in at `port`, for when they are there.
    pub(super) async fn measure(hand: &mut impl Hand, haproxy: &mut Socket, port: u16) -> Result<Self> {
        let mut changes = Self::default();
        for _ in 0..ROUNDS {
            let mut poller = Poller::start(Question::of_instance(port, SERVICE, EXTRA));
            poller.until("another server", |sample| sample.refused >= SETTLED).await?;
            let start = Clock.now();
            hand.join().await?;
            let sample = poller.until("a request served", |sample| sample.first_served.is_some()).await?;
            changes.join.push(sample.first_served.context("no request served")?.since(start));
            drop(poller);
            hand.rested().await?;

            let start = Clock.now();
            hand.weigh().await?;
            let seen = weight(haproxy, |it| it.starts_with(&format!("{WEIGHT} "))).await?;
            changes.weigh.push(seen.since(start));
            hand.rested().await?;

            let start = Clock.now();
            hand.leave().await?;
            changes.leave.push(Clock.now().since(start));

            hand.delete().await?;
        }
        Ok(changes)
    }
}

/// When `get weight`, which is cheap at any size, first answered what is `wanted`. Asked again and again without a pause:
/// one would be longer than what is measured.
async fn weight(haproxy: &mut Socket, wanted: impl Fn(&str) -> bool) -> Result<Tick> {
    let start = Clock.now();
    loop {
        let answer = haproxy.ask(format!("get weight {SERVICE}/{EXTRA}")).await?;
        let now = Clock.now();
        if wanted(&answer) {
            return Ok(now);
        }
        if now.since(start) > SEEN_MAX {
            bail!("not seen within {SEEN_MAX:?}: the weight of {EXTRA}; HAProxy says {answer:?}");
        }
    }
}
