//! lb-sync: makes one HAProxy follow the registry, over its runtime socket.
//!
//! [`view`] is what the registry says, [`plan`] decides what to tell HAProxy, the crate `haproxy` is the dialogue with it, and
//! [`balancer`] carries one to the other and publishes acks, presence and health. [`status`] says whether an instance gets traffic, and why. [`port`] answers everything else that is asked on its port.
//! [`files`] keeps backend sections on disk that equal the running state. [`command`] holds what only looks: `plan`, `check`, `explain`.

pub mod balancer;
pub mod cli;
pub mod command;
mod condition;
pub mod config;
pub mod files;
pub mod notify;
pub mod options;
pub mod plan;
pub mod port;
pub mod run;
pub mod scope;
pub mod snapshot;
pub mod status;
pub mod view;
