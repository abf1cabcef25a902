//! Why files cannot be kept.

use std::io;
use std::path::PathBuf;

/// What files cannot be kept with.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The directory of the sections.
    #[error("cannot keep files in {}: {source}\n  make it, and let lb-sync write to it; or leave --conf-dir out", .dir.display())]
    Folder {
        /// Which.
        dir: PathBuf,
        /// What was said.
        source: io::Error,
    },
    /// Paths within end up in HAProxy's configuration.
    #[error(
        "cannot keep files in {}: its path has characters that HAProxy's configuration gives a meaning\n  use A-Z a-z \
         0-9 / _ . - in --conf-dir", .0.display()
    )]
    FolderName(PathBuf),
    /// A file or directory that was named is not there.
    #[error("{option} names {}, which cannot be read: {source}", .path.display())]
    Unreadable {
        /// Which option.
        option: &'static str,
        /// Which path.
        path: PathBuf,
        /// What was said.
        source: io::Error,
    },
    /// The program that checks.
    #[error(
        "cannot run `{} -v`: {source}\n  sections are checked by HAProxy before they are put in place: install it \
         beside lb-sync, or name it with --haproxy-binary", .binary.display()
    )]
    Binary {
        /// Which.
        binary: PathBuf,
        /// What was said.
        source: io::Error,
    },
}
