//! What went wrong with etcd, told to who must act on it.

use std::fmt;
use std::time::Duration;

use etcd_client::Error;
use tonic::Code;

/// What a caller does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// No answer worth the name: try again, elsewhere. Everything is this but for the two below (a killed etcd
    /// ends streams with `Unknown`, a timed-out call with `Cancelled`).
    Unreachable,
    /// The lease (or the user, the role) that the call named does not exist.
    NotFound,
    /// etcd understood and said no: trying again as it is will not help, a person may.
    Refused,
    /// The answer is larger than we decode: ask for less at a time.
    TooLarge,
}

/// A call to etcd that failed.
#[derive(Clone, Debug)]
pub struct EtcdError {
    /// What was tried: completes "cannot …".
    pub what: &'static str,
    /// Where.
    pub endpoint: String,
    /// What to do about it.
    pub class: Class,
    /// What was seen.
    pub cause: String,
}

impl EtcdError {
    pub(crate) fn new(what: &'static str, endpoint: &str, error: &Error) -> Self {
        let (class, cause) = classify(error);
        Self { what, endpoint: endpoint.into(), class, cause }
    }

    pub(crate) fn silent(what: &'static str, endpoint: &str, max: Duration) -> Self {
        let cause = format!("no answer within {} s", max.as_secs());
        Self { what, endpoint: endpoint.into(), class: Class::Unreachable, cause }
    }
}

fn classify(error: &Error) -> (Class, String) {
    match error {
        Error::GRpcStatus(status) => {
            let message = status.message();
            // tonic's decoder says so with OutOfRange; there is no other sign.
            let too_large = status.code() == Code::OutOfRange && message.contains("decoded message length");
            let class = match status.code() {
                Code::OutOfRange if too_large => Class::TooLarge,
                Code::NotFound => Class::NotFound,
                Code::InvalidArgument
                | Code::PermissionDenied
                | Code::FailedPrecondition
                | Code::Unauthenticated
                | Code::Unimplemented => Class::Refused,
                _ => Class::Unreachable,
            };
            (class, with_sources(message, std::error::Error::source(status)))
        }
        Error::LeaseKeepAliveError(text) if text.contains("not found") => (Class::NotFound, text.clone()),
        Error::InvalidArgs(text) => (Class::Refused, text.clone()),
        Error::TransportError(error) => {
            (Class::Unreachable, with_sources(&error.to_string(), std::error::Error::source(error)))
        }
        other => (Class::Unreachable, other.to_string()),
    }
}

/// `text` and what caused it: tonic hides "connection refused" or "certificate expired" three sources deep.
fn with_sources(text: &str, mut source: Option<&(dyn std::error::Error + 'static)>) -> String {
    let mut whole = text.to_owned();
    for _ in 0..8 {
        let Some(error) = source else { break };
        let part = error.to_string();
        if !whole.contains(&part) {
            whole = format!("{whole}: {part}");
        }
        source = error.source();
    }
    whole
}

impl fmt::Display for EtcdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, endpoint, cause, .. } = self;
        write!(f, "cannot {what} etcd at {endpoint}: {cause}")?;
        match self.advice() {
            Some(advice) => write!(f, "\n  {advice}"),
            None => Ok(()),
        }
    }
}

impl EtcdError {
    /// What a person can do about it, where that can be told from what was seen.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        let seen = |part: &str| self.cause.to_ascii_lowercase().contains(part);
        Some(match self.class {
            _ if seen("certificate") || seen("tls") || seen("handshake") => {
                "check that --etcd-cacert is the CA of etcd's certificate, that the certificate names this host, and --etcd-cert/--etcd-key"
            }
            _ if seen("invalid user id or password") => {
                "check --etcd-user and the content of --etcd-password-file"
            }
            Class::Refused if seen("user name is empty") || seen("invalid auth token") => {
                "this etcd asks for a login: give --etcd-user and --etcd-password-file"
            }
            Class::Refused if seen("permission denied") => {
                "grant this user's role read and write under the key prefix (etcdctl role grant-permission)"
            }
            // With TLS 1.3 a server that refuses our certificate just closes, after the handshake; how that shows depends
            // on what was under way.
            Class::Unreachable
                if self.endpoint.starts_with("https")
                    && ["connection closed", "broken pipe", "reset", "canceled"].into_iter().any(seen) =>
            {
                "does etcd's --trusted-ca-file hold the CA of our certificate? Check --etcd-cert and --etcd-key"
            }
            Class::Unreachable => {
                "is etcd running there, and is --etcd-endpoints (LEASEHOLD_ETCD_ENDPOINTS) right? It is tried again by itself"
            }
            _ => return None,
        })
    }
}

impl std::error::Error for EtcdError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(code: Code, message: &str) -> Class {
        let status = tonic::Status::new(code, message);
        EtcdError::new("read", "http://e:2379", &Error::GRpcStatus(status)).class
    }

    #[test]
    fn everything_is_tried_again_but_for_a_deny_list() {
        for code in
            [Code::Unknown, Code::Cancelled, Code::Unavailable, Code::Internal, Code::DeadlineExceeded]
        {
            assert_eq!(class(code, "h2 protocol error"), Class::Unreachable, "{code:?}");
        }
        for code in
            [Code::InvalidArgument, Code::PermissionDenied, Code::FailedPrecondition, Code::Unimplemented]
        {
            assert_eq!(class(code, "no"), Class::Refused, "{code:?}");
        }
        assert_eq!(class(Code::NotFound, "etcdserver: requested lease not found"), Class::NotFound);
        assert_eq!(
            class(Code::OutOfRange, "Error, decoded message length too large: found 5 bytes"),
            Class::TooLarge
        );
        assert_eq!(
            class(Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision"),
            Class::Unreachable
        );
    }

    #[test]
    fn an_error_says_what_where_and_what_to_do() {
        let error = EtcdError::silent("list", "http://10.0.0.1:2379", Duration::from_secs(3));
        let text = error.to_string();
        assert!(
            text.starts_with(
                "cannot list etcd at http://10.0.0.1:2379: no answer within 3 s\n  is etcd running"
            ),
            "{text}"
        );
    }

    #[test]
    fn a_connection_that_breaks_after_the_handshake_points_at_our_certificate() {
        for cause in ["operation was canceled: connection closed", "stream closed because of a broken pipe"] {
            let (endpoint, class) = ("https://10.0.0.1:2379".to_owned(), Class::Unreachable);
            let error = EtcdError { what: "read", endpoint, class, cause: cause.into() };
            assert!(error.advice().is_some_and(|advice| advice.contains("--etcd-cert")), "{cause}");
        }
    }
}
