//! What HAProxy says to a command that changes something.

use super::excerpt::Excerpt;
use crate::Command;

/// The outcome of a command, as far as HAProxy tells: an empty answer proves nothing, so what was changed is read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Done, or nothing to do.
    Ok,
    /// `add`: the backend has a server of that name.
    AlreadyExists,
    /// `add`: another server of the backend has that id.
    IdInUse,
    /// The backend has no server of that name.
    NoSuchServer,
    /// There is no backend of that name.
    NoSuchBackend,
    /// `del`: the server is not in MAINT.
    NotInMaint,
    /// `del`: a stream, a queued request, or on 2.6 an idle pooled connection holds the server.
    StillHasConnections,
    /// `del`: the configuration refers to the server (`track`, a literal `use-server`).
    Referenced,
    /// `enable health`: the server was made without a check.
    NoCheck,
    /// The socket's `level` is below `admin`.
    PermissionDenied,
    /// Anything else.
    Other(Excerpt),
}

/// Beginnings of HAProxy's messages (the same from 2.6 to 3.2) and what they mean.
const SAID: [(&str, Reply); 9] = [
    ("Already exists a server with the same name", Reply::AlreadyExists),
    ("No such server", Reply::NoSuchServer),
    ("No such backend", Reply::NoSuchBackend),
    ("Can't find backend", Reply::NoSuchBackend),
    ("Only servers in maintenance mode can be deleted", Reply::NotInMaint),
    ("Server still has connections attached", Reply::StillHasConnections),
    ("This server cannot be removed at runtime", Reply::Referenced),
    ("Health check was not configured on this server", Reply::NoCheck),
    ("Permission denied", Reply::PermissionDenied),
];

impl Reply {
    /// What HAProxy's answer `text` to `command` means.
    #[must_use]
    pub fn read(command: &Command, text: &str) -> Self {
        if let Some(said) = text.lines().find_map(failure) {
            return said;
        }
        let text = text.trim();
        let done = match command {
            Command::AddServer { .. } => text.ends_with("New server registered."),
            Command::DelServer { .. } => text == "Server deleted.",
            Command::SetAddr { .. } => moved(text),
            Command::EnableHealth { .. }
            | Command::HealthDown { .. }
            | Command::SetState { .. }
            | Command::SetWeight { .. }
            | Command::ShutdownSessions { .. }
            | Command::AddToMap { .. }
            | Command::AddRoute { .. }
            | Command::SetRoute { .. } => text.is_empty(),
            Command::AddBackend { .. } => text == "New backend registered.",
            Command::PublishBackend(_) => text == "Backend published.",
            // What is not there needs no deletion.
            Command::DelFromMap { .. } | Command::DelRoute { .. } => {
                text.is_empty() || text == "Key not found."
            }
            // A trial that gets as far as the missing address has passed.
            Command::TryAdd(_) => !NOT_DYNAMIC.iter().any(|said| text.starts_with(said)),
            // What they read has its own parsers.
            Command::ShowInfo
            | Command::ShowBackends
            | Command::ShowServersState(_)
            | Command::ShowMaps
            | Command::ShowMap(_)
            | Command::ShowStatServers(_)
            | Command::ShowStatServer { .. } => true,
        };
        if done { Self::Ok } else { Self::Other(Excerpt::of(text)) }
    }
}

/// What HAProxy says of a backend whose algorithm takes no servers at run time: before 3.4, and since.
const NOT_DYNAMIC: [&str; 2] =
    ["Backend must use a dynamic load balancing", "Backend does not support dynamic servers"];

/// The failure that one line of an answer tells of.
fn failure(line: &str) -> Option<Reply> {
    let line = line.trim();
    // 'id' : custom id 10001 already used at (null):0 ('server web-1').
    if line.contains("custom id") && line.contains("already used") {
        return Some(Reply::IdInUse);
    }
    SAID.iter().find(|(said, _)| line.starts_with(said)).map(|(_, reply)| reply.clone())
}

/// `set server … addr` tells what became of the address and of the port. 2.6: `no need to change the addr, port changed
/// from '80' to '81' by 'stats socket command'`. 3.0: only what changed, or `nothing changed`.
fn moved(text: &str) -> bool {
    const BEGINNINGS: [&str; 3] = ["IP changed from ", "port changed from ", "no need to change the addr"];
    let told =
        BEGINNINGS.iter().any(|said| text.starts_with(said)) && text.ends_with(" by 'stats socket command'");
    told || text == "nothing changed"
}

#[cfg(test)]
mod tests;
