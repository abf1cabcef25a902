//! When thousands of servers are missing from a HAProxy that has next to none: by file and reload they are there in a
//! second, by commands they take several on 2.6 and 3.0 (0.4 ms each and growing: 4 s for 10,000).

use std::time::Duration;

use registry::name::InstanceId;
use registry::time::Tick;

use crate::plan::ids::Ids;
use crate::plan::observed::Observed;
use crate::plan::target::target;
use crate::view::View;
use haproxy::answer::info::Info;

/// Servers that are worth a reload.
const MISSING_MIN: usize = 1_000;
/// How many times as many must be missing as are there: clients that are served already are not disturbed.
const MISSING_TIMES: usize = 10;
/// Longest that the pass waits for the reload before it does the work by commands.
const HOLD_MAX: Duration = Duration::from_secs(10);
/// A reload that changed nothing (a HAProxy that is not started on the files) is not tried again for this long.
const RETRY_AFTER: Duration = Duration::from_hours(1);

/// Whether the balancer waits for a reload.
#[derive(Debug, Default)]
pub(super) struct BulkLoad {
    held: Option<Held>,
    not_before: Tick,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    worker: u32,
    until: Tick,
}

/// How many servers HAProxy lacks, and has, in backends that it has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    pub(super) missing: usize,
    pub(super) present: usize,
}

impl Counts {
    /// Of those that should serve.
    pub(super) fn of(view: &View, observed: &Observed, ids: &Ids) -> Self {
        let here = |id: &&InstanceId| observed.backends.contains_key(&id.service);
        let wanted = |id: &&InstanceId| target(view, id).is_some_and(|target| target.serves());
        let lacking = |id: &&InstanceId| observed.server(id).is_none();
        let missing = view.instances().keys().filter(here).filter(lacking).filter(wanted).count();
        let present = observed.backends.values().flat_map(|backend| backend.servers.values());
        Self { missing, present: present.filter(|server| ids.is_ours(server.id)).count() }
    }
}

impl BulkLoad {
    /// The worker that is to be replaced by a reload; `None` if the pass may go on.
    pub(super) fn step(
        &mut self,
        now: Tick,
        worker: &Info,
        refused: Option<u32>,
        counts: impl FnOnce() -> Counts,
    ) -> Option<u32> {
        if let Some(held) = self.held.filter(|held| held.worker == worker.pid) {
            if now < held.until && refused != Some(worker.pid) {
                return Some(worker.pid);
            }
            self.held = None;
            return None;
        }
        self.held = None;
        if worker.version.at_least(3, 1) || now < self.not_before {
            return None;
        }
        let Counts { missing, present } = counts();
        if missing < MISSING_MIN || missing < present.saturating_mul(MISSING_TIMES) {
            return None;
        }
        self.not_before = now.plus(RETRY_AFTER);
        self.held = Some(Held { worker: worker.pid, until: now.plus(HOLD_MAX) });
        Some(worker.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(version: &str, pid: u32) -> Info {
        let version = version.parse().unwrap();
        Info { version, pid, started_s: 1, stopping: false, uptime_s: 1, node: String::new() }
    }

    #[test]
    fn only_thousands_on_an_old_and_empty_haproxy_wait_and_only_once() {
        let at = Tick::from_ms;
        let counts = |missing, present| move || Counts { missing, present };
        let old = worker("2.6.12", 7);
        let mut bulk = BulkLoad::default();
        assert_eq!(bulk.step(at(0), &old, None, counts(999, 0)), None);
        assert_eq!(bulk.step(at(0), &old, None, counts(5_000, 501)), None);
        assert_eq!(bulk.step(at(0), &worker("3.2.1", 7), None, counts(9_000, 0)), None);
        assert_eq!(bulk.step(at(0), &old, None, counts(5_000, 500)), Some(7));
        assert_eq!(bulk.step(at(9_999), &old, Some(3), counts(0, 0)), Some(7));
        // The new worker lacks them as well: it is not started on the files.
        assert_eq!(bulk.step(at(9_999), &worker("2.6.12", 8), None, counts(5_000, 0)), None);

        let mut bulk = BulkLoad::default();
        assert_eq!(bulk.step(at(0), &old, None, counts(5_000, 0)), Some(7));
        assert_eq!(bulk.step(at(10_000), &old, None, counts(5_000, 0)), None, "it took too long");
        let mut bulk = BulkLoad::default();
        assert_eq!(bulk.step(at(0), &old, None, counts(5_000, 0)), Some(7));
        assert_eq!(bulk.step(at(1), &old, Some(7), counts(5_000, 0)), None, "it cannot be done");
    }
}
