//! Which services need a backend that HAProxy can make at run time (3.4 and newer).

use std::collections::BTreeSet;

use registry::name::ServiceName;

use super::names::backend_name;
use super::observed::Observed;
use crate::scope::Scope;
use crate::view::View;
use haproxy::{BackendName, Command};

/// Services within `scope` that are registered and have no backend.
#[must_use]
pub fn missing(view: &View, observed: &Observed, scope: &Scope) -> BTreeSet<ServiceName> {
    let registered: Box<dyn Iterator<Item = &ServiceName>> = match scope {
        Scope::All => Box::new(view.instances().keys().map(|id| &id.service)),
        Scope::Only(ids) => {
            Box::new(ids.iter().filter(|id| view.instances().contains_key(id)).map(|id| &id.service))
        }
    };
    registered.filter(|service| !observed.backends.contains_key(*service)).cloned().collect()
}

/// Makes the backend of `service` from the section `defaults DEFAULTS`, and lets frontends use it.
#[must_use]
pub fn make(service: &ServiceName, defaults: &BackendName) -> [Command; 2] {
    let backend = backend_name(service);
    [
        Command::AddBackend { backend: backend.clone(), defaults: defaults.clone() },
        Command::PublishBackend(backend),
    ]
}
