//! Words that several commands use.

use crate::plan::{Step, Why};

/// Why a step is made, for people.
pub(crate) fn why(step: &Step) -> &'static str {
    match step.why {
        Why::Up => "registered and up",
        Why::Down => "says that it is unhealthy",
        Why::Leaving => "leaving, or drained by an operator",
        Why::Maintenance => "taken out by an operator",
        Why::Gone => "not registered, or its address is another's",
        Why::Suspect => "expired with much of its service, and that is not believed yet",
        Why::SuspectDown => "expired, and HAProxy's own check of it fails",
        Why::TimeUp => "had its time to finish",
    }
}

/// The same, for machines.
pub(super) fn why_code(step: &Step) -> &'static str {
    match step.why {
        Why::Up => "up",
        Why::Down => "down",
        Why::Leaving => "leaving",
        Why::Maintenance => "maintenance",
        Why::Gone => "gone",
        Why::Suspect => "suspect",
        Why::SuspectDown => "suspect_down",
        Why::TimeUp => "time_up",
    }
}

/// The lines for HAProxy's socket.
pub(crate) fn lines(step: &Step) -> Vec<String> {
    step.commands.iter().map(ToString::to_string).collect()
}

/// `1 instance`, `2 instances`.
pub(super) fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// Names in a row, the first ten of them.
pub(super) fn row<T: ToString>(names: impl ExactSizeIterator<Item = T>) -> String {
    const SHOWN_MAX: usize = 10;
    let rest = names.len().saturating_sub(SHOWN_MAX);
    let shown: Vec<String> = names.take(SHOWN_MAX).map(|name| name.to_string()).collect();
    let shown = shown.join(", ");
    if rest == 0 { shown } else { format!("{shown} and {rest} more") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_names_is_bounded() {
        assert_eq!(row(["a", "b"].into_iter()), "a, b");
        let many: Vec<usize> = (0..1_000).collect();
        assert_eq!(row(many.iter()), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 990 more");
        assert_eq!(count(1, "step", "steps"), "1 step");
    }
}
