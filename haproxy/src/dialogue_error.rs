//! What can go wrong between lb-sync and HAProxy's socket, said to the person who has to mend it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a dialogue could not begin or had to end. After any of these the session is spent: connect again.
#[derive(Debug, thiserror::Error)]
pub enum DialogueError {
    /// There is no such file.
    #[error(
        "cannot reach HAProxy at {}: no such socket\n  HAProxy makes it when it starts: is it running, and has its \
         configuration `stats socket {}` in `global`?", .0.display(), .0.display()
    )]
    Missing(PathBuf),
    /// The file may not be opened.
    #[error(
        "cannot reach HAProxy at {}: permission denied\n  run lb-sync in the socket's group, or set `mode` and `group` \
         on `stats socket`", .0.display()
    )]
    PermissionDenied(PathBuf),
    /// The file is there, but no process listens on it.
    #[error("cannot reach HAProxy at {}: connection refused\n  the socket is a leftover: HAProxy is not running", .0.display())]
    Refused(PathBuf),
    /// Any other failure to connect.
    #[error("cannot reach HAProxy at {}: {source}", .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Connected, and then nothing was said.
    #[error(
        "HAProxy at {} took the connection and did not answer within {}\n  \
         is it stopped, or are all sessions of the socket in use (10, unless `stats maxconn` says otherwise)?",
        .path.display(), humantime::format_duration(*.within)
    )]
    Silent {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        within: Duration,
    },
    /// The socket lets lb-sync read only.
    #[error(
        "HAProxy at {} gives lb-sync the level `{level}`, and servers can be added and deleted at `admin` only\n  \
         set `level admin` on `stats socket`", .path.display()
    )]
    NotAdmin {
        /// The socket.
        path: PathBuf,
        /// The level that HAProxy named.
        level: String,
    },
    /// HAProxy ended the session: it died, was restarted, or has been idle with us for a day.
    #[error("HAProxy closed the session")]
    Closed,
    /// The answers took too long.
    #[error("HAProxy did not answer within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// The answers would not fit into memory that is set aside for them.
    #[error("HAProxy's answer is longer than {0} bytes")]
    TooLong(usize),
    /// Bytes came that no command asked for: answers can no longer be told apart.
    #[error("HAProxy said something that was not asked for")]
    OutOfStep,
    /// An earlier request failed or was given up half way.
    #[error("the session with HAProxy is spent")]
    Spent,
    /// Reading or writing failed.
    #[error("the session with HAProxy failed: {0}")]
    Io(io::Error),
}

impl DialogueError {
    /// A failure to connect to `path`.
    pub(super) fn connect(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Self::Missing(path),
            io::ErrorKind::PermissionDenied => Self::PermissionDenied(path),
            io::ErrorKind::ConnectionRefused => Self::Refused(path),
            _ => Self::Connect { path, source },
        }
    }

    /// A failure to read or write.
    pub(super) fn talk(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
                Self::Closed
            }
            _ => Self::Io(source),
        }
    }
}
