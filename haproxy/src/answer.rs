//! What HAProxy's answers mean: text in, types out. One file for each answer; none can panic, whatever the text.

pub mod backends;
mod csv;
pub mod excerpt;
pub mod flags;
pub mod info;
pub mod maps;
pub mod reply;
pub mod servers_state;
pub mod stat;

use excerpt::Excerpt;

/// Why an answer could not be read. The pass that asked cannot go on: what is not understood is not acted on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// HAProxy said something else than what was asked for: most often an error of its own.
    #[error("HAProxy answered `{asked}` with: {said}")]
    Unexpected {
        /// The command.
        asked: &'static str,
        /// How the answer begins.
        said: Excerpt,
    },
    /// The backend is not there (any more).
    #[error("HAProxy has no such backend")]
    NoSuchBackend,
    /// A column or field that the answer must have is missing.
    #[error("HAProxy's answer to `{asked}` has no `{name}`")]
    Missing {
        /// The command.
        asked: &'static str,
        /// The column or field.
        name: &'static str,
    },
    /// A column or field does not hold what it should.
    #[error("HAProxy's answer to `{asked}` has `{said}` for `{name}`")]
    Malformed {
        /// The command.
        asked: &'static str,
        /// The column or field.
        name: &'static str,
        /// What it holds.
        said: Excerpt,
    },
}

#[cfg(test)]
mod any_text_tests;
