//! The task: renders, has HAProxy check, puts in place, and reloads where a backend is missing.

mod say;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use daemon::log_once::LogOnce;
use registry::name::ServiceName;
use registry::time::{Clock, Tick};
use tokio::sync::watch;
use tokio::time::timeout;

use super::WriterRequests;
use super::choose::{Choice, Found, choose};
use super::desired::{Desired, Presence};
use super::folder::{Folder, Scan};
use super::reloads::{Reason, Reloads, Step};
use super::search::Search;
use super::template::Templates;
use super::verify::{Refused, Verifier};
use haproxy::master;

use say::topic;

/// How often everything is looked at without a change: templates and hand edits.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How soon what failed is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Fewest servers in the files that a cold start is worth a reload for.
const COLD_MIN: usize = 1_000;
/// Longest that is waited for the latest before a reload; a pass takes milliseconds.
const LATEST_MAX: Duration = Duration::from_secs(2);

type Services = BTreeSet<ServiceName>;
type DesiredReceiver = watch::Receiver<Arc<Desired>>;

/// What has been done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Sections put in place.
    pub written: u64,
    /// Times that HAProxy or a template refused a section; the last good one stayed.
    pub refused: u64,
    /// Reloads that worked, by reason.
    pub reloads: BTreeMap<Reason, u64>,
    /// Reloads that did not.
    pub reloads_failed: u64,
}

/// The task and what it owns.
pub(super) struct Writer {
    folder: Folder,
    templates: Templates,
    verifier: Verifier,
    master: Option<PathBuf>,
    reloads: Reloads,
    /// Sections that were refused are not tried before.
    shunned: BTreeMap<ServiceName, Tick>,
    log_once: LogOnce,
    done: Report,
    out: Out,
    /// The worker that was to be replaced last.
    replaced: Option<u32>,
    wake_at: Tick,
}

/// What the writer says.
pub(super) struct Out {
    pub(super) report: watch::Sender<Report>,
    pub(super) overriding: watch::Sender<WriterRequests>,
}

impl Writer {
    pub(super) fn new(
        folder: Folder,
        templates: Templates,
        verifier: Verifier,
        master: Option<PathBuf>,
        out: Out,
    ) -> Self {
        let (reloads, shunned, log_once) = (Reloads::new(), BTreeMap::new(), LogOnce::default());
        let (done, replaced, wake_at) = (Report::default(), None, Tick::default());
        Self { folder, templates, verifier, master, reloads, shunned, log_once, done, out, replaced, wake_at }
    }

    /// Writes what it is told, until who tells it is gone.
    pub(super) async fn run(mut self, mut told: DesiredReceiver) {
        loop {
            let desired = Arc::clone(&told.borrow_and_update());
            self.wake_at = Clock.now().plus(LOOK_EVERY);
            if desired.complete {
                match self.round(&desired, &mut told).await {
                    Ok(()) => self.log_once.settled("disk"),
                    Err(error) => self.failed(&error),
                }
                self.out.report.send_replace(self.done.clone());
            }
            tokio::select! {
                changed = told.changed() => if changed.is_err() { return },
                () = Clock.until(Some(self.wake_at)) => {}
            }
        }
    }

    fn wake_by(&mut self, after: Duration) {
        self.wake_at = self.wake_at.min(Clock.now().plus(after));
    }

    /// Brings the files up to `desired`, and HAProxy up to the files where a backend is missing.
    async fn round(&mut self, desired: &Arc<Desired>, told: &mut DesiredReceiver) -> io::Result<()> {
        let files = self.files(desired).await?;
        let Some(master) = self.master.clone() else {
            self.without_master(&files.missing);
            return Ok(());
        };
        if let Some(worker) = desired.replace.filter(|worker| self.replaced != Some(*worker)) {
            self.replaced = Some(worker);
            return self.cold_start(&master, worker, &files).await;
        }
        if !files.haproxy_answers {
            return Ok(());
        }
        match self.reloads.step(Clock.now(), &files.missing, &files.by_hand) {
            Step::Rest => self.log_once.settled("reload"),
            Step::Wait(until) => self.wake_at = self.wake_at.min(until),
            Step::Blocked => self.blocked(&files.missing, &files.by_hand),
            Step::Reload { vain } => self.new_backends(&master, vain, told).await?,
        }
        Ok(())
    }

