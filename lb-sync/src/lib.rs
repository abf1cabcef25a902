//! lb-sync: makes one HAProxy follow the registry, over its runtime socket.
//!
//! [`view`] is what the registry says, [`plan`] decides what to tell HAProxy, [`haproxy`] is the dialogue with it, and
//! [`pass`] carries one to the other. [`tell`] answers the registry with acks and presence, and tells who asks for health.

pub mod cli;
pub mod haproxy;
pub mod pass;
pub mod plan;
pub mod run;
pub mod snapshot;
pub mod tell;
pub mod view;
