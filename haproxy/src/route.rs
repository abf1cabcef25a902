//! A route: a host, a path, or both, as a key of the map by which frontends choose a backend.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest route, in bytes: a host name has 253 at most.
const LEN_MAX: usize = 400;

/// `shop.example/`, `shop.example/api/` or `/api/`: what a request's host and path, with a `/` after it, begin with.
///
/// The `/` at the end is what keeps `/api` from matching `/apix`, and `shop.example` from matching `shop.example.org`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route(Arc<str>);

/// Why a text is no route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a route is a host, a path, or a host and a path (`shop.example`, `/api`, `shop.example/api`), of the characters \
     A-Z a-z 0-9 . _ ~ - and / for paths, a-z 0-9 . - for hosts, at most {LEN_MAX} in all"
)]
pub struct IllegalRoute;

impl FromStr for Route {
    type Err = IllegalRoute;

    fn from_str(text: &str) -> Result<Self, IllegalRoute> {
        let (host, path) = text.split_at(text.find('/').unwrap_or(text.len()));
        let host = host.to_ascii_lowercase();
        let of_host = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
        let of_path = |byte: u8| byte.is_ascii_alphanumeric() || b"/._~-".contains(&byte);
        let legal = host.bytes().all(of_host)
            && !host.starts_with(['.', '-'])
            && path.bytes().all(of_path)
            && !path.contains("//")
            && text.len() < LEN_MAX
            && !text.is_empty();
        let path = path.trim_end_matches('/');
        if legal { Ok(Self(format!("{host}{path}/").into())) } else { Err(IllegalRoute) }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_ends_with_a_slash_and_can_be_nothing_but_a_key() {
        let parse = |text: &str| text.parse::<Route>().map(|route| route.to_string());
        for (text, key) in [
            ("shop.example", "shop.example/"),
            ("Shop.Example/", "shop.example/"),
            ("shop.example/API/v1", "shop.example/API/v1/"),
            ("/api/", "/api/"),
            ("/", "/"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(key), "{text}");
            assert_eq!(parse(key).as_deref(), Ok(key), "{key} is itself");
        }
        let long = "a".repeat(LEN_MAX);
        for bad in
            ["", "a b", "a;b", "a\nb", "*.example", "#x", "a//b", ".x", "-x", "/%2e", "a:80", "/ä", &long]
        {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
