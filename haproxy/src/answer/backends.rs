//! `show backend`: which backends HAProxy has. Nothing else lists one that has no server yet.

use super::AnswerError;
use super::excerpt::Excerpt;
use crate::BackendName;

/// HAProxy's backends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Backends {
    /// Their names, in HAProxy's order.
    pub names: Vec<BackendName>,
    /// How many have a name that cannot be a service's, and so are nothing to lb-sync.
    pub skipped: usize,
}

impl Backends {
    /// Reads the answer to `show backend`.
    pub fn parse(text: &str) -> Result<Self, AnswerError> {
        let mut lines = text.lines().skip_while(|line| line.is_empty());
        if lines.next().is_none_or(|header| header.trim_end() != "# name") {
            return Err(AnswerError::Unexpected { asked: "show backend", said: Excerpt::of(text) });
        }
        let mut backends = Self::default();
        for line in lines.filter(|line| !line.is_empty()) {
            match line.parse() {
                Ok(name) => backends.names.push(name),
                Err(_) => backends.skipped += 1,
            }
        }
        Ok(backends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    #[test]
    fn every_backend_is_listed_with_or_without_servers() {
        for (version, text) in fixtures::every("show-backend") {
            let backends = Backends::parse(&text).unwrap();
            let names: Vec<_> = backends.names.iter().map(AsRef::as_ref).collect();
            assert_eq!(names, ["web", "api", "empty"], "{version}");
            assert_eq!(backends.skipped, 0);
        }
    }

    #[test]
    fn an_illegal_name_costs_only_itself() {
        let read = Backends::parse("# name\nweb\n<odd one>\napi\n\n").unwrap();
        assert_eq!((read.names.len(), read.skipped), (2, 1));
        assert!(Backends::parse("Permission denied\n").is_err());
        assert!(Backends::parse("").is_err());
    }
}
