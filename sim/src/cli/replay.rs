//! `sim replay`: runs scripts.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::run::run;
use crate::script::Script;

/// Runs each script. Returns what to print, and whether no oracle was broken.
#[must_use]
pub fn replay(scripts: &[PathBuf], trace: bool) -> (String, bool) {
    let (mut text, mut holds) = (String::new(), true);
    for path in scripts {
        let read = std::fs::read_to_string(path).map_err(|error| error.to_string());
        let outcome = match read.and_then(|text| text.parse::<Script>()) {
            Ok(script) => run(&script, trace),
            Err(error) => {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "error: {}: {error}", path.display());
                holds = false;
                continue;
            }
        };
        for line in &outcome.trace {
            let _ = writeln!(text, "{line}");
        }
        let said = outcome.violation.as_ref().map_or_else(|| "holds".to_owned(), ToString::to_string);
        let _ = writeln!(text, "{}: {said}", path.display());
        holds &= outcome.violation.is_none();
    }
    (text, holds)
}
