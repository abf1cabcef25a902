//! What is answered to who asks for health.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::health::{Status as Health, Statuses};
use registry::name::ServiceName;

use leasehold::member::Status;

/// The health of everything that has a name: `""`, should we get traffic, for every service; `registry`, are we
/// registered; and each service, do the app's checks pass. `running`: we are not on our way out.
pub(crate) fn statuses(members: &[(ServiceName, Status)], running: bool) -> Statuses {
    let mut named = BTreeMap::new();
    for (service, member) in members {
        let well = named.entry(service.to_string()).or_insert(true);
        *well &= member.healthy;
    }
    // Last, so that a service of one of these names does not hide it.
    named.insert("registry".into(), members.iter().all(|(_, member)| member.registered));
    named.insert(String::new(), running && members.iter().all(|(_, member)| member.wants_traffic));
    Arc::new(named.into_iter().map(|(name, well)| (name, Health::from(well))).collect())
}
