//! What the registry's names are called in HAProxy: every legal name of the registry is a legal name there.

use haproxy::{BackendName, ServerName, ServerPath};
use registry::name::{InstanceId, InstanceName, ServiceName};

/// The backend of `service`: it has the service's name.
#[must_use]
pub fn backend_name(service: &ServiceName) -> BackendName {
    let name = service.as_str().parse();
    name.unwrap_or_else(|_| unreachable!("{service}: a service's name is legal for a backend"))
}

/// The server of `instance` in its backend: it has the instance's name.
#[must_use]
pub fn server_name(instance: &InstanceName) -> ServerName {
    let name = instance.as_str().parse();
    name.unwrap_or_else(|_| unreachable!("{instance}: an instance's name is legal for a server"))
}

/// The server of `id`, as commands name it.
#[must_use]
pub fn server_path(id: &InstanceId) -> ServerPath {
    ServerPath::new(backend_name(&id.service), server_name(&id.instance))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_name_of_the_registry_is_one_for_haproxy(name in "[A-Za-z0-9][A-Za-z0-9_.-]{0,63}") {
            let id: InstanceId = format!("{name}/{name}").parse().unwrap();
            prop_assert_eq!(server_path(&id).to_string(), format!("{name}/{name}"));
        }
    }
}
