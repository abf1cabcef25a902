//! HAProxy's runtime socket: the commands that may be sent, the dialogue that sends them, and what the answers mean.
//!
//! Nothing here decides: a [`Command`] can be built from parsed values only, [`Dialogue`] carries it, and the parsers
//! in [`answer`] turn text into types. HAProxy 2.6 and newer; every parser is tested on captured output of 2.6, 3.0
//! and 3.2 (`lb-sync/fixtures`, made by `fixtures/capture`).

pub mod addr;
pub mod answer;
pub mod command;
pub mod dialogue_error;
mod framing;
pub mod name;
pub mod options;
pub mod route;
pub mod socket;

pub use addr::ServerAddr;
pub use answer::reply::Reply;
pub use command::{Command, ServerState};
pub use dialogue_error::DialogueError;
pub use name::{
    BackendId, BackendName, InitialWeight, MapId, ServerId, ServerName, ServerPath, ServerWeight,
};
pub use options::{Check, CheckInterval, ServerOptions};
pub use socket::Dialogue;

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod real;
#[cfg(test)]
mod real_tests;
