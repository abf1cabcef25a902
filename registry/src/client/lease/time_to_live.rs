//! How much time a lease has left, which says whether who holds it still lives.

use std::time::Duration;

use crate::contract::LeaseId;
use crate::session::{EtcdError, Session};

/// What etcd says of a lease that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeToLive {
    /// The time that each beat gives it.
    pub granted: Duration,
    /// What is left of that, in whole seconds.
    pub left: Duration,
}

impl TimeToLive {
    /// Whether its holder has missed a beat: etcd's clients beat every third of the time granted, and half of it has passed
    /// since the last one.
    #[must_use]
    pub fn has_missed_a_beat(self) -> bool {
        self.left * 2 < self.granted
    }
}

/// How much time `lease` has; `None` if etcd does not have it. Of a key that is gone it tells whether it was deleted or has
/// expired.
pub async fn time_to_live(session: &Session, lease: LeaseId) -> Result<Option<TimeToLive>, EtcdError> {
    let answer = session
        .call(
            "ask about a lease in",
            |mut client| async move { client.lease_time_to_live(lease, None).await },
        )
        .await?;
    let seconds = |count: i64| Duration::from_secs(u64::try_from(count).unwrap_or(0));
    // etcd answers -1 for a lease that it does not have.
    let has = answer.ttl() > 0;
    Ok(has.then(|| TimeToLive { granted: seconds(answer.granted_ttl()), left: seconds(answer.ttl()) }))
}
