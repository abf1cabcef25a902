//! Output.

use std::fmt::Display;
use std::io::Write as _;

/// One line (or a text of several) to standard output. Without a reader nothing is lost.
pub(crate) fn say(text: impl Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// The same to standard error.
pub(crate) fn say_error(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
