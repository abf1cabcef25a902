//! What is answered to who asks for health.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::health::{Status as Health, Statuses};
use registry::name::ServiceName;

use crate::member::Status;

/// The health of everything that has a name: `""`, should we get traffic; `registry`, are we registered; and the
/// service, do the app's checks pass. `running`: we are not on our way out.
pub(crate) fn statuses(service: &ServiceName, member: Status, running: bool) -> Statuses {
    let named = [
        // First, so that a service of one of these names does not hide it: in a map, the last one stays.
        (service.as_str(), member.healthy),
        ("registry", member.registered),
        ("", member.wants_traffic && running),
    ];
    Arc::new(BTreeMap::from(named.map(|(name, well)| (name.to_owned(), Health::from(well)))))
}
