//! What to tell HAProxy, and why.
//!
//! [`target`] says what one instance should be, by the registry; [`observed`] what it is, by HAProxy; [`decide`] is the
//! one place where the difference becomes commands, as a [`step`]. The [`Planner`] applies it to every instance that may have changed,
//! and remembers between passes only what HAProxy cannot tell: ids, since when a server is leaving, and refusals.

pub mod backends;
pub mod decide;
pub mod ids;
pub mod memory;
pub mod names;
pub mod observed;
pub mod pending;
mod planner;
pub mod policy;
pub mod restarting;
pub mod routes;
pub mod step;
pub mod target;

pub use decide::Ack;
pub use planner::Planner;
pub use policy::{FirstCheck, Policy};
pub use step::{AckValue, Cause, Order, Plan, Step};

#[cfg(test)]
pub(crate) mod model;
#[cfg(test)]
mod model_tests;
