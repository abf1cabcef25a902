//! Opens what the configuration names: the only step that reads certificates and keys.

use daemon::port::Tls;
use registry::session::EtcdConfig;

use super::{Config, ConfigError};
use crate::probe::CheckTls;

/// A configuration that can run.
#[derive(Clone, Debug)]
pub struct OpenConfig {
    /// The values.
    pub config: Config,
    /// How to reach etcd.
    pub etcd: EtcdConfig,
    /// TLS of the port; `None`: plain text.
    pub listen_tls: Option<Tls>,
    /// TLS of the checks of each service, in their order; `None`: plain text.
    pub check_tls: Vec<Option<CheckTls>>,
}

/// Reads the files that `config` names.
pub fn open(config: Config) -> Result<OpenConfig, ConfigError> {
    let check_tls = config.services.iter().map(|one| one.probe.tls.as_ref().map(CheckTls::open).transpose());
    let check_tls = check_tls.collect::<Result<_, _>>()?;
    Ok(OpenConfig {
        check_tls,
        etcd: config.etcd.checked()?,
        listen_tls: config.listen_tls.checked()?,
        config,
    })
}