    /// Brings the files up to `desired`.
    async fn files(&mut self, desired: &Arc<Desired>) -> io::Result<WriterState> {
        let desired_routes = desired.routes.len();
        let (folder, templates, desired) = (self.folder.clone(), self.templates.clone(), Arc::clone(desired));
        let drawn = blocking(move || draw(&folder, &templates, &desired)).await?;
        let Drawn { scan, choice, rendered, failed, routes_ours } = drawn;
        self.complain(&scan, &choice, &failed);
        self.routes_are_ours(routes_ours || desired_routes == 0);
        let now = Clock.now();
        self.shunned.retain(|_, until| now < *until);
        let changes: BTreeMap<ServiceName, String> = rendered
            .into_iter()
            .filter(|(service, text)| scan.sections.get(service) != Some(&Found::Ours(text.clone())))
            .filter(|(service, _)| !self.shunned.contains_key(service))
            .collect();
        let mut placed = in_place(&scan);
        if !changes.is_empty() {
            placed.extend(self.write(scan, changes).await?);
        }
        Ok(WriterState::of(choice, &placed))
    }

    /// Writes those of `changes` that HAProxy takes; returns which.
    async fn write(&mut self, scan: Scan, changes: BTreeMap<ServiceName, String>) -> io::Result<Services> {
        let (scan, changes) = (Arc::new(scan), Arc::new(changes));
        let mut search = Search::new(changes.keys().cloned());
        let (mut whole, mut last) = (None, BTreeMap::new());
        while let Some(these) = search.next() {
            let (folder, scan, changes) = (self.folder.clone(), Arc::clone(&scan), Arc::clone(&changes));
            let shown = these.clone();
            let dir = blocking(move || folder.stage(&scan, &only(&changes, &shown))).await?;
            let verdict = self.verifier.check(&dir).await?;
            search.verdict(verdict.is_ok());
            if let Err(Refused(said)) = verdict {
                whole.get_or_insert_with(|| said.clone());
                last.extend(these.into_iter().map(|service| (service, said.clone())));
            }
        }
        let (accepted, refused, base_taken) = search.outcome();
        if base_taken {
            self.log_once.settled("base");
        } else {
            self.base_refused(whole.as_deref().unwrap_or_default());
        }
        if accepted.len() + refused.len() < changes.len() {
            self.wake_by(AGAIN_AFTER);
        }
        for service in refused {
            self.refused(&service, last.get(&service).map_or("", String::as_str));
        }
        self.place(accepted, changes).await
    }

    async fn place(
        &mut self,
        accepted: Services,
        changes: Arc<BTreeMap<ServiceName, String>>,
    ) -> io::Result<Services> {
        let (folder, which) = (self.folder.clone(), accepted.clone());
        blocking(move || folder.place(&only(&changes, &which))).await?;
        for service in &accepted {
            self.log_once.settled(&topic(service));
            tracing::debug!(%service, "file written");
        }
        self.done.written += u64::try_from(accepted.len()).unwrap_or(0);
        Ok(accepted)
    }

    /// Has HAProxy take in backends that it has not, with the files as they should be at this moment: whoever has joined or
    /// left in the meantime would be wrong until the next pass.
    async fn new_backends(&mut self, master: &Path, vain: u32, told: &mut DesiredReceiver) -> io::Result<()> {
        self.out.overriding.send_modify(|wishes| wishes.latest += 1);
        let overriding = self.out.overriding.borrow().latest;
        let latest = timeout(LATEST_MAX, told.wait_for(|desired| desired.answers >= overriding)).await;
        let Ok(Ok(latest)) = latest.map(|latest| latest.map(|desired| Arc::clone(&desired))) else {
            // Out of sync with etcd, most likely: no time for a reload.
            self.wake_by(AGAIN_AFTER);
            return Ok(());
        };
        let WriterState { missing, by_hand, .. } = self.files(&latest).await?;
        if !missing.is_empty() && by_hand.is_empty() {
            if vain > 0 {
                self.in_vain(&missing);
            }
            self.reload(master, Reason::NewBackend, &missing).await?;
        }
        Ok(())
    }

