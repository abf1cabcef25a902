//! Durations on the command line and in configuration files.

use std::time::Duration;

/// Reads a number with its unit: `500ms`, `10s`, `2m 30s`. The error says how to write one.
pub fn parse(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "write a number and its unit, for example 500ms, 10s or 2m".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_needs_a_unit() {
        assert_eq!(parse("2m 30s"), Ok(Duration::from_secs(150)));
        for bad in ["", "10", "s", "-1s", "10 parsecs"] {
            assert!(parse(bad).unwrap_err().starts_with("write a number and its unit"), "{bad:?}");
        }
    }
}
