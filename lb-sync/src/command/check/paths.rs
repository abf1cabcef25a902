//! Whether lb-sync can write where it is told to keep files, and whether the master socket is there.

use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use super::finding::Finding;
use crate::config::RunConfig;

/// What is written into a directory for a moment.
const TRIAL: &str = ".lb-sync-check";

/// What there is to say of the places that are given, and of a state directory that is not.
pub(super) fn findings(config: &RunConfig) -> Vec<Finding> {
    let (conf_dir, master) = (config.files.conf_dir.as_deref(), config.files.master_socket.as_deref());
    let state = match config.state_dir.as_deref() {
        Some(dir) => directory("state directory", "--state-dir", dir),
        None => Finding::warning(
            "state directory",
            "none is given",
            "with --state-dir, an lb-sync that starts while etcd is away serves the instances that it knew last, and ids are kept",
        ),
    };
    let conf = conf_dir.map(|dir| directory("conf directory", "--conf-dir", dir));
    [state].into_iter().chain(conf).chain(master.map(master_socket)).collect()
}

/// Writes a file, and removes it. A directory that is not there is not made: that is for `run`, under its own user.
fn directory(check: &str, flag: &str, dir: &Path) -> Finding {
    if !dir.exists() {
        return Finding::ok(check, format!("{} is not there yet; `run` makes it", dir.display()));
    }
    let trial = dir.join(TRIAL);
    match File::create(&trial).and_then(|_| fs::remove_file(&trial)) {
        Ok(()) => Finding::ok(check, format!("may write to {}", dir.display())),
        Err(error) => {
            let seen = format!("cannot write to {}: {error}", dir.display());
            let advice = format!("give it to the user or group that lb-sync runs as; it is named by {flag}");
            Finding::failed(check, seen, &advice)
        }
    }
}

/// Only looks: to ask is to be one more who may reload.
fn master_socket(path: &Path) -> Finding {
    const CHECK: &str = "master socket";
    match fs::metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => {
            Finding::ok(CHECK, format!("{} is there", path.display()))
        }
        Ok(_) => Finding::failed(CHECK, format!("{} is not a socket", path.display()), "see --master-socket"),
        Err(error) => {
            let advice = "start HAProxy with `-W -S` and that path; it is named by --master-socket";
            Finding::failed(CHECK, format!("{}: {error}", path.display()), advice)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_takes_no_file_fails_and_one_that_does_is_left_empty() {
        let dir = tempfile::tempdir().unwrap();
        let look = |path: &Path| directory("conf directory", "--conf-dir", path);
        assert!(!look(dir.path()).is_failed());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let file = dir.path().join("file");
        File::create(&file).unwrap();
        assert!(look(&file).is_failed());
        assert!(look(&dir.path().join("none")).seen.contains("`run` makes it"));
    }

    #[test]
    fn a_master_socket_is_a_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.sock");
        assert!(master_socket(&path).is_failed());
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(!master_socket(&path).is_failed());
        drop(listener);
        assert!(master_socket(dir.path()).is_failed());
    }
}
