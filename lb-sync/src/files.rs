//! Files that equal the running state, so that a HAProxy that starts again starts with its members.
//!
//! The balancer hands over what the files should say ([`Files`], without I/O); a task of its own renders each
//! service's backend section from a template, has HAProxy check it together with the administrator's own files, and
//! renames it into place. A service without a backend gets its section, and with a master socket one reload brings it
//! in. HAProxy ids are kept in a file beside it, so that they outlive both programs.
//!
//! [`desired`] says what should be in the files, [`ownership`] which files are ours to write, [`bisect`] which
//! section HAProxy refuses, [`reloads`] and [`bulk_load`] when to reload, and [`machine`] which deed comes next: these
//! decide. [`folder`], [`verify`] and [`ids_file`] perform, and [`writer`] is the task.

mod bisect;
mod bulk_load;
mod debounce;
mod desired;
mod error;
mod folder;
mod http_check;
mod ids_file;
mod link;
mod machine;
mod options;
mod ownership;
mod reloads;
mod template;
mod verify;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use registry::name::ServiceName;
use registry::time::Tick;

use crate::plan::Policy;
use crate::plan::ids::{Ids, SavedIds};
use crate::plan::observed::Observed;
use crate::plan::routes::Routes;
use crate::scope::Scope;
use crate::view::View;
use bulk_load::{BulkLoad, Counts};
use debounce::Debounce;
pub use desired::Desired;
use desired::Known;
pub use error::FilesError;
use haproxy::answer::info::Info;
pub use http_check::HttpCheck;
use ids_file::IdsKeeper;
pub(crate) use ids_file::peek as peek_ids;
pub use link::FilesLink;
pub use machine::Report;
pub use options::{FilesConfig, FilesOptions, Started, Task};
pub use reloads::Reason;

/// Shortest time between two writes of the sections: under churn neither the disk nor `haproxy -c` (0.5 s at 10,000
/// servers) is to be kept busy.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// The balancer's side of the files: says what should be in them, without I/O. Without `--conf-dir` and `--state-dir` it
/// does nothing. [`FilesLink`] connects it with the tasks that write.
#[derive(Debug, Default)]
pub struct Files {
    sections: Option<Sections>,
    ids: Option<IdsKeeper>,
    /// When [`Self::draw`] has something to do.
    wake_at: Option<Tick>,
}

/// Something that a task is to write.
#[derive(Debug)]
pub enum FilesAction {
    /// The sections and routes.
    Sections(Arc<Desired>),
    /// Which instance has which HAProxy id.
    Ids(Arc<SavedIds>),
}

#[derive(Debug)]
struct Sections {
    /// What was handed over last.
    desired: Arc<Desired>,
    requests: WriterRequests,
    /// Whether there is a master socket.
    reloads: bool,
    bulk_load: BulkLoad,
    /// The worker that is to be replaced by one that starts from the files.
    replace: Option<u32>,
    policy: Policy,
    debounce: Debounce,
    dirty: Dirty,
    /// How often it was drawn up, also where nothing had changed.
    drawings: u64,
}

/// What the writer asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriterRequests {
    /// Counts its requests for the latest: what HAProxy is reloaded on must not be a second old.
    latest: u64,
    /// The worker that cannot be replaced by a reload: its servers are to be added by commands.
    kept: Option<u32>,
    /// The last drawing that is on disk, or was refused.
    settled: u64,
}

impl WriterRequests {
    /// It asks for nothing, and has settled the drawing of this number.
    #[must_use]
    pub fn settled(drawing: u64) -> Self {
        Self { settled: drawing, ..Self::default() }
    }
}

/// Which sections to draw up anew.
#[derive(Debug)]
enum Dirty {
    All,
    Only(BTreeSet<ServiceName>),
}

impl Files {
    /// Sections are kept, by a writer that takes them in and says what it has done. `reloads`: there is a master socket.
    #[must_use]
    pub fn kept(policy: Policy, reloads: bool) -> Self {
        let sections = Sections {
            desired: Arc::default(),
            requests: WriterRequests::default(),
            reloads,
            bulk_load: BulkLoad::default(),
            replace: None,
            policy,
            debounce: Debounce::new(WRITE_EVERY),
            dirty: Dirty::All,
            drawings: 0,
        };
        Self { sections: Some(sections), ids: None, wake_at: None }
    }

