//! What HAProxy's own checks ask an instance.

use std::fmt;
use std::str::FromStr;

/// What HAProxy's checks ask: nothing that could be anything but a method and a path comes out of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpCheck(Option<String>);

impl HttpCheck {
    /// `GET /`; `None` for a connection only.
    #[must_use]
    pub fn request(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl FromStr for HttpCheck {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        /// Longest path taken, in bytes.
        const PATH_MAX: usize = 256;
        if text == "tcp" {
            return Ok(Self(None));
        }
        let (method, path) = text.split_once(' ').unwrap_or(("GET", text));
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"/_.~-?=&+:@,".contains(&byte);
        let method_ok = ["GET", "HEAD", "OPTIONS"].contains(&method);
        if method_ok && path.starts_with('/') && path.len() <= PATH_MAX && path.bytes().all(legal) {
            Ok(Self(Some(format!("{method} {path}"))))
        } else {
            Err("write GET, HEAD or OPTIONS and a path, for example `GET /health`; or tcp".into())
        }
    }
}

impl fmt::Display for HttpCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.request().unwrap_or("tcp"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_s_request_is_a_method_and_a_path() {
        let parse = |text: &str| text.parse::<HttpCheck>();
        assert_eq!(parse("HEAD /up?a=1").unwrap().request(), Some("HEAD /up?a=1"));
        assert_eq!(parse("/health").unwrap().to_string(), "GET /health");
        assert_eq!(parse("tcp").unwrap().request(), None);
        for bad in
            ["", "GET", "DELETE /", "GET / x", "GET /\nserver x", "GET /%[env(A)]", "GET /\"", "GET /#"]
        {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
