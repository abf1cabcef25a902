//! What a real HAProxy of each version answered, for the parsers' tests. `haproxy/fixtures/capture` makes the files again.

#![expect(clippy::unwrap_used, reason = "a missing fixture ends a test")]

use std::fs;
use std::path::PathBuf;

/// The versions that were captured.
const VERSIONS: [&str; 3] = ["2.6", "3.0", "3.2"];

fn folder(version: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(format!("haproxy-{version}"))
}

/// What each version answered, with the version before it.
///
/// # Panics
/// If there is no such file.
#[must_use]
pub fn every(name: &str) -> Vec<(&'static str, String)> {
    VERSIONS
        .iter()
        .map(|version| (*version, fs::read_to_string(folder(version).join(format!("{name}.txt"))).unwrap()))
        .collect()
}

/// All answers of all versions.
///
/// # Panics
/// If the files cannot be read.
#[must_use]
pub fn all() -> Vec<String> {
    let files = VERSIONS.iter().flat_map(|version| fs::read_dir(folder(version)).unwrap());
    files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect()
}
