//! One thing that was looked at, and how it is told.

use std::fmt::{Display, Write as _};

use serde_json::{Value, json};

/// What came of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Ok,
    /// It runs, but an operator should know.
    Warning,
    /// It does not run like this.
    Failed,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) check: String,
    pub(super) outcome: Outcome,
    pub(super) seen: String,
    /// What to do, where something is to be done.
    pub(super) advice: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: impl Into<String>, seen: impl Into<String>) -> Self {
        Self { check: check.into(), outcome: Outcome::Ok, seen: seen.into(), advice: None }
    }

    pub(super) fn warning(check: impl Into<String>, seen: impl Into<String>, advice: &str) -> Self {
        let advice = Some(advice.to_owned());
        Self { check: check.into(), outcome: Outcome::Warning, seen: seen.into(), advice }
    }

    pub(super) fn failed(check: impl Into<String>, seen: impl Into<String>, advice: &str) -> Self {
        Self { outcome: Outcome::Failed, ..Self::warning(check, seen, advice) }
    }

    /// Our errors say in their first line what was seen, in the others what to do.
    pub(super) fn by_error(check: impl Into<String>, error: &impl Display) -> Self {
        let text = error.to_string();
        let (seen, advice) = text.split_once('\n').map_or((&*text, None), |(seen, rest)| (seen, Some(rest)));
        let advice = advice.map(|rest| rest.split_whitespace().collect::<Vec<_>>().join(" "));
        Self { check: check.into(), outcome: Outcome::Failed, seen: seen.to_owned(), advice }
    }

    pub(super) fn is_failed(&self) -> bool {
        self.outcome == Outcome::Failed
    }
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

/// A line for each, its advice in the same line: what can be read can be searched.
pub(super) fn render(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { check, outcome, seen, advice } in findings {
        let advice = advice.as_ref().map_or_else(String::new, |advice| format!(" -> {advice}"));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:<8} {check}: {seen}{advice}", outcome.word());
    }
    text
}

/// For machines.
pub(super) fn to_json(findings: &[Finding]) -> Value {
    let checks = findings.iter().map(|Finding { check, outcome, seen, advice }| {
        json!({ "check": check, "outcome": outcome.word(), "seen": seen, "advice": advice })
    });
    json!({ "ok": !findings.iter().any(Finding::is_failed), "checks": checks.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        let error = "cannot reach HAProxy at /s: permission denied\n  run lb-sync in\n  its group";
        vec![
            Finding::ok("status port", "127.0.0.1:7100 is free"),
            Finding::warning("backends", "none found", "add a backend"),
            Finding::by_error("HAProxy socket", &error),
        ]
    }

    #[test]
    fn a_line_for_each_says_what_was_seen_and_what_to_do() {
        assert_eq!(
            render(&findings()),
            "ok       status port: 127.0.0.1:7100 is free\n\
             warning  backends: none found -> add a backend\n\
             failed   HAProxy socket: cannot reach HAProxy at /s: permission denied -> run lb-sync in its group\n"
        );
    }

    #[test]
    fn machines_get_the_same() {
        let json = to_json(&findings());
        assert_eq!(json["ok"], false);
        assert_eq!(json["checks"][2]["outcome"], "failed");
        assert_eq!(json["checks"][1]["advice"], "add a backend");
        assert_eq!(json["checks"][0]["advice"], Value::Null);
        assert_eq!(to_json(&findings()[..2])["ok"], true);
    }
}
