//! `show map` and `show map #<id>`: the restarting maps that HAProxy has, and the names in them.

use super::AnswerError;
use super::excerpt::Excerpt;
use crate::haproxy::{BackendName, MapId, ServerName};

/// How the file of a backend's restarting map is called, after the backend's name.
pub const RESTARTING: &str = ".restarting.map";

/// The restarting maps, each with the backend that it is named after. Other maps are nothing to lb-sync.
pub fn list(text: &str) -> Result<Vec<(MapId, BackendName)>, AnswerError> {
    let mut lines = text.lines().skip_while(|line| line.is_empty());
    if lines.next().is_none_or(|header| !header.starts_with("# id (file)")) {
        return Err(AnswerError::Unexpected { asked: "show map", said: Excerpt::of(text) });
    }
    Ok(lines.filter_map(restarting).collect())
}

/// `0 (/etc/haproxy/services/web.restarting.map) pattern loaded from file …`
fn restarting(line: &str) -> Option<(MapId, BackendName)> {
    let (id, rest) = line.split_once(" (")?;
    // A path may hold a bracket; the description after it comes behind the last thing that looks like the end of one.
    let at = rest.find(&format!("{RESTARTING}) "))?;
    let file = rest.get(..at)?.rsplit('/').next()?;
    Some((MapId(id.parse().ok()?), file.parse().ok()?))
}

/// The names in a map. What cannot be a server's name is left out: no client's cookie carries it.
pub fn names(text: &str) -> Result<Vec<ServerName>, AnswerError> {
    let unexpected = || AnswerError::Unexpected { asked: "show map #", said: Excerpt::of(text) };
    let entry = |line: &str| {
        // 0x55da65d28c20 web-1 1
        let mut words = line.split(' ');
        let entry = words.next().is_some_and(|word| word.starts_with("0x"));
        words.next().filter(|_| entry).map(str::parse::<ServerName>)
    };
    let mut names = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        names.extend(entry(line).ok_or_else(unexpected)?.ok());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::super::super::fixtures;
    use super::*;

    #[test]
    fn restarting_maps_are_told_by_their_file() {
        for (version, text) in fixtures::every("show-map") {
            let maps = list(&text).unwrap();
            let named: Vec<&str> = maps.iter().map(|(_, backend)| backend.as_ref()).collect();
            assert_eq!(named, ["web"], "{version}: {text}");
        }
        let odd = "# id (file) description\n7 (/a (b)/api.restarting.map) pattern\n8 (/x/.restarting.map) pattern\n";
        assert_eq!(list(odd).unwrap(), [(MapId(7), "api".parse().unwrap())]);
        assert!(list("").is_err() && list("Permission denied\n").is_err());
    }

    #[test]
    fn names_are_read_and_an_error_is_none() {
        for (version, text) in fixtures::every("show-map-web") {
            assert_eq!(
                names(&text).unwrap(),
                ["web-1".parse().unwrap(), "web-2".parse().unwrap()],
                "{version}"
            );
        }
        assert_eq!(names("\n").unwrap(), []);
        for (version, text) in fixtures::every("show-map-nowhere") {
            assert!(names(&text).is_err(), "{version}");
        }
        assert_eq!(names("0x1 a\u{e4} 1\n0x2 b 1\n").unwrap(), ["b".parse().unwrap()]);
    }
}
