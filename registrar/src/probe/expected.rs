//! What an HTTP check expects of an answer.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};

/// Longest text that may be looked for in a body, in bytes.
const TEXT_LEN_MAX: usize = 1_024;

/// Statuses that pass, as `--check-status` names them: `200`, `200-299`, or several with commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses(Vec<RangeInclusive<u16>>);

/// A header, as `--check-header` names it: `NAME: VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its name.
    pub name: HeaderName,
    /// Its value.
    pub value: HeaderValue,
}

/// A text that the body must hold, as `--check-body` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyText(String);

/// What is sent and expected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Statuses that pass.
    pub statuses: Statuses,
    /// Sent with the request; a `Host` among them replaces ours.
    pub headers: Vec<Header>,
    /// In the first 64 KiB of the body.
    pub body: Option<BodyText>,
}

/// Text that is no range of statuses, no header, or no text for a body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpectedError {
    /// No range of statuses.
    #[error("{0:?} names no statuses: write for example 200, 200-299 or 200,301-302")]
    Statuses(String),
    /// No header.
    #[error("{0:?} is not a header: write NAME: VALUE, for example Host: example.com")]
    Header(String),
    /// No text for a body.
    #[error("a text to look for has 1 to {TEXT_LEN_MAX} bytes")]
    Body,
}

impl Statuses {
    /// Whether `status` passes.
    #[must_use]
    pub fn holds(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

impl Default for Statuses {
    fn default() -> Self {
        Self(vec![200..=399])
    }
}

impl FromStr for Statuses {
    type Err = ExpectedError;

    fn from_str(text: &str) -> Result<Self, ExpectedError> {
        let status = |text: &str| text.parse().ok().filter(|status| (100..=599).contains(status));
        let range = |text: &str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let (first, last) = (status(first)?, status(last)?);
            (first <= last).then_some(first..=last)
        };
        let ranges: Option<Vec<_>> = text.split(',').map(|part| range(part.trim())).collect();
        ranges.map(Self).ok_or_else(|| ExpectedError::Statuses(text.chars().take(80).collect()))
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, range) in self.0.iter().enumerate() {
            f.write_str(if n == 0 { "" } else { "," })?;
            match (range.start(), range.end()) {
                (first, last) if first == last => write!(f, "{first}")?,
                (first, last) => write!(f, "{first}-{last}")?,
            }
        }
        Ok(())
    }
}

impl FromStr for Header {
    type Err = ExpectedError;

    fn from_str(text: &str) -> Result<Self, ExpectedError> {
        let parts = text.split_once(':').and_then(|(name, value)| {
            Some(Self { name: name.trim().parse().ok()?, value: value.trim().parse().ok()? })
        });
        parts.ok_or_else(|| ExpectedError::Header(text.chars().take(80).collect()))
    }
}

impl FromStr for BodyText {
    type Err = ExpectedError;

    fn from_str(text: &str) -> Result<Self, ExpectedError> {
        let fits = (1..=TEXT_LEN_MAX).contains(&text.len());
        if fits { Ok(Self(text.to_owned())) } else { Err(ExpectedError::Body) }
    }
}

impl Expected {
    /// The headers, as they are sent.
    #[must_use]
    pub fn header_map(&self) -> HeaderMap {
        self.headers.iter().map(|header| (header.name.clone(), header.value.clone())).collect()
    }

    /// Whether an answer passes; if not, why.
    pub fn judge(&self, asked: &str, status: u16, body: &[u8]) -> Result<(), String> {
        if !self.statuses.holds(status) {
            return Err(format!("{asked} answered {status}, not {}", self.statuses));
        }
        match &self.body {
            Some(BodyText(text)) if !body.windows(text.len()).any(|part| part == text.as_bytes()) => {
                Err(format!("{asked} answered {status} without {text:?} in its body"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_and_written_the_same() {
        for text in ["200", "200-299", "200,301-302"] {
            assert_eq!(text.parse::<Statuses>().unwrap().to_string(), text);
        }
        let some: Statuses = "200, 301-302".parse().unwrap();
        assert!(some.holds(302) && !some.holds(303) && !some.holds(201));
        for bad in ["", "2xx", "99", "600", "300-200", "200,,201"] {
            assert!(bad.parse::<Statuses>().unwrap_err().to_string().contains("200-299"), "{bad}");
        }
    }

    #[test]
    fn headers_are_read() {
        let header: Header = "Host: example.com".parse().unwrap();
        assert_eq!((header.name.as_str(), header.value.to_str().unwrap()), ("host", "example.com"));
        for bad in ["", "Host", "a b: c", "x: \n"] {
            let error = bad.parse::<Header>();
            assert!(error.is_err() || bad == "x: \n", "{bad}");
        }
    }

    #[test]
    fn an_answer_is_judged_by_status_then_by_body() {
        let expected = Expected { body: Some("\"ok\"".parse().unwrap()), ..Expected::default() };
        assert_eq!(expected.judge("GET /", 200, b"{\"state\":\"ok\"}"), Ok(()));
        assert_eq!(expected.judge("GET /", 500, b"\"ok\"").unwrap_err(), "GET / answered 500, not 200-399");
        let error = expected.judge("GET /", 200, b"starting").unwrap_err();
        assert_eq!(error, "GET / answered 200 without \"\\\"ok\\\"\" in its body");
        assert!("".parse::<BodyText>().is_err());
    }
}