    /// The ids that are given out are kept as well; `ids` are those that are on disk.
    #[must_use]
    pub fn with_ids(self, ids: &Ids) -> Self {
        Self { ids: Some(IdsKeeper::new(ids)), ..self }
    }

    /// These instances may have changed, in the registry or in HAProxy.
    pub fn mark_dirty(&mut self, changed: &Scope) {
        let Some(sections) = self.sections.as_mut().filter(|_| !changed.is_empty()) else { return };
        sections.debounce.mark();
        match (&mut sections.dirty, changed) {
            (Dirty::All, _) => {}
            (dirty, Scope::All) => *dirty = Dirty::All,
            (Dirty::Only(services), Scope::Only(ids)) => {
                services.extend(ids.iter().map(|id| id.service.clone()));
            }
        }
    }

    /// The ids to reserve on disk before more are given out, where too few are reserved.
    pub fn reserve_ids(&mut self, ids: &Ids) -> Option<Arc<SavedIds>> {
        self.ids.as_mut()?.reserve(ids)
    }

    /// Whether every id that was given out is reserved on disk. Always, where ids are not kept.
    #[must_use]
    pub fn are_ids_reserved(&self, ids: &Ids) -> bool {
        self.ids.as_ref().is_none_or(|keeper| keeper.is_reserved(ids))
    }

    /// The disk has reserved the ids below `below`.
    pub fn ids_reserved(&mut self, below: u32) -> Scope {
        if let Some(keeper) = &mut self.ids {
            keeper.reserved(below);
        }
        Scope::none()
    }

    /// The writer asks for the latest, or says which worker is kept: [`Self::draw`] answers at once.
    pub fn handle_requests(&mut self, requests: WriterRequests) -> Scope {
        if let Some(sections) = &mut self.sections {
            let before = std::mem::replace(&mut sections.requests, requests);
            if (before.latest, before.kept) != (requests.latest, requests.kept) {
                sections.debounce.hurry();
            }
        }
        Scope::none()
    }

    /// The number of the drawing that will have what is so now; `None` where no files are kept.
    #[must_use]
    pub fn drawing(&self) -> Option<u64> {
        let sections = self.sections.as_ref()?;
        Some(sections.drawings + u64::from(sections.debounce.due_at().is_some()))
    }

    /// Whether HAProxy would start on that drawing or a later one; or on an earlier one, since it was refused or could not be
    /// written, which is logged.
    #[must_use]
    pub fn is_on_disk(&self, drawing: u64) -> bool {
        self.sections.as_ref().is_none_or(|sections| {
            let (settled, handed_over) = (sections.requests.settled, sections.desired.drawing);
            // It may have been as the one before.
            let is_as_last = handed_over < drawing && sections.drawings >= drawing;
            settled >= drawing || (is_as_last && settled >= handed_over)
        })
    }

    /// Between two rounds: what has changed, if it is time to hand it over. `made` are backends that lb-sync had made
    /// while HAProxy runs.
    pub fn draw(
        &mut self,
        now: Tick,
        (view, routes): (&View, &Arc<Routes>),
        (observed, made): (&Observed, &BTreeSet<ServiceName>),
        connected: bool,
        ids: &mut Ids,
    ) -> Vec<FilesAction> {
        let mut actions = Vec::new();
        self.wake_at = None;
        if let Some(sections) = &mut self.sections
            // What is not known for certain does not replace what was. A HAProxy that is to start from the files has nothing: a
            // list is enough for it, and etcd may be lost again before the watch stands.
            && (view.in_sync() || (view.is_listed() && sections.replace.is_some()))
        {
            let policy = &sections.policy.clone();
            let known = Known { view, observed, connected, made, policy };
            actions.extend(sections.draw(now, &known, routes, ids).map(FilesAction::Sections));
            self.wake_at = sections.debounce.due_at();
        }
        if let Some(keeper) = &mut self.ids {
            actions.extend(keeper.save(now, ids).map(FilesAction::Ids));
            self.wake_at = [self.wake_at, keeper.wake_at()].into_iter().flatten().min();
        }
        actions
    }

    /// Whether so many servers are missing that the pass is to wait for a reload on the files rather than add them; for
    /// 10 s at most. To be asked after everything was read anew.
    pub fn cold_start(
        &mut self,
        now: Tick,
        view: &View,
        observed: &Observed,
        worker: &Info,
        ids: &Ids,
    ) -> bool {
        // A list is enough: until the watch is open as well, hundreds would be added by commands.
        let Some(sections) = self.sections.as_mut().filter(|sections| sections.reloads && view.is_listed())
        else {
            return false;
        };
        let kept = sections.requests.kept;
        let counts = || Counts::of(view, observed, ids);
        let replace = sections.bulk_load.step(now, worker, kept, counts);
        if sections.replace != replace {
            sections.replace = replace;
            sections.debounce.hurry();
        }
        replace.is_some()
    }

