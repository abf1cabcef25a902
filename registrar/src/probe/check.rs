//! What is tried to find out whether the app is healthy.

use std::fmt;
use std::str::FromStr;

use hyper::http::uri::PathAndQuery;

/// Longest path of an HTTP check, in bytes.
const PATH_LEN_MAX: usize = 1_024;

/// A check, as `--check` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// `http:/path`: a GET that is answered with a status of 200 to 399.
    Http(PathAndQuery),
    /// `tcp`: the port takes connections.
    Tcp,
    /// `none`: the app is taken for healthy from the start.
    None,
}

/// Text that names no check.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a check: write http:/PATH (for example http:/healthz), tcp or none")]
pub struct CheckError(String);

impl FromStr for Check {
    type Err = CheckError;

    fn from_str(text: &str) -> Result<Self, CheckError> {
        let error = || CheckError(text.chars().take(200).collect());
        match text {
            "tcp" => Ok(Self::Tcp),
            "none" => Ok(Self::None),
            _ => {
                let path = text.strip_prefix("http:").ok_or_else(error)?;
                let fits = path.starts_with('/') && path.len() <= PATH_LEN_MAX;
                let path = PathAndQuery::from_str(path).ok().filter(|_| fits).ok_or_else(error)?;
                Ok(Self::Http(path))
            }
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(path) => write!(f, "http:{path}"),
            Self::Tcp => f.write_str("tcp"),
            Self::None => f.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_read_and_written_the_same() {
        for text in ["tcp", "none", "http:/", "http:/healthz?deep=1"] {
            assert_eq!(text.parse::<Check>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_to_write() {
        let long = format!("http:/{}", "x".repeat(PATH_LEN_MAX));
        for bad in ["", "TCP", "http", "http:", "http:path", "http:/a b", "http://host/path\n", "grpc", &long]
        {
            let error = bad.parse::<Check>().unwrap_err();
            assert!(error.to_string().contains("write http:/PATH"), "{error}");
        }
    }
}
