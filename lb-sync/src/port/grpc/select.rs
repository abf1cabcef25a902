//! Which instances are asked for.

use std::collections::BTreeSet;

use proto::registry::v1::{Instance, InstanceFilter, InstanceState};
use tonic::Status;

use super::super::Report;
use super::convert;

/// Labels in one filter.
const LABELS_MAX: usize = 16;

/// A filter, checked.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    wanted: InstanceFilter,
    states: BTreeSet<i32>,
}

impl Filter {
    pub(super) fn new(filter: Option<InstanceFilter>) -> Result<Self, Status> {
        let wanted = filter.unwrap_or_default();
        if wanted.labels.len() > LABELS_MAX {
            return Err(Status::invalid_argument(format!(
                "at most {LABELS_MAX} labels are asked for at once"
            )));
        }
        if let Some(state) = wanted.states.iter().find(|state| InstanceState::try_from(**state).is_err()) {
            return Err(Status::invalid_argument(format!("{state} is no InstanceState")));
        }
        let states = wanted.states.iter().copied().collect();
        Ok(Self { wanted, states })
    }

    /// Those of `report` that match, by service and name. Who has no record is not registered, and not among them.
    pub(super) fn select(&self, report: &Report) -> impl Iterator<Item = Instance> {
        report.instances.iter().filter_map(|(id, one)| {
            let wanted = &self.wanted;
            let service = wanted.service.is_empty() || wanted.service == id.service.as_str();
            let instance = wanted.instance.is_empty() || wanted.instance == id.instance.as_str();
            let suspect = !wanted.suspects_only || one.suspect_for.is_some();
            let record = &one.registered.as_ref().filter(|_| service && instance && suspect)?.record;
            let labels = wanted.labels.iter().all(|(key, value)| record.labels.get(key) == Some(value));
            let state = self.states.is_empty() || self.states.contains(&convert::state(record.state).into());
            (labels && state).then(|| convert::instance(id, one)).flatten()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(Filter::new(None).is_ok());
        let labels = (0..17).map(|n| (n.to_string(), String::new())).collect();
        assert!(Filter::new(Some(InstanceFilter { labels, ..InstanceFilter::default() })).is_err());
        let states = vec![9];
        assert!(Filter::new(Some(InstanceFilter { states, ..InstanceFilter::default() })).is_err());
    }
}
