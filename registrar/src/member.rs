//! One instance's membership: the record that stands for it, and how it leaves.
//!
//! [`machine`] decides, [`leave`] knows which balancers are still awaited, `address` finds out where the app can be
//! reached, `task` performs.

mod address;
pub mod leave;
pub mod machine;
mod report;
mod task;

pub use address::{AddressChoice, AddressError, find};
pub use report::Report;
pub use task::{Member, SharedLease};

use registry::key::{Key, Prefix};
use registry::name::InstanceId;

/// Who a member is, and how others tell.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its name.
    pub id: InstanceId,
    /// The random id of this process: its record, and acks for it, carry it.
    pub owner: String,
    /// Where the registry stands.
    pub prefix: Prefix,
}

impl Identity {
    /// The key of its record.
    #[must_use]
    pub fn key(&self) -> String {
        self.prefix.text(&Key::Instance(self.id.clone()))
    }
}

/// How a member is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "four answers to four independent questions")]
pub struct Status {
    /// It should get traffic.
    pub wants_traffic: bool,
    /// The app's checks pass.
    pub healthy: bool,
    /// Its record stands, as far as is known, under a lease that is held.
    pub registered: bool,
    /// It has left: no balancer is awaited any more.
    pub left: bool,
}
