//! Times in a table, with the ratio beside them.

use std::fmt::{self, Write as _};
use std::time::Duration;

use serde_json::{Map, Value};

/// What one way took, once for each round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<Duration>);

/// Columns: their names and which share of the times each one's figure is not exceeded by, in percent.
const COLUMNS: [(&str, usize); 4] = [("min", 0), ("median", 50), ("p99", 99), ("max", 100)];

impl Times {
    /// Takes in one more.
    pub(crate) fn push(&mut self, time: Duration) {
        self.0.push(time);
        // A few hundred: kept in order as they come.
        self.0.sort_unstable();
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Half of them were not longer.
    pub(crate) fn median_ms(&self) -> f64 {
        self.ms(50)
    }

    /// For programs, in milliseconds: all of them, too.
    pub(crate) fn json(&self) -> Value {
        let mut columns: Map<String, Value> =
            COLUMNS.iter().map(|(name, percent)| ((*name).to_owned(), self.ms(*percent).into())).collect();
        let all: Vec<f64> = self.0.iter().map(|time| 1_000.0 * time.as_secs_f64()).collect();
        columns.insert("all".into(), all.into());
        Value::Object(columns)
    }

    /// How many times those of `other` they are, by column; none where that is nothing.
    pub(crate) fn ratios(&self, other: &Self) -> Value {
        let ratio = |percent: usize| self.ms(percent) / other.ms(percent);
        let columns = COLUMNS.iter().map(|(name, percent)| ((*name).to_owned(), ratio(*percent)));
        Value::Object(columns.filter(|(_, it)| it.is_finite()).map(|(name, it)| (name, it.into())).collect())
    }

    fn ms(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).map_or(f64::NAN, |time| time.as_secs_f64() * 1_000.0)
    }
}

/// Rows of a table under construction.
#[derive(Clone, Debug)]
pub(crate) struct Rows(String);

impl Rows {
    /// Begins with a title and the names of the columns.
    pub(crate) fn new(title: &str, columns: &[&str]) -> Self {
        let mut rows = Self(String::new());
        rows.push(title, columns.iter().copied());
        rows
    }

    /// Adds a row.
    pub(crate) fn push(&mut self, name: &str, cells: impl IntoIterator<Item = impl AsRef<str>>) {
        let _ = write!(self.0, "{name:<40}");
        for cell in cells {
            let _ = write!(self.0, "{:>16}", cell.as_ref());
        }
        self.0.push('\n');
    }
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.trim_end())
    }
}

/// Milliseconds as a cell.
pub(crate) fn ms(ms: f64) -> String {
    format!("{ms:.2} ms")
}

/// How many times `limit` `ours` is, as a cell; nothing to be a multiple of is a dash.
pub(crate) fn ratio(ours: f64, limit: f64) -> String {
    let ratio = ours / limit;
    if ratio.is_finite() { format!("{ratio:.2}×") } else { "–".into() }
}

/// A line of one way.
pub(crate) fn one(title: &str, times: &Times) -> String {
    let mut text = format!("{title:<28}");
    for (column, percent) in COLUMNS {
        // Writing to a String cannot fail.
        let _ = write!(text, "  {column} {}", ms(times.ms(percent)));
    }
    text
}

/// A table of two ways and their ratio.
pub(crate) fn of(title: &str, ours: (&str, &Times), limit: (&str, &Times)) -> String {
    let mut text = format!("{title:<28}");
    // Writing to a String cannot fail.
    for (column, _) in COLUMNS {
        let _ = write!(text, "{column:>10}");
    }
    for (name, times) in [ours, limit] {
        let _ = write!(text, "\n  {name:<26}");
        for (_, percent) in COLUMNS {
            let _ = write!(text, "{:>7.2} ms", times.ms(percent));
        }
    }
    let _ = write!(text, "\n  {:<26}", "ratio");
    for (_, percent) in COLUMNS {
        // No request may have come any more after the wish was sent.
        let _ = write!(text, "{:>10}", ratio(ours.1.ms(percent), limit.1.ms(percent)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_are_what_they_are_called() {
        let mut times = Times::default();
        for ms in (1..=200).rev() {
            times.push(Duration::from_millis(ms));
        }
        let row: Vec<String> = COLUMNS.iter().map(|(_, percent)| times.ms(*percent).to_string()).collect();
        assert_eq!(row, ["1", "100", "198", "200"]);
        let (mut half, mut none) = (Times::default(), Times::default());
        half.push(Duration::from_millis(50));
        none.push(Duration::ZERO);
        assert_eq!(times.ratios(&half)["median"], 2.0);
        assert_eq!(times.ratios(&none), serde_json::json!({}), "nothing to be a multiple of");
    }
}