    /// Has HAProxy take in what is in the files and not in `worker`; or says that it cannot be done.
    async fn cold_start(&mut self, master: &Path, worker: u32, files: &WriterState) -> io::Result<()> {
        let possible = files.by_hand.is_empty() && files.servers >= COLD_MIN;
        if !possible || !self.reload(master, Reason::ColdStart, &files.present).await? {
            self.out.overriding.send_modify(|wishes| wishes.kept = Some(worker));
        }
        Ok(())
    }

    /// Reloads HAProxy on files that it takes; whether that worked.
    async fn reload(&mut self, master: &Path, reason: Reason, services: &Services) -> io::Result<bool> {
        self.wake_by(AGAIN_AFTER);
        // The administrator's files may have changed since the sections were checked.
        if let Err(Refused(said)) = self.verifier.check(self.folder.path()).await? {
            self.base_refused(&said);
            return Ok(false);
        }
        let outcome = master::reload(master).await;
        let reloaded = outcome.is_ok();
        self.reloaded(outcome, reason, services);
        Ok(reloaded)
    }
}

/// How the files and HAProxy stand to each other.
struct WriterState {
    /// Backends whose file is in place and that HAProxy has not.
    missing: Services,
    /// Backends whose file is in place and that HAProxy has, and how many servers are in those files.
    present: Services,
    servers: usize,
    /// Backends with servers of ours that are in no file of ours.
    by_hand: Services,
    /// Else it is not known what HAProxy has.
    haproxy_answers: bool,
}

impl WriterState {
    fn of(choice: Choice, placed: &Services) -> Self {
        let (mut missing, mut present, mut servers) = (Services::new(), Services::new(), 0);
        let mut haproxy_answers = true;
        for (service, section) in choice.render.into_iter().filter(|(service, _)| placed.contains(service)) {
            match section.presence {
                Presence::Absent if section.serves() => drop(missing.insert(service)),
                Presence::Present { .. } | Presence::Made => {
                    servers += section.lines.len();
                    present.insert(service);
                }
                // A section that nobody asks for any more is not known of either.
                Presence::Unknown => haproxy_answers &= section.lines.is_empty(),
                Presence::Absent => {}
            }
        }
        Self { missing, present, servers, by_hand: choice.by_hand, haproxy_answers }
    }
}

/// What a look at the directory and the templates gave.
struct Drawn {
    scan: Scan,
    choice: Choice,
    rendered: BTreeMap<ServiceName, String>,
    failed: BTreeMap<ServiceName, String>,
    /// Whether the map of routes is ours.
    routes_ours: bool,
}

fn draw(folder: &Folder, templates: &Templates, desired: &Desired) -> io::Result<Drawn> {
    // Before a reload for a new service: its routes are to be there when it is.
    let routes_ours = folder.write_routes_map(&desired.routes)?;
    let scan = folder.scan()?;
    let choice = choose(desired, &scan.sections);
    let (mut rendered, mut failed) = (BTreeMap::new(), BTreeMap::new());
    for (service, section) in &choice.render {
        match templates.render(service, section, &folder.restarting_map(service)) {
            Ok(text) => drop(rendered.insert(service.clone(), text)),
            Err(error) => drop(failed.insert(service.clone(), error.to_string())),
        }
    }
    Ok(Drawn { scan, choice, rendered, failed, routes_ours })
}

/// The services whose section is in place, and is one: an empty file hands it over only.
fn in_place(scan: &Scan) -> Services {
    let written = |found: &Found| matches!(found, Found::Ours(text) if !text.trim().is_empty());
    scan.sections.iter().filter(|(_, found)| written(found)).map(|(service, _)| service.clone()).collect()
}

fn only<'a>(
    changes: &'a BTreeMap<ServiceName, String>,
    which: &Services,
) -> BTreeMap<&'a ServiceName, &'a str> {
    let some = changes.iter().filter(|(service, _)| which.contains(service));
    some.map(|(service, text)| (service, text.as_str())).collect()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
