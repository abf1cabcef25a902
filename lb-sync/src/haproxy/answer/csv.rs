//! HAProxy's CSV: a header that begins with `# `, fields in quotes where they need them, a comma at the end of each line.

/// The fields of one line. Quotes around a field are taken away, doubled quotes in it made one.
pub(super) fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, fields.last_mut()) {
            ('"', Some(field)) if quoted && chars.next_if_eq(&'"').is_some() => field.push('"'),
            ('"', _) => quoted = !quoted,
            (',', _) if !quoted => fields.push(String::new()),
            (c, Some(field)) => field.push(c),
            (_, None) => {}
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hold_commas_and_quotes() {
        assert_eq!(fields("web,\"a, \"\"b\"\"\",,1,"), ["web", "a, \"b\"", "", "1", ""]);
        assert_eq!(fields(""), [""]);
        assert_eq!(fields("\"open, end"), ["open, end"]);
    }
}
