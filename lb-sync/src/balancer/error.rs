//! Why the conversation with HAProxy has to begin anew.

use haproxy::DialogueError;
use haproxy::answer::AnswerError;
use haproxy::answer::info::Version;

/// Why a pass could not be carried through. The session begins anew; nothing is assumed of what was done.
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
