//! A set of instances to look at.

use std::collections::BTreeSet;

use registry::name::InstanceId;

/// Which instances an event may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Any of them.
    All,
    /// These.
    Only(BTreeSet<InstanceId>),
}

impl Scope {
    /// Nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::Only(BTreeSet::new())
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Only(ids) if ids.is_empty())
    }

    /// Takes `other` in as well.
    pub fn extend(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::All, _) => {}
            (_, Self::All) => *self = Self::All,
            (Self::Only(ids), Self::Only(more)) => ids.extend(more),
        }
    }
}
