//! The asking side: one Check, answered with an exit code as `grpc_health_probe` gives it.

use std::{fmt, path::PathBuf, pin::pin, time::Duration};

use clap::Args;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::v1::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

/// What a probe found. Its text is one line for people; its code is the process's.
#[derive(Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// The service does its work.
    Serving,
    /// Nothing was asked: the arguments are wrong.
    BadArguments(String),
    /// Nothing answers at the address.
    ConnectFailed(String),
    /// The server is there and did not answer the question: an error (an unknown service among them), or too late.
    RpcFailed(String),
    /// The server answered, with anything but SERVING.
    NotServing(String),
}

impl ProbeOutcome {
    /// The exit code, as `grpc_health_probe` has it.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Serving => 0,
            Self::BadArguments(_) => 1,
            Self::ConnectFailed(_) => 2,
            Self::RpcFailed(_) => 3,
            Self::NotServing(_) => 4,
        }
    }
}

impl fmt::Display for ProbeOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serving => f.write_str("status: SERVING"),
            Self::NotServing(status) => write!(f, "status: {status}"),
            Self::BadArguments(why) | Self::ConnectFailed(why) | Self::RpcFailed(why) => {
                write!(f, "error: {why}")
            }
        }
    }
}

/// How a probe speaks TLS; plain text without a CA.
#[derive(Args, Clone, Debug, Default)]
pub struct ProbeTlsOptions {
    /// Speak TLS, and trust this CA (PEM).
    #[arg(long, env = "LEASEHOLD_PROBE_CACERT", value_name = "FILE")]
    pub cacert: Option<PathBuf>,
    /// Our own certificate (PEM), for a port that asks for one.
    #[arg(long, env = "LEASEHOLD_PROBE_CERT", value_name = "FILE", requires_all = ["key", "cacert"])]
    pub cert: Option<PathBuf>,
    /// Its key (PEM).
    #[arg(long, env = "LEASEHOLD_PROBE_KEY", value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// The name that the server's certificate is to have, if that is not what is connected to.
    #[arg(long, value_name = "NAME", requires = "cacert")]
    pub server_name: Option<String>,
}

impl ProbeTlsOptions {
    fn config(&self) -> Result<Option<ClientTlsConfig>, String> {
        let Some(cacert) = &self.cacert else { return Ok(None) };
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
        };
        let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(cacert)?));
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            config = config.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        if let Some(name) = &self.server_name {
            config = config.domain_name(name);
        }
        Ok(Some(config))
    }
}

/// Asks the server at `addr` (`host:port`) for the health of `service` (`""`: the server as a whole). Connecting and
/// asking together take at most `timeout`.
pub async fn probe(addr: &str, service: &str, timeout: Duration, tls: &ProbeTlsOptions) -> ProbeOutcome {
    let endpoint = match endpoint(addr, timeout).and_then(|endpoint| secured(endpoint, addr, tls)) {
        Ok(endpoint) => endpoint,
        Err(why) => return ProbeOutcome::BadArguments(why),
    };
    let mut deadline = pin!(tokio::time::sleep(timeout));
    let channel = tokio::select! {
        connected = endpoint.connect() => match connected {
            Ok(channel) => channel,
            Err(error) => return ProbeOutcome::ConnectFailed(format!("cannot connect to {addr}: {}", causes(&error))),
        },
        () = &mut deadline => {
            return ProbeOutcome::ConnectFailed(format!("cannot connect to {addr}: no answer within {timeout:?}"));
        }
    };
    tokio::select! {
        outcome = check(channel, addr, service) => outcome,
        () = &mut deadline => {
            ProbeOutcome::RpcFailed(format!("{addr} took the connection and did not answer within {timeout:?}"))
        }
    }
}

async fn check(channel: Channel, addr: &str, service: &str) -> ProbeOutcome {
    let request = HealthCheckRequest { service: service.to_owned() };
    match HealthClient::new(channel).check(request).await {
        Ok(answer) => match answer.into_inner().status() {
            ServingStatus::Serving => ProbeOutcome::Serving,
            other => ProbeOutcome::NotServing(other.as_str_name().to_owned()),
        },
        Err(status) if status.code() == tonic::Code::Unimplemented => {
            ProbeOutcome::RpcFailed(format!("{addr} does not serve grpc.health.v1.Health"))
        }
        Err(status) => {
            ProbeOutcome::RpcFailed(format!("{addr} answered {:?}: {}", status.code(), status.message()))
        }
    }
}

fn endpoint(addr: &str, timeout: Duration) -> Result<Endpoint, String> {
    let wrong = || format!("`{addr}` is not an address; give HOST:PORT, for IPv6 [HOST]:PORT");
    let (host, port) = addr.rsplit_once(':').ok_or_else(wrong)?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let port_is_good = port.parse::<u16>().is_ok_and(|port| port != 0);
    if host.is_empty() || !port_is_good || host.contains(['/', '@']) || (host.contains(':') && !bracketed) {
        return Err(wrong());
    }
    if timeout.is_zero() {
        return Err("the timeout must be longer than 0".to_owned());
    }
    Endpoint::from_shared(format!("http://{addr}")).map_err(|_| wrong())
}

fn secured(endpoint: Endpoint, addr: &str, tls: &ProbeTlsOptions) -> Result<Endpoint, String> {
    let Some(config) = tls.config()? else { return Ok(endpoint) };
    let endpoint = Endpoint::from_shared(format!("https://{addr}")).map_err(|error| causes(&error))?;
    endpoint.tls_config(config).map_err(|error| format!("--cacert, --cert or --key: {}", causes(&error)))
}

/// An error with what is behind it: tonic's own text is only "transport error".
fn causes(error: &dyn std::error::Error) -> String {
    let innermost = std::iter::successors(Some(error), |error| error.source()).last();
    innermost.map_or_else(String::new, ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_host_and_port_are_taken() {
        for good in ["127.0.0.1:7101", "localhost:7100", "[::1]:7100", "web.example:1"] {
            assert!(endpoint(good, Duration::from_secs(1)).is_ok(), "{good}");
        }
        let bad = ["", ":", "host", "host:", ":80", "host:0", "host:65536", "::1:7100", "http://host:80"];
        for bad in bad.into_iter().chain(["host:80/", "me@host:80", "a b:80"]) {
            let why = endpoint(bad, Duration::from_secs(1)).err();
            assert!(why.is_some_and(|why| why.contains("HOST:PORT")), "{bad}");
        }
    }

    #[test]
    fn a_timeout_of_nothing_is_refused() {
        assert!(endpoint("localhost:1", Duration::ZERO).is_err());
    }
}
