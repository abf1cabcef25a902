//! Output. Without a reader the demo goes on: its end must not leave processes behind.

use std::fmt::Display;
use std::io::Write as _;

/// One line (or a text of several) to standard output.
pub(crate) fn say(text: impl Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// The same to standard error.
pub(crate) fn say_error(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
