//! What is tried to find out whether the app is healthy.

use std::fmt;
use std::str::FromStr;

use hyper::http::uri::PathAndQuery;

/// Longest name of a gRPC service, and longest command, in bytes.
const SERVICE_LEN_MAX: usize = 256;
const SCRIPT_LEN_MAX: usize = 4_096;
/// Longest path of an HTTP check, in bytes.
const PATH_LEN_MAX: usize = 1_024;

/// A check, as `--check` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// `http:/path`, `https:/path`: a GET that is answered as [`super::Expected`].
    Http {
        /// What is asked for.
        path: PathAndQuery,
        /// Over TLS.
        tls: bool,
    },
    /// `tcp`: the port takes connections.
    Tcp,
    /// `grpc`, `grpc:SERVICE`, and `grpcs` over TLS: the standard health service answers SERVING for that name, or for the
    /// whole.
    Grpc {
        /// The name; empty for the whole.
        service: String,
        /// Over TLS.
        tls: bool,
    },
    /// `exec:COMMAND`: a shell runs it, and it ends with 0.
    Exec(String),
    /// `none`: the app is taken for healthy from the start.
    None,
}

/// Text that names no check.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a check: write http:/PATH (for example http:/healthz), https:/PATH, tcp, grpc, grpc:SERVICE, grpcs, grpcs:SERVICE, exec:COMMAND or none"
)]
pub struct CheckError(String);

impl FromStr for Check {
    type Err = CheckError;

    fn from_str(text: &str) -> Result<Self, CheckError> {
        let error = || CheckError(text.chars().take(200).collect());
        match text {
            "tcp" => Ok(Self::Tcp),
            "none" => Ok(Self::None),
            "grpc" | "grpcs" => Ok(Self::Grpc { service: String::new(), tls: text == "grpcs" }),
            _ if text.starts_with("grpc") => grpc(text).ok_or_else(error),
            _ if text.starts_with("exec:") => exec(text).ok_or_else(error),
            _ => {
                let (scheme, path) = text.split_once(':').ok_or_else(error)?;
                if !matches!(scheme, "http" | "https") {
                    return Err(error());
                }
                let fits = path.starts_with('/') && path.len() <= PATH_LEN_MAX;
                let path = PathAndQuery::from_str(path).ok().filter(|_| fits).ok_or_else(error)?;
                Ok(Self::Http { path, tls: scheme == "https" })
            }
        }
    }
}

/// Health names are printed in logs, and sent as they are.
fn grpc(text: &str) -> Option<Check> {
    let (scheme, service) = text.split_once(':')?;
    let tls = scheme == "grpcs";
    let legal = |c: char| c.is_ascii_graphic();
    let fits = !service.is_empty() && service.len() <= SERVICE_LEN_MAX && service.chars().all(legal);
    (fits && (tls || scheme == "grpc")).then(|| Check::Grpc { service: service.to_owned(), tls })
}

fn exec(text: &str) -> Option<Check> {
    let script = text.strip_prefix("exec:")?;
    let fits = !script.trim().is_empty() && script.len() <= SCRIPT_LEN_MAX && !script.contains('\0');
    fits.then(|| Check::Exec(script.to_owned()))
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { path, tls } => write!(f, "{}:{path}", if *tls { "https" } else { "http" }),
            Self::Tcp => f.write_str("tcp"),
            Self::Grpc { service, tls } => {
                f.write_str(if *tls { "grpcs" } else { "grpc" })?;
                if service.is_empty() { Ok(()) } else { write!(f, ":{service}") }
            }
            Self::Exec(script) => write!(f, "exec:{script}"),
            Self::None => f.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_read_and_written_the_same() {
        for text in [
            "tcp",
            "none",
            "http:/",
            "http:/healthz?deep=1",
            "grpc",
            "https:/healthz",
            "grpc:my.Service",
            "grpcs",
            "grpcs:x",
            "exec:test -e /run/ok",
        ] {
            assert_eq!(text.parse::<Check>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_to_write() {
        let long = format!("http:/{}", "x".repeat(PATH_LEN_MAX));
        for bad in [
            "",
            "TCP",
            "http",
            "http:",
            "http:path",
            "http:/a b",
            "http://host/path\n",
            "grpc:",
            "grpcx:a",
            "ftp:/a",
            "grpc:a b",
            "exec:",
            "exec: ",
            &long,
        ] {
            let error = bad.parse::<Check>().unwrap_err();
            assert!(error.to_string().contains("write http:/PATH"), "{error}");
        }
    }
}
