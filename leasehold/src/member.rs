//! One instance's membership: the record that stands for it, and how it leaves.
//!
//! [`machine`] decides, `claim` finds a numbered name for who has none, [`leave`] knows which balancers are still awaited, `address` finds out where the app can be
//! reached, `task` performs.

mod address;
pub mod claim;
pub mod leave;
pub mod machine;
mod report;

pub use crate::health::AppHealth;
pub use address::{AddressChoice, AddressError, find};
pub use claim::Claim;
pub use report::Report;

use std::time::Duration;

use registry::key::{Key, Prefix};
use registry::name::{InstanceId, InstanceName, ServiceName};
use registry::record::InstanceRecord;

/// What an instance is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Naming {
    /// This name, also if another process has it now.
    Is(InstanceName),
    /// This name, that of the host, which no one chose: a living instance at another address keeps it.
    Host(InstanceName),
    /// `<service>-<n>`, with the lowest free number.
    Auto,
}

/// Who wants to be a member.
#[derive(Clone, Debug)]
pub struct Registrant {
    /// Of this service.
    pub service: ServiceName,
    /// Under this name.
    pub naming: Naming,
    /// The random id of this process: its record, and acks for it, carry it.
    pub owner: String,
    /// Where the registry stands.
    pub prefix: Prefix,
}

impl Registrant {
    /// Who it is under `name`.
    #[must_use]
    pub fn named(&self, name: InstanceName) -> Identity {
        let id = InstanceId { service: self.service.clone(), instance: name };
        Identity { id, owner: self.owner.clone(), prefix: self.prefix.clone() }
    }
}

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

/// One instance's membership.
#[derive(Clone, Debug)]
pub struct MemberConfig {
    /// Its service.
    pub service: ServiceName,
    /// What it is called within it.
    pub naming: Naming,
    /// Its record but for what is known only later: the address, the state, the owner, the time.
    pub record: InstanceRecord,
    /// How its address is found.
    pub address: AddressChoice,
    /// Longest wait for balancers when leaving.
    pub leave_max: Duration,
    /// How long a balancer that has vanished is still waited for.
    pub linger: Duration,
}

/// How a member is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "five answers to five independent questions")]
pub struct Status {
    /// What it is called; `None` as long as it has claimed no name.
    pub name: Option<InstanceName>,
    /// It should get traffic.
    pub wants_traffic: bool,
    /// The app's checks pass.
    pub healthy: bool,
    /// Its record stands, as far as is known, under a lease that is held.
    pub registered: bool,
    /// A newer owner has its name, or no name was free.
    pub stood_down: bool,
    /// It has left: no balancer is awaited any more.
    pub left: bool,
}