    /// When [`Self::draw`] has something to do.
    #[must_use]
    pub fn wake_at(&self) -> Option<Tick> {
        self.wake_at
    }
}

impl Sections {
    fn draw(
        &mut self,
        now: Tick,
        known: &Known<'_>,
        routes: &Arc<Routes>,
        ids: &mut Ids,
    ) -> Option<Arc<Desired>> {
        if !self.debounce.take(now) {
            return None;
        }
        let mut sections = self.desired.sections.clone();
        let dirty = match std::mem::replace(&mut self.dirty, Dirty::Only(BTreeSet::new())) {
            Dirty::Only(services) => services,
            Dirty::All => {
                sections = BTreeMap::new();
                known.services().cloned().collect()
            }
        };
        for service in dirty {
            match known.section(&service, ids) {
                Some(section) => sections.insert(service, Arc::new(section)),
                None => sections.remove(&service),
            };
        }
        self.drawings += 1;
        let (answers, replace, routes) = (self.requests.latest, self.replace, Arc::clone(routes));
        let drawing = self.desired.drawing;
        let desired = Desired { complete: true, drawing, answers, replace, sections, routes };
        if *self.desired == desired {
            return None;
        }
        self.desired = Arc::new(Desired { drawing: self.drawings, ..desired });
        Some(Arc::clone(&self.desired))
    }
}

#[cfg(test)]
mod tests {
    use registry::follow::{Entry, Event};
    use registry::key::{Key, Prefix};

    use super::*;
    use crate::plan::FirstCheck;
    use crate::plan::observed::Backend;

    const COUNT: usize = 1_000;

    fn policy() -> Policy {
        let id_base = 10_000.try_into().unwrap();
        let (first_check, restart_gap) = (FirstCheck::Skip, Duration::from_secs(30));
        Policy { check: None, id_base, first_check, init_state: false, restart_gap }
    }

    fn listed() -> View {
        let mut view = View::new(Prefix::default());
        let entry = |(revision, n): (i64, usize)| Entry {
            key: Prefix::default().text(&Key::Instance(format!("web/web-{n}").parse().unwrap())).into_bytes(),
            value: format!(r#"{{"address":"10.0.0.1","port":{}}}"#, 1_000 + n).into_bytes(),
            lease: 7,
            create_revision: revision,
            mod_revision: revision,
        };
        let entries = (1..).zip(0..COUNT).map(entry).collect();
        view.fold_instances(Tick::default(), Event::Listed { cluster: 1, revision: 2_000, entries });
        view.fold_overrides(Tick::default(), Event::Listed { cluster: 1, revision: 2_000, entries: vec![] });
        view
    }

    /// etcd is lost again between the list and the watch: HAProxy would stay empty until the hold's end.
    #[test]
    fn a_haproxy_that_starts_from_the_files_gets_them_of_a_list() {
        let (mut files, view, mut ids) = (Files::kept(policy(), true), listed(), Ids::new(policy().id_base));
        let mut observed = Observed::default();
        observed.backends.insert("web".parse().unwrap(), Backend::default());
        assert!(!view.in_sync() && view.is_listed());
        files.mark_dirty(&Scope::All);
        let mut draw = |files: &mut Files| {
            files.draw(
                Tick::from_ms(5),
                (&view, &Arc::default()),
                (&observed, &BTreeSet::new()),
                true,
                &mut ids,
            )
        };
        assert!(draw(&mut files).is_empty(), "what is not known for certain does not replace what was");

        let version = "2.6.12".parse().unwrap();
        let worker =
            Info { version, pid: 7, started_s: 1, stopping: false, uptime_s: 1, node: String::new() };
        assert!(files.cold_start(Tick::from_ms(5), &view, &observed, &worker, &Ids::new(policy().id_base)));
        let mut drawn = draw(&mut files);
        let Some(FilesAction::Sections(desired)) = drawn.pop() else { panic!("{drawn:?}") };
        assert_eq!(desired.replace, Some(7));
        assert_eq!(desired.sections[&"web".parse().unwrap()].lines.len(), COUNT);
    }
}
