//! What the pass has counted since its start.

use std::collections::BTreeMap;

use crate::haproxy::Command;

/// Counts since the start; they only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Passes in which something was looked at.
    pub passes: u64,
    /// Times that everything was read from HAProxy anew: at each connection and audit.
    pub resyncs: u64,
    /// Servers that an audit found changed by somebody else.
    pub audit_findings: u64,
    /// Times that HAProxy was lost: a restart, a reload, a broken socket.
    pub haproxy_lost: u64,
    /// Times that the view fell out of sync with etcd.
    pub out_of_sync: u64,
    /// Commands, by kind and by whether HAProxy took them.
    pub commands: BTreeMap<(&'static str, bool), u64>,
}

impl Totals {
    /// Commands of one step were sent; HAProxy `took` all of them, or the step was refused.
    pub fn sent<'a>(&mut self, commands: impl IntoIterator<Item = &'a Command>, took: bool) {
        for command in commands {
            *self.commands.entry((command.kind(), took)).or_default() += 1;
        }
    }
}
