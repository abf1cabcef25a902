//! Words that several commands use.

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
