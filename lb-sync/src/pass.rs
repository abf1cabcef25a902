//! The pass: observe → plan → apply → read back → plan again, until there is nothing left to do.
//!
//! One task owns the view, what was observed, the planner and the dialogue; it wakes for a change of the registry, for
//! HAProxy's death, or when the planner or the [`schedule`] asked to be woken. It is driven by levels, not by events: an
//! event only says which instances to look at.

mod apply;
mod backends;
mod log;
pub(crate) mod observe;
mod routes;
mod schedule;
mod task;

pub(crate) use backends::can;
pub use task::{Pass, PassConfig};

use crate::haproxy::DialogueError;
use crate::haproxy::answer::AnswerError;
use crate::haproxy::answer::info::Version;

/// Commands in one request. Each `add server` stops all of HAProxy's threads for a moment; HAProxy takes up traffic
/// again between requests (5,000 present: batches of 50 pushed the slowest request to 29 ms, batches of 10 to 9 ms).
const COMMANDS_MAX: usize = 10;

/// Why a pass could not be carried through. The dialogue begins anew; nothing is assumed of what was done.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The socket.
    #[error(transparent)]
    Dialogue(#[from] DialogueError),
    /// What was said on it.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// The worker that answers was replaced, or another one answers.
    #[error("HAProxy was reloaded or restarted")]
    Replaced,
    /// The version.
    #[error("HAProxy {0} cannot add servers while it runs\n  use 2.6 or newer")]
    TooOld(Version),
}
