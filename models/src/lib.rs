//! Models of etcd and of HAProxy, without clock, randomness or I/O.
//!
//! The same random scripts go to a model and to the real thing (`tests/etcd_model`, `tests/haproxy_model`), and both must
//! answer alike. `tests/etcd_machines.rs` drives the lease and watch machines of `registry` on the model of etcd.

pub mod etcd;
pub mod haproxy;
