//! Maps: restarting maps and the map of routes (`src/map.c`, `src/pattern.c`).

use std::fmt::Write as _;

use super::setup::{Files, Setup};

/// Where the files are, as HAProxy names them.
const FOLDER: &str = "/etc/haproxy/services";
const UNKNOWN: &str = "Unknown map identifier. Please use #<id> or <file>.\n";
/// The map of routes.
const ROUTES: &str = "routes.map";

/// One map. A key may be in it more than once.
#[derive(Clone, Debug)]
struct Map {
    /// The name of its file.
    file: String,
    entries: Vec<(String, String)>,
}

/// The maps of a worker; a map's number is its place.
#[derive(Clone, Debug)]
pub(super) struct Maps(Vec<Map>);

impl Maps {
    /// As a start reads them.
    pub(super) fn start(setup: &Setup, files: &Files) -> Self {
        let sections = setup.sections(files);
        let restarting = sections.iter().filter(|backend| backend.restarting_map);
        let mut names: Vec<String> = restarting.map(|backend| restarting_map(&backend.name)).collect();
        names.extend(setup.routes_map.then(|| ROUTES.to_owned()));
        let read = |name: &String| files.maps.get(name).map(String::as_str).unwrap_or_default();
        let map = |file: String| Map { entries: read(&file).lines().filter_map(entry).collect(), file };
        Self(names.into_iter().map(map).collect())
    }

    /// Whether the clients of this server keep their cookie while it is away.
    pub(super) fn is_restarting(&self, backend: &str, server: &str) -> bool {
        let file = restarting_map(backend);
        let mut map = self.0.iter().filter(|map| map.file == file);
        map.any(|map| map.entries.iter().any(|(key, _)| key == server))
    }

    fn find(&mut self, id: &str) -> Option<&mut Map> {
        let at: usize = id.strip_prefix('#')?.parse().ok()?;
        self.0.get_mut(at)
    }

    /// `show map`.
    pub(super) fn list(&self) -> String {
        let mut text = "# id (file) description\n".to_owned();
        for (id, Map { file, entries }) in self.0.iter().enumerate() {
            let (path, count) = (format!("{FOLDER}/{file}"), entries.len());
            // Into memory: it cannot fail.
            let _ = writeln!(
                text,
                "{id} ({path}) pattern loaded from file '{path}' used by map at file '/etc/haproxy/haproxy.cfg' line 1. curr_ver=0 next_ver=0 entry_cnt={count}"
            );
        }
        text
    }

    /// `show map #<id>`.
    pub(super) fn show(&mut self, id: &str) -> String {
        let Some(map) = self.find(id) else { return UNKNOWN.into() };
        let mut text = String::new();
        for (at, (key, value)) in map.entries.iter().enumerate() {
            let _ = writeln!(text, "0x{:x} {key} {value}", 0x7f00_0000_1000_usize + at * 0x40);
        }
        text
    }

    /// `add map`: a key that is there already is there twice.
    pub(super) fn add(&mut self, id: &str, key: &str, value: &str) -> String {
        let Some(map) = self.find(id) else { return UNKNOWN.into() };
        map.entries.push((key.to_owned(), value.to_owned()));
        String::new()
    }

    /// `set map`: every entry of the key.
    pub(super) fn set(&mut self, id: &str, key: &str, value: &str) -> String {
        let Some(map) = self.find(id) else { return UNKNOWN.into() };
        let mut found = false;
        for (_, old) in map.entries.iter_mut().filter(|(it, _)| it == key) {
            value.clone_into(old);
            found = true;
        }
        if found { String::new() } else { "entry not found.\n".into() }
    }

    /// `del map`: every entry of the key.
    pub(super) fn del(&mut self, id: &str, key: &str) -> String {
        let Some(map) = self.find(id) else { return UNKNOWN.into() };
        let before = map.entries.len();
        map.entries.retain(|(it, _)| it != key);
        if map.entries.len() < before { String::new() } else { "Key not found.\n".into() }
    }
}

fn restarting_map(backend: &str) -> String {
    format!("{backend}.restarting.map")
}

/// A line of a map's file: a key, blanks, a value.
fn entry(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let (key, value) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    Some((key.to_owned(), value.trim().to_owned()))
}
