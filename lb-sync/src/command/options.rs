//! What the commands that look are told.

use clap::{Args, ValueEnum};
use registry::name::InstanceId;

use crate::options::RunOptions;

/// Options of `plan` and `check`: those of `run`, so that what they say holds for it.
#[derive(Args, Debug)]
pub struct LookOptions {
    /// As `run` is given them.
    #[command(flatten)]
    pub run: RunOptions,
    /// How to say it.
    #[arg(long, value_enum, default_value_t = Output::Text, value_name = "FORMAT")]
    pub output: Output,
}

/// Options of `explain`.
#[derive(Args, Debug)]
pub struct ExplainOptions {
    /// Which instance, for example web/web-1.
    #[arg(value_name = "SERVICE/INSTANCE")]
    pub instance: InstanceId,
    /// The rest.
    #[command(flatten)]
    pub look: LookOptions,
}

/// How to say what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}
