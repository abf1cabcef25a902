//! Backends that HAProxy makes while it runs (3.4 and newer), for services that have none.

use std::collections::BTreeSet;

use registry::name::ServiceName;

use crate::plan::backends;
use crate::plan::observed::Observed;
use crate::scope::Scope;
use crate::view::View;
use haproxy::BackendName;
use haproxy::answer::info::Version;

/// Whether this HAProxy has `add backend` outside of experimental mode.
pub(crate) fn can_add_backends(version: &Version) -> bool {
    version.at_least(3, 4)
}

/// What was made; and what was refused, so that it is not asked for again before the next audit.
#[derive(Debug)]
pub(super) struct BackendMaker {
    /// The section that backends are made from; without it none are made.
    defaults: Option<BackendName>,
    refused: BTreeSet<ServiceName>,
    /// Made in the HAProxy process that answers.
    made: BTreeSet<ServiceName>,
}

impl BackendMaker {
    pub(super) fn new(defaults: Option<BackendName>) -> Self {
        Self { defaults, refused: BTreeSet::new(), made: BTreeSet::new() }
    }

    /// Those that were made in the HAProxy process that answers.
    pub(super) fn made(&self) -> &BTreeSet<ServiceName> {
        &self.made
    }

    /// Another HAProxy process answers: what it has, it has from files.
    pub(super) fn forget_process(&mut self) {
        self.made.clear();
    }

    /// Whatever was refused may be tried again. Returns whether anything was.
    pub(super) fn retry_refused(&mut self) -> bool {
        !std::mem::take(&mut self.refused).is_empty()
    }

    /// What came of making the backend of `service`.
    pub(super) fn record(&mut self, service: ServiceName, made: bool) {
        let into = if made { &mut self.made } else { &mut self.refused };
        into.insert(service);
    }

    /// The first service within `scope` whose backend is to be made, and the section to make it from.
    pub(super) fn next(
        &self,
        version: &Version,
        view: &View,
        observed: &Observed,
        scope: &Scope,
    ) -> Option<(ServiceName, &BackendName)> {
        let defaults = self.defaults.as_ref().filter(|_| can_add_backends(version))?;
        let missing = backends::missing(view, observed, scope);
        let service = missing.into_iter().find(|service| !self.refused.contains(service))?;
        Some((service, defaults))
    }
}
