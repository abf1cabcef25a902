//! HAProxy's runtime API: the commands that may be sent, the session that carries them, and what the answers mean.
//!
//! A [`Command`] can be built from parsed values only. [`Dialogue`] carries commands over the runtime socket, and the
//! parsers in [`answer`] turn the answers into types. [`master`] speaks with the master socket. Nothing here decides.
//!
//! HAProxy 2.6 and newer. Every parser is tested on captured answers of 2.6, 3.0 and 3.2 (`fixtures`, remade by
//! `fixtures/capture`).
//!
//! ```no_run
//! use std::path::Path;
//! use std::time::Duration;
//!
//! use haproxy::answer::info::Info;
//! use haproxy::{Command, Dialogue, Reply, ServerState};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut dialogue = Dialogue::connect(Path::new("/run/haproxy.sock"), Duration::from_secs(5)).await?;
//! let server = haproxy::ServerPath::new("web".parse()?, "web-1".parse()?);
//! let commands = [Command::ShowInfo, Command::SetState { server, state: ServerState::Drain }];
//! let answers = dialogue.ask(&commands).await?;
//! let info = Info::parse(&answers[0])?;
//! assert_eq!(Reply::read(&commands[1], &answers[1]), Reply::Ok);
//! println!("HAProxy {} (process {}) drains web/web-1", info.version, info.pid);
//! # Ok(())
//! # }
//! ```
//!
//! An error, and a call that is dropped before it has returned, end the session: the next call fails with
//! [`DialogueError::Spent`]. Connect again, and read HAProxy's state anew: it is not known which commands were taken.

pub mod addr;
pub mod answer;
pub mod command;
pub mod dialogue_error;
mod framing;
pub mod master;
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
pub use socket::{Dialogue, ask_once};

#[cfg(any(test, feature = "fixtures"))]
pub mod fixtures;
#[cfg(test)]
mod real;
#[cfg(test)]
mod real_tests;
