//! Registers an app with Leasehold from within the app: a leased key in etcd that stands while the app is healthy.
//!
//! A [`RegistrationBuilder`] says as what, and [`RegistrationBuilder::start`] returns a [`Registration`].
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use leasehold::RegistrationBuilder;
//!
//! let mut registration = RegistrationBuilder::new("web".parse()?, "3000".parse()?).start()?;
//! registration.registered().await;
//! // Serve. When the app is to stop, and while it still serves:
//! registration.leave().await;
//! # Ok(()) }
//! ```
//!
//! # What happens when
//!
//! - **The name is lost**: another process registered under the same name later. This registration stands down: it writes
//!   nothing any more, and [`Status::stood_down`] is true. The app goes on; it gets no traffic under this name.
//! - **etcd is away**: the app goes on and stays in rotation, since no balancer removes anything on old news. If the lease
//!   runs out in the meantime, the registration is written again under the same name as soon as etcd answers.
//! - **The process is paused for longer than the ttl**: the same.
//! - **The registration is dropped**: the lease is revoked without waiting for any balancer. Requests in flight may fail;
//!   call [`Registration::leave`] instead.
//! - **[`Registration::leave`] is dropped before it returns**: the registration is dropped, with the consequence above.
//! - **[`Registration::registered`] is dropped before it returns**: nothing happens; call it again.
//! - **The process dies**: the key ends with its lease, after the ttl.
//!
//! All of it happens on a thread of its own: a runtime that is busy cannot starve the lease.
//!
//! # Inside
//!
//! [`member`] turns health into the instance's record and knows how to leave; its decisions are pure machines. [`members`]
//! holds several under one lease, on the thread of [`etcd_thread`]. The binary `registrar` is built on these.

pub mod etcd_thread;
mod health;
pub mod host;
pub mod member;
pub mod members;
mod registration;

pub use health::AppHealth;
pub use member::{AddressChoice, Naming, Status};
pub use registration::{Registration, RegistrationBuilder, RegistrationError};
