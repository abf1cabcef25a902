//! The whole of Leasehold in one process, from one seed: registrars, etcd, balancers, `HAProxy`s, clients, and what goes
//! wrong between them.
//!
//! A seed draws a [`script`]: options, and operations with their times. [`run`] runs it in a [`world`]: one queue of events
//! in virtual time over the product's own machines ([`registrar`], [`balancer`], [`link`]) and models of [`etcd`] and
//! [`haproxy`]. [`oracles`] say what must hold. The same script gives the same trace, byte for byte.

pub mod balancer;
pub mod cli;
pub mod draw;
pub mod etcd;
pub mod haproxy;
pub mod link;
pub mod marks;
pub mod oracles;
pub mod registrar;
pub mod run;
pub mod script;
pub mod world;
