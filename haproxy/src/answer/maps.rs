//! `show map` and `show map #<id>`: the maps that HAProxy has and that lb-sync keeps, and what is in them.

use super::AnswerError;
use super::excerpt::Excerpt;
use crate::{BackendName, MapId, ServerName};

/// How the file of a backend's restarting map is called, after the backend's name.
pub const RESTARTING: &str = ".restarting.map";

/// How the file of a map of routes is called.
pub const ROUTES: &str = "routes.map";

/// A restarting map, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its number.
    pub id: MapId,
    /// The backend that it is named after.
    pub backend: BackendName,
    /// HAProxy counts nothing in it (`entry_cnt=0`, 2.4 and newer): it need not be read.
    pub is_empty: bool,
}

/// The restarting maps. Other maps are nothing to lb-sync.
pub fn list(text: &str) -> Result<Vec<Listed>, AnswerError> {
    Ok(lines(text)?.filter_map(restarting).collect())
}

/// The maps of routes: one for each way of writing the path of the file.
pub fn routes(text: &str) -> Result<Vec<MapId>, AnswerError> {
    let route = |line: &str| {
        let (id, rest) = line.split_once(" (")?;
        let at = rest.find(&format!("{ROUTES}) "))?;
        let ours = rest.get(..at).is_some_and(|folder| folder.is_empty() || folder.ends_with('/'));
        id.parse().ok().map(MapId).filter(|_| ours)
    };
    Ok(lines(text)?.filter_map(route).collect())
}

fn lines(text: &str) -> Result<impl Iterator<Item = &str>, AnswerError> {
    let mut lines = text.lines().skip_while(|line| line.is_empty());
    if lines.next().is_none_or(|header| !header.starts_with("# id (file)")) {
        return Err(AnswerError::Unexpected { asked: "show map", said: Excerpt::of(text) });
    }
    Ok(lines)
}

/// `0 (/etc/haproxy/services/web.restarting.map) pattern loaded from file …`
fn restarting(line: &str) -> Option<Listed> {
    let (id, rest) = line.split_once(" (")?;
    // A path may hold a bracket; the description after it comes behind the last thing that looks like the end of one.
    let at = rest.find(&format!("{RESTARTING}) "))?;
    let file = rest.get(..at)?.rsplit('/').next()?;
    let is_empty = line.ends_with(" entry_cnt=0");
    Some(Listed { id: MapId(id.parse().ok()?), backend: file.parse().ok()?, is_empty })
}

/// The names in a map. What cannot be a server's name is left out: no client's cookie carries it.
pub fn names(text: &str) -> Result<Vec<ServerName>, AnswerError> {
    Ok(entries(text)?.into_iter().filter_map(|(key, _)| key.parse().ok()).collect())
}

/// Keys and values of a map, in HAProxy's order.
pub fn entries(text: &str) -> Result<Vec<(&str, &str)>, AnswerError> {
    let unexpected = || AnswerError::Unexpected { asked: "show map #", said: Excerpt::of(text) };
    let entry = |line: &'_ str| -> Option<usize> {
        // 0x55da65d28c20 web-1 1
        line.starts_with("0x").then(|| line.find(' ')).flatten()
    };
    let mut entries = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let rest = entry(line).and_then(|at| line.get(at + 1..)).ok_or_else(unexpected)?;
        entries.push(rest.split_once(' ').unwrap_or((rest, "")));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    #[test]
    fn restarting_maps_are_told_by_their_file() {
        for (version, text) in fixtures::every("show-map") {
            let maps = list(&text).unwrap();
            let named: Vec<_> = maps.iter().map(|it| (it.backend.as_ref(), it.is_empty)).collect();
            assert_eq!(named, [("web", true)], "{version}: {text}");
            let filled = text.replace("entry_cnt=0", "entry_cnt=10");
            assert!(list(&filled).unwrap().iter().all(|it| !it.is_empty), "{version}");
        }
        let odd = "# id (file) description\n7 (/a (b)/api.restarting.map) pattern\n8 (/x/.restarting.map) pattern\n";
        let api = Listed { id: MapId(7), backend: "api".parse().unwrap(), is_empty: false };
        assert_eq!(list(odd).unwrap(), [api], "nothing is said of what is in it");
        assert!(list("").is_err() && list("Permission denied\n").is_err());
    }

    #[test]
    fn maps_of_routes_are_told_by_their_file_alone() {
        let text = "# id (file) description\n0 (/etc/h/routes.map) pattern loaded from file '/etc/h/routes.map' used by map\n\
                    1 (/etc/h/myroutes.map) pattern\n2 (routes.map) pattern\n3 (/etc/h/web.restarting.map) pattern\n";
        assert_eq!(routes(text).unwrap(), [MapId(0), MapId(2)]);
        assert_eq!(list(text).unwrap().len(), 1);
        let text = "0x7f3fc7a212a0 shop.example/ nowhere\n0x7f3fc7a82ba0 shop.example/api/ api\n\n";
        assert_eq!(entries(text).unwrap(), [("shop.example/", "nowhere"), ("shop.example/api/", "api")]);
        assert!(entries("Unknown map identifier.").is_err());
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
