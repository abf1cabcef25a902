//! The host's name, which an instance gets by default.

use registry::name::{InstanceName, NameError};

/// A host name that no instance can have.
#[derive(Debug, thiserror::Error)]
#[error("the host's name cannot be the instance's: {0}")]
pub struct HostNameError(pub NameError);

/// The host's name as the name of an instance; in a container, the container's.
pub fn host_name() -> Result<InstanceName, HostNameError> {
    registry::host::name().parse().map_err(HostNameError)
}
