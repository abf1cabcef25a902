//! The beginning of a text that someone else wrote, safe to log.

use std::fmt;

/// At most [`Excerpt::MAX`] characters of a text, its control characters replaced by spaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt(String);

impl Excerpt {
    /// Longest excerpt, in characters: HAProxy's longest error in one line is about this long.
    pub const MAX: usize = 200;

    /// How `text` begins.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        let text = text.trim();
        let mut short: String = text.chars().take(Self::MAX).map(plain).collect();
        if text.chars().nth(Self::MAX).is_some() {
            short.push('…');
        }
        Self(short)
    }

    /// The text; empty if there was none.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "(nothing)" } else { &self.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_one_short_line() {
        assert_eq!(Excerpt::of("\n one\ntwo\x1b[0m \n").to_string(), "one two [0m");
        assert_eq!(Excerpt::of(&"é".repeat(300)).to_string().chars().count(), Excerpt::MAX + 1);
        assert_eq!(Excerpt::of(" \n").to_string(), "(nothing)");
    }
}
