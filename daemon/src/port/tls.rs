//! TLS on the port, where the administrator wants it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use clap::Args;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

use super::listener::{Bounded, Held};

/// Longest that a handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Connections whose handshake is over and that wait to be served.
const READY_MAX: usize = 16;

/// How the port speaks TLS; plain text without a certificate.
#[derive(Args, Clone, Debug, Default)]
pub struct PortTlsOptions {
    /// Speak TLS on the port, with this certificate and its chain (PEM).
    #[arg(long, env = "LEASEHOLD_LISTEN_CERT", value_name = "FILE", requires = "listen_key")]
    pub listen_cert: Option<PathBuf>,
    /// The certificate's key (PEM).
    #[arg(long, env = "LEASEHOLD_LISTEN_KEY", value_name = "FILE", requires = "listen_cert")]
    pub listen_key: Option<PathBuf>,
    /// Take only clients with a certificate of this CA (PEM).
    #[arg(long, env = "LEASEHOLD_LISTEN_CLIENT_CA", value_name = "FILE", requires = "listen_cert")]
    pub listen_client_ca: Option<PathBuf>,
}

/// A certificate, a key or a CA that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot speak TLS on the port: {flag} {}: {cause}\n  it is to be a PEM file that this user may read", .file.display())]
pub struct TlsError {
    flag: &'static str,
    file: PathBuf,
    cause: String,
}

/// What the port needs to speak TLS.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A key is nothing for a log.
        f.write_str("Tls(..)")
    }
}

impl PortTlsOptions {
    /// Reads the files; `None` without a certificate.
    pub fn checked(&self) -> Result<Option<Tls>, TlsError> {
        let (Some(cert), Some(key)) = (&self.listen_cert, &self.listen_key) else {
            return Ok(None);
        };
        let provider = Arc::new(ring::default_provider());
        let chain = certificates("--listen-cert", cert)?;
        let private =
            PrivateKeyDer::from_pem_file(key).map_err(|error| refused("--listen-key", key, &error))?;
        let versions =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = versions.map_err(|error| refused("--listen-cert", cert, &error))?;
        let builder = match &self.listen_client_ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let failed = |error: &dyn fmt::Display| refused("--listen-client-ca", ca, error);
                let mut roots = RootCertStore::empty();
                for root in certificates("--listen-client-ca", ca)? {
                    roots.add(root).map_err(|error| failed(&error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| failed(&error))?)
            }
        };
        let config = builder.with_single_cert(chain, private);
        let mut config = config.map_err(|error: rustls::Error| refused("--listen-key", key, &error))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Some(Tls(TlsAcceptor::from(Arc::new(config)))))
    }
}

fn certificates(flag: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = read.map_err(|error| refused(flag, file, &error))?;
    if chain.is_empty() {
        return Err(refused(flag, file, &"there is no certificate in it"));
    }
    Ok(chain)
}

fn refused(flag: &'static str, file: &Path, cause: &dyn fmt::Display) -> TlsError {
    TlsError { flag, file: file.to_owned(), cause: cause.to_string() }
}

/// Takes connections and shakes hands with many at once: a slow client does not hold up others.
pub(super) struct Secure {
    inner: Bounded,
    tls: TlsAcceptor,
    tell: mpsc::Sender<(TlsStream<Held>, SocketAddr)>,
    ready: mpsc::Receiver<(TlsStream<Held>, SocketAddr)>,
}

impl Secure {
    pub(super) fn new(inner: Bounded, Tls(tls): Tls) -> Self {
        let (tell, ready) = mpsc::channel(READY_MAX);
        Self { inner, tls, tell, ready }
    }
}

impl Listener for Secure {
    type Io = TlsStream<Held>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TlsStream<Held>, SocketAddr) {
        loop {
            tokio::select! {
                Some(ready) = self.ready.recv() => return ready,
                (held, peer) = self.inner.accept() => {
                    let (shaking, tell) = (self.tls.accept(held), self.tell.clone());
                    tokio::spawn(async move {
                        // Who does not speak TLS, or has no certificate of ours, is let go.
                        if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_MAX, shaking).await {
                            let _ = tell.send((stream, peer)).await;
                        }
                    });
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}
