//! The flags both binaries take for etcd, and what they come to.

use std::fs;
use std::path::{Path, PathBuf};

use etcd_client::{Certificate, Identity, TlsOptions};

use crate::key::Prefix;

/// Most endpoints that are taken.
const ENDPOINTS_MAX: usize = 32;
/// Largest certificate, key or password file, in bytes.
const FILE_LEN_MAX: u64 = 1024 * 1024;
/// Where Debian and most others keep the CAs of the public web; used for `https` without `--etcd-cacert`.
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";

/// How to reach etcd.
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// etcd's client URLs, comma-separated; one is used at a time, the next when it fails.
    #[cfg_attr(
        feature = "cli",
        arg(
            long,
            env = "LEASEHOLD_ETCD_ENDPOINTS",
            value_delimiter = ',',
            default_value = "http://127.0.0.1:2379",
            value_name = "URL"
        )
    )]
    pub etcd_endpoints: Vec<String>,
    /// CA certificates (PEM) that etcd's certificate is checked against.
    #[cfg_attr(feature = "cli", arg(long, env = "LEASEHOLD_ETCD_CACERT", value_name = "FILE"))]
    pub etcd_cacert: Option<PathBuf>,
    /// Our certificate (PEM), where etcd asks for one.
    #[cfg_attr(
        feature = "cli",
        arg(long, env = "LEASEHOLD_ETCD_CERT", value_name = "FILE", requires = "etcd_key")
    )]
    pub etcd_cert: Option<PathBuf>,
    /// The key of our certificate (PEM).
    #[cfg_attr(
        feature = "cli",
        arg(long, env = "LEASEHOLD_ETCD_KEY", value_name = "FILE", requires = "etcd_cert")
    )]
    pub etcd_key: Option<PathBuf>,
    /// User to log in to etcd as.
    #[cfg_attr(
        feature = "cli",
        arg(long, env = "LEASEHOLD_ETCD_USER", value_name = "NAME", requires = "etcd_password_file")
    )]
    pub etcd_user: Option<String>,
    /// File with that user's password; a trailing newline is dropped.
    #[cfg_attr(
        feature = "cli",
        arg(long, env = "LEASEHOLD_ETCD_PASSWORD_FILE", value_name = "FILE", requires = "etcd_user")
    )]
    pub etcd_password_file: Option<PathBuf>,
    /// Where the registry stands in etcd.
    #[cfg_attr(
        feature = "cli",
        arg(long, env = "LEASEHOLD_PREFIX", default_value = "/leasehold/v1", value_name = "PREFIX")
    )]
    pub prefix: Prefix,
}

impl Default for EtcdOptions {
    /// An etcd on this host, in plain text.
    fn default() -> Self {
        Self {
            etcd_endpoints: vec!["http://127.0.0.1:2379".into()],
            etcd_cacert: None,
            etcd_cert: None,
            etcd_key: None,
            etcd_user: None,
            etcd_password_file: None,
            prefix: Prefix::default(),
        }
    }
}

/// Options that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// An endpoint is not a URL that we can use.
    #[error("{0:?} is not an etcd endpoint: write http://HOST:PORT or https://HOST:PORT")]
    Endpoint(String),
    /// There are none, or too many.
    #[error("{0} etcd endpoints given; 1 to {ENDPOINTS_MAX} are taken")]
    Count(usize),
    /// `http` together with TLS files, or the two schemes mixed.
    #[error(
        "{0:?} is not https, but TLS files are given or another endpoint is https: use https for all or for none"
    )]
    Scheme(String),
    /// A file cannot be read.
    #[error("cannot read {}: {cause}\n  it is named by {flag}", path.display())]
    File {
        /// The flag that named it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What was seen.
        cause: String,
    },
}

/// How to reach etcd, checked.
#[derive(Clone, Debug)]
pub struct EtcdConfig {
    pub(crate) endpoints: Vec<String>,
    https: bool,
    options: EtcdOptions,
}

/// What the files hold at this moment.
pub(crate) struct Files {
    pub(crate) tls: Option<TlsOptions>,
    pub(crate) login: Option<(String, String)>,
}

