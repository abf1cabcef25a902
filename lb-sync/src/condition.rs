//! How lb-sync stands with etcd and HAProxy: what health, readiness and reports are drawn from.

use registry::time::Tick;

use crate::plan::observed::Observed;
use crate::view::View;
use haproxy::answer::info::Info;

/// How lb-sync stands with etcd and HAProxy.
#[derive(Clone, Copy, Debug)]
pub struct SyncCondition<'a> {
    /// Now.
    pub now: Tick,
    /// What the registry says.
    pub view: &'a View,
    /// What HAProxy has, as last read.
    pub observed: &'a Observed,
    /// Counts how often anything of `observed` or `worker` was read.
    pub reads: u64,
    /// The HAProxy process that answers; `None` while none does.
    pub worker: Option<&'a Info>,
}
