//! Follows one key, or everything below a prefix that ends with `/`: a list, then a watch from there on, for as long as the process lives.
//!
//! [`machine`] and [`page`] decide, the task performs. A follower receives [`Event`]s, which [`Store`] folds into a complete
//! set, and learns whenever that set may be out of date. The machines are public for simulations and tests of the whole.

mod acks;
pub mod machine;
pub mod page;
mod store;
mod task;

pub use acks::InstanceAcks;
pub use machine::{QUIET_MAX, RELIST_EVERY, RELIST_EVERY_WHILE_LEAVING};
pub(crate) use page::after_all;
pub use page::{Listed, list};
pub use store::{Store, Update, updates};
pub use task::{Following, follow, follow_quietly};

/// One key and value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key, whole.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// The lease it stands under; 0 for none.
    pub lease: i64,
    /// etcd's revision when the key came to be.
    pub create_revision: i64,
    /// etcd's revision when the value was last written.
    pub mod_revision: i64,
}

/// One change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was written.
    Put(Entry),
    /// It is gone: deleted, or its lease ended.
    Delete {
        /// The key, whole.
        key: Vec<u8>,
        /// etcd's revision of the deletion.
        mod_revision: i64,
    },
}

impl Change {
    /// etcd's revision of this change.
    #[must_use]
    pub fn mod_revision(&self) -> i64 {
        match self {
            Self::Put(entry) => entry.mod_revision,
            Self::Delete { mod_revision, .. } => *mod_revision,
        }
    }
}

/// What a follower is told, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Everything there is: replaces whatever was known.
    Listed {
        /// The cluster's id; another one than before means another etcd.
        cluster: u64,
        /// The revision of the list. Lower than before: etcd was wiped or restored.
        revision: i64,
        /// All of it.
        entries: Vec<Entry>,
    },
    /// What changed since, in etcd's order.
    Changed(Vec<Change>),
    /// From here on changes arrive as they happen. Also a sign of life, every few quiet seconds.
    InSync,
    /// The stream broke or fell silent: what is known may be out of date until the next [`Event::InSync`].
    OutOfSync,
}