impl EtcdOptions {
    /// Checks them, files included: a typing error is told at start, not at the first reconnect.
    pub fn checked(&self) -> Result<EtcdConfig, OptionsError> {
        let endpoints: Vec<String> = self.etcd_endpoints.iter().map(|text| text.trim().to_owned()).collect();
        if endpoints.is_empty() || endpoints.len() > ENDPOINTS_MAX {
            return Err(OptionsError::Count(endpoints.len()));
        }
        let https = self.etcd_cacert.is_some()
            || self.etcd_cert.is_some()
            || endpoints.iter().any(|endpoint| endpoint.starts_with("https://"));
        for endpoint in &endpoints {
            let rest = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
            let has_port = rest.and_then(|rest| rest.rsplit_once(':')).is_some_and(|(host, port)| {
                !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
            });
            if !has_port {
                return Err(OptionsError::Endpoint(endpoint.clone()));
            }
            if https != endpoint.starts_with("https://") {
                return Err(OptionsError::Scheme(endpoint.clone()));
            }
        }
        let config = EtcdConfig { endpoints, https, options: self.clone() };
        config.read_files()?;
        Ok(config)
    }
}

impl EtcdConfig {
    /// Where the registry stands in etcd.
    #[must_use]
    pub fn prefix(&self) -> &Prefix {
        &self.options.prefix
    }

    /// etcd's endpoints, as they were given.
    #[must_use]
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    pub(crate) fn read_files(&self) -> Result<Files, OptionsError> {
        let options = &self.options;
        let mut tls = None;
        if self.https {
            let ca = options.etcd_cacert.clone().unwrap_or_else(|| SYSTEM_CA.into());
            let ca = read("--etcd-cacert", &ca)?;
            let mut config = TlsOptions::new().ca_certificate(Certificate::from_pem(ca));
            if let (Some(cert), Some(key)) = (&options.etcd_cert, &options.etcd_key) {
                config =
                    config.identity(Identity::from_pem(read("--etcd-cert", cert)?, read("--etcd-key", key)?));
            }
            tls = Some(config);
        }
        let mut login = None;
        if let (Some(user), Some(file)) = (&options.etcd_user, &options.etcd_password_file) {
            let password = read("--etcd-password-file", file)?;
            let password = String::from_utf8_lossy(&password).trim_end_matches(['\r', '\n']).to_owned();
            login = Some((user.clone(), password));
        }
        Ok(Files { tls, login })
    }
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, OptionsError> {
    let error = |cause: String| OptionsError::File { flag, path: path.into(), cause };
    let len = fs::metadata(path).map_err(|e| error(e.to_string()))?.len();
    if len > FILE_LEN_MAX {
        return Err(error(format!("it has {len} bytes; at most {FILE_LEN_MAX} are read")));
    }
    fs::read(path).map_err(|e| error(e.to_string()))
}

#[cfg(test)]
#[cfg(feature = "cli")]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        etcd: EtcdOptions,
    }

    fn checked(args: &[&str]) -> Result<EtcdConfig, String> {
        let line = Line::try_parse_from(std::iter::once("x").chain(args.iter().copied()))
            .map_err(|error| error.to_string())?;
        line.etcd.checked().map_err(|error| error.to_string())
    }

    #[test]
    fn endpoints_are_checked_at_the_edge() {
        assert_eq!(checked(&["--etcd-endpoints", "http://a:1,http://b:2"]).unwrap().endpoints.len(), 2);
        for (bad, why) in [
            ("a:2379", "write http://"),
            ("http://a", "write http://"),
            ("http://:2379", "write http://"),
            ("http://a:0", "write http://"),
            ("https://a:1,http://b:1", "https for all or for none"),
        ] {
            let error = checked(&["--etcd-endpoints", bad]).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn a_missing_file_is_told_with_its_flag() {
        let error =
            checked(&["--etcd-endpoints", "https://a:1", "--etcd-cacert", "/no/such/ca.pem"]).unwrap_err();
        assert!(error.contains("/no/such/ca.pem") && error.contains("--etcd-cacert"), "{error}");
        let error = checked(&["--etcd-user", "u"]).unwrap_err();
        assert!(error.contains("--etcd-password-file"), "{error}");
    }
}
