//! Whether the state directory can be written to.

use std::fs::{self, File};
use std::path::Path;

use super::finding::Finding;

const CHECK: &str = "state directory";
/// What is written there for a moment.
const TRIAL: &str = ".lb-sync-check";

/// Writes a file, and removes it. A directory that is not there is not made: that is for `run`, under its own user.
pub(super) fn directory(dir: Option<&Path>) -> Finding {
    let Some(dir) = dir else {
        let advice = "with --state-dir, an lb-sync that starts while etcd is away serves whom it knew last";
        return Finding::warning(CHECK, "none is given", advice);
    };
    if !dir.exists() {
        return Finding::ok(CHECK, format!("{} is not there yet; `run` makes it", dir.display()));
    }
    let trial = dir.join(TRIAL);
    match File::create(&trial).and_then(|_| fs::remove_file(&trial)) {
        Ok(()) => Finding::ok(CHECK, format!("may write to {}", dir.display())),
        Err(error) => {
            let seen = format!("cannot write to {}: {error}", dir.display());
            Finding::failed(CHECK, seen, "give it to the user that lb-sync runs as; check --state-dir")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_takes_no_file_fails_and_one_that_does_is_left_empty() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!directory(Some(dir.path())).is_failed());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let file = dir.path().join("file");
        File::create(&file).unwrap();
        assert!(directory(Some(&file)).is_failed());
        assert!(directory(Some(&dir.path().join("none"))).seen.contains("`run` makes it"));
        assert!(directory(None).advice.is_some());
    }
}
