//! What `sim` does for each of its commands.

pub mod replay;
pub mod seeds;
pub mod step;
