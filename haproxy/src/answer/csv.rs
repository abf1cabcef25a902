//! HAProxy's CSV: a header that begins with `# `, fields in quotes where they need them, a comma at the end of each line.

use std::borrow::Cow;

/// The fields of one line. Quotes around a field are taken away, doubled quotes in it made one; of a field without any there
/// is no copy.
pub(super) fn fields(line: &str) -> Vec<Cow<'_, str>> {
    let mut fields = Vec::new();
    let mut rest = Some(line);
    while let Some(text) = rest {
        let (field, after) = if text.starts_with('"') { quoted(text) } else { plain(text) };
        fields.push(field);
        rest = after;
    }
    fields
}

/// The field that `text` begins with, and what stands after its comma.
fn plain(text: &str) -> (Cow<'_, str>, Option<&str>) {
    match text.split_once(',') {
        Some((field, after)) => (field.into(), Some(after)),
        None => (text.into(), None),
    }
}

/// The same for a field in quotes.
fn quoted(text: &str) -> (Cow<'_, str>, Option<&str>) {
    let (mut field, mut inside) = (String::new(), true);
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' if inside && chars.next_if(|(_, next)| *next == '"').is_some() => field.push('"'),
            '"' => inside = !inside,
            ',' if !inside => return (field.into(), text.get(at + 1..)),
            c => field.push(c),
        }
    }
    (field.into(), None)
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
