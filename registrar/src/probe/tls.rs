//! TLS for checks of an app that is usually on this host.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// The CA or the name cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot check over TLS: {0}\n  --check-cacert is to be a PEM file that this user may read, --check-name the name in the app's certificate"
)]
pub struct CheckTlsError(String);

/// How checks use TLS, as values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckTlsOptions {
    /// The file of the CA (PEM). `None`: every certificate is accepted.
    pub cacert: Option<PathBuf>,
    /// The name in the app's certificate. `None`: its address.
    pub name: Option<String>,
}

/// TLS for checks, ready to connect.
#[derive(Clone)]
pub struct CheckTls {
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
    /// The file of the CA, for the gRPC check.
    pub(super) cacert: Option<PathBuf>,
}

impl fmt::Debug for CheckTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckTls")
            .field("name", &self.name)
            .field("cacert", &self.cacert)
            .finish_non_exhaustive()
    }
}

impl CheckTls {
    /// Reads the CA. Without one the app's certificate is not verified: a check sends nothing that is secret.
    pub fn open(options: &CheckTlsOptions) -> Result<Self, CheckTlsError> {
        let failed = |error: &dyn fmt::Display| CheckTlsError(error.to_string());
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?;
        let config = match &options.cacert {
            None => builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))),
            Some(path) => {
                let failed = |error: &dyn fmt::Display| CheckTlsError(format!("{}: {error}", path.display()));
                let mut roots = RootCertStore::empty();
                for root in CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))? {
                    roots.add(root.map_err(|error| failed(&error))?).map_err(|error| failed(&error))?;
                }
                if roots.is_empty() {
                    return Err(failed(&"holds no certificate"));
                }
                builder.with_root_certificates(roots)
            }
        };
        let name = options.name.as_ref().map(|name| ServerName::try_from(name.clone())).transpose();
        Ok(Self {
            config: Arc::new(config.with_no_client_auth()),
            name: name.map_err(|error| failed(&error))?,
            cacert: options.cacert.clone(),
        })
    }

    /// Starts TLS on `stream`.
    pub(super) async fn connect(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, String> {
        let target = stream.peer_addr().map_err(|error| error.to_string())?;
        let name = self.name.clone().unwrap_or_else(|| ServerName::IpAddress(target.ip().into()));
        let connecting = TlsConnector::from(Arc::clone(&self.config)).connect(name, stream);
        connecting.await.map_err(|error| format!("no TLS with {target}: {error}"))
    }

    /// The name in the app's certificate. `None`: its address.
    pub(super) fn name(&self) -> Option<String> {
        self.name.as_ref().map(|name| name.to_str().into_owned())
    }
}

/// Accepts every certificate. Signatures made with it are verified.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
