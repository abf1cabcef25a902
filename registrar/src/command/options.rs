//! What the commands are asked for.

use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use registry::name::{InstanceId, ServiceName};
use registry::record::Weight;
use registry::session::EtcdOptions;

/// How a command is to say what it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Of those that look.
#[derive(Args, Clone, Debug)]
pub struct LookOptions {
    /// How to reach etcd.
    #[command(flatten)]
    pub etcd: EtcdOptions,
    /// How to say it.
    #[arg(long, value_name = "text|json", default_value = "text")]
    pub output: Output,
}

/// Of `list`.
#[derive(Args, Clone, Debug)]
pub struct ListOptions {
    /// Only this service.
    #[arg(value_name = "SERVICE")]
    pub service: Option<ServiceName>,
    /// How to look.
    #[command(flatten)]
    pub look: LookOptions,
}

/// Of `show`.
#[derive(Args, Clone, Debug)]
pub struct ShowOptions {
    /// Which instance.
    #[arg(value_name = "SERVICE/INSTANCE")]
    pub instance: InstanceId,
    /// How to look.
    #[command(flatten)]
    pub look: LookOptions,
}

/// Of `explain`.
pub type ExplainOptions = ShowOptions;

/// Of those that write an override.
#[derive(Args, Clone, Debug)]
pub struct OverrideOptions {
    /// Which instance.
    #[arg(value_name = "SERVICE/INSTANCE")]
    pub instance: InstanceId,
    /// Why, for the operators that see it later.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
    /// Who.
    #[arg(long, env = "USER", value_name = "NAME", default_value = "")]
    pub by: String,
    /// Ends by itself after this time.
    #[arg(long = "for", value_name = "TIME", value_parser = daemon::duration::parse)]
    pub lasting: Option<Duration>,
    /// Also where no instance of this name is registered, or no other one would be in rotation.
    #[arg(long)]
    pub force: bool,
    /// How to reach etcd.
    #[command(flatten)]
    pub etcd: EtcdOptions,
}

/// Of `drain`.
#[derive(Args, Clone, Debug)]
pub struct DrainOptions {
    /// Out of rotation at once: sticky clients are not waited for, requests in flight are.
    #[arg(long)]
    pub now: bool,
    /// The wish.
    #[command(flatten)]
    pub overriding: OverrideOptions,
}

/// Of `weight`.
#[derive(Args, Clone, Debug)]
pub struct WeightOptions {
    /// The wish.
    #[command(flatten)]
    pub overriding: OverrideOptions,
    /// 1 to 256, or `record` for what the instance's own record says.
    #[arg(value_name = "WEIGHT")]
    pub weight: WeightOverride,
}

/// Of `resume`.
#[derive(Args, Clone, Debug)]
pub struct ResumeOptions {
    /// Which instance.
    #[arg(value_name = "SERVICE/INSTANCE")]
    pub instance: InstanceId,
    /// How to reach etcd.
    #[command(flatten)]
    pub etcd: EtcdOptions,
}

/// Of `wait`.
#[derive(Args, Clone, Debug)]
pub struct WaitOptions {
    /// Which instance.
    #[arg(value_name = "SERVICE/INSTANCE")]
    pub instance: InstanceId,
    /// Until it is so on every balancer that serves its service.
    #[arg(long = "for", value_name = "serving|drained|gone")]
    pub reached: Reached,
    /// Longest wait.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = daemon::duration::parse)]
    pub timeout: Duration,
    /// How to reach etcd.
    #[command(flatten)]
    pub etcd: EtcdOptions,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Reached {
    /// Every balancer serves it.
    Serving,
    /// No balancer has anything in flight to it.
    Drained,
    /// It is registered no more, and no balancer has it.
    Gone,
}

/// A weight that is wished for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightOverride {
    /// The record's own.
    Record,
    /// This.
    Of(Weight),
}

impl FromStr for WeightOverride {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "record" {
            return Ok(Self::Record);
        }
        text.parse().map(Self::Of).map_err(|error: String| format!("{error}, or `record`"))
    }
}
