//! The task: renders, has HAProxy check, puts in place, and reloads where a backend is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use registry::name::ServiceName;
use registry::time::{Clock, Tick};
use tokio::sync::watch;
use tokio::time::timeout;

use super::choose::{Choice, Found, choose};
use super::desired::{Desired, Presence, Section};
use super::folder::{Folder, Scan};
use super::master;
use super::news::News;
use super::reloads::{Reason, Reloads, Step};
use super::search::Search;
use super::template::Templates;
use super::verify::{Refused, Verifier};

/// How often everything is looked at without a change: templates and hand edits.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How soon what failed is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Longest that is waited for the latest before a reload; a pass takes milliseconds.
const LATEST_MAX: Duration = Duration::from_secs(2);

type Services = BTreeSet<ServiceName>;
type Told = watch::Receiver<Arc<Desired>>;

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
    news: News,
    done: Report,
    out: Out,
    wake_at: Tick,
}

/// What the writer says.
pub(super) struct Out {
    pub(super) report: watch::Sender<Report>,
    /// Counts its wishes for the latest.
    pub(super) wish: watch::Sender<u64>,
}

impl Writer {
    pub(super) fn new(
        folder: Folder,
        templates: Templates,
        verifier: Verifier,
        master: Option<PathBuf>,
        out: Out,
    ) -> Self {
        let (reloads, shunned, news) = (Reloads::default(), BTreeMap::new(), News::default());
        let (done, wake_at) = (Report::default(), Tick::default());
        Self { folder, templates, verifier, master, reloads, shunned, news, done, out, wake_at }
    }

    /// Writes what it is told, until who tells it is gone.
    pub(super) async fn run(mut self, mut told: Told) {
        loop {
            let desired = Arc::clone(&told.borrow_and_update());
            self.wake_at = Clock.now().plus(LOOK_EVERY);
            if desired.complete {
                match self.round(&desired, &mut told).await {
                    Ok(()) => self.news.settled("disk"),
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

    fn failed(&mut self, error: &io::Error) {
        let dir = self.folder.path().display();
        self.news.error("disk", || {
            format!("cannot keep the files in {dir}: {error}\n  HAProxy would start on those before; see docs/files.md")
        });
        self.wake_by(AGAIN_AFTER);
    }

    fn wake_by(&mut self, after: Duration) {
        self.wake_at = self.wake_at.min(Clock.now().plus(after));
    }

    /// Brings the files up to `desired`, and HAProxy up to the files where a backend is missing.
    async fn round(&mut self, desired: &Arc<Desired>, told: &mut Told) -> io::Result<()> {
        let (missing, by_hand) = self.files(desired).await?;
        let Some(master) = self.master.clone() else {
            self.without_master(&missing);
            return Ok(());
        };
        match self.reloads.step(Clock.now(), &missing, &by_hand) {
            Step::Rest => self.news.settled("reload"),
            Step::Wait(until) => self.wake_at = self.wake_at.min(until),
            Step::Blocked => self.blocked(&missing, &by_hand),
            Step::Reload => self.reload(&master, told).await?,
        }
        Ok(())
    }

    /// Brings the files up to `desired`. Returns backends whose file is in place and that HAProxy has not, and those with
    /// servers of ours that are in no file of ours.
    async fn files(&mut self, desired: &Arc<Desired>) -> io::Result<(Services, Services)> {
        let (folder, templates, desired) = (self.folder.clone(), self.templates.clone(), Arc::clone(desired));
        let drawn = blocking(move || draw(&folder, &templates, &desired)).await?;
        let Drawn { scan, choice, rendered, failed } = drawn;
        self.complain(&scan, &choice, &failed);
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
        let absent = |section: &Section| section.presence == Presence::Absent && section.serves();
        let missing = choice.render.iter().filter(|(service, it)| placed.contains(service) && absent(it));
        Ok((missing.map(|(service, _)| service.clone()).collect(), choice.by_hand))
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
            self.news.settled("base");
        } else {
            self.base_refused(whole.as_deref().unwrap_or_default());
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
            self.news.settled(&topic(service));
            tracing::debug!(%service, "file written");
        }
        self.done.written += u64::try_from(accepted.len()).unwrap_or(0);
        Ok(accepted)
    }

    fn base_refused(&mut self, said: &str) {
        self.done.refused += 1;
        self.news.error("base", || {
            format!(
                "HAProxy takes neither your own files as they are nor what was to be written; nothing was: {said}\n  HAProxy \
                 would not start: mend them, and check --conf-base"
            )
        });
        self.wake_by(AGAIN_AFTER);
    }

    fn refused(&mut self, service: &ServiceName, said: &str) {
        self.done.refused += 1;
        let file = self.folder.section(service);
        self.news.error(&topic(service), || {
            format!(
                "HAProxy refuses the section of {service}, and {} stays as it was: {said}\n  mend its template; tried again by itself",
                file.display()
            )
        });
        self.shunned.insert(service.clone(), Clock.now().plus(AGAIN_AFTER));
        self.wake_by(AGAIN_AFTER);
    }

    /// Tells people what is theirs to do.
    fn complain(&mut self, scan: &Scan, choice: &Choice, failed: &BTreeMap<ServiceName, String>) {
        for (service, found) in &scan.sections {
            if *found == Found::Theirs {
                let file = self.folder.section(service);
                self.news.warn(&topic(service), || {
                    format!("{} was not written by lb-sync and is left alone\n  empty it to hand the section over", file.display())
                });
            }
        }
        for (service, error) in failed {
            self.done.refused += 1;
            let file = self.folder.section(service);
            self.news.error(&topic(service), || {
                format!("no section for {service}, and {} stays as it was: {error}", file.display())
            });
        }
        if choice.too_many > 0 {
            let (rest, kept) = (choice.too_many, choice.render.len());
            self.news.error("room", || {
                format!("{rest} services get no section: {kept} are kept already\n  remove files of services that are no more")
            });
        }
    }

    /// Has HAProxy take the files in: as they should be at this moment, since whoever has joined or left in the meantime
    /// would be wrong until the next pass.
    async fn reload(&mut self, master: &Path, told: &mut Told) -> io::Result<()> {
        self.out.wish.send_modify(|wish| *wish += 1);
        let wish = *self.out.wish.borrow();
        let latest = timeout(LATEST_MAX, told.wait_for(|desired| desired.answers >= wish)).await;
        let Ok(Ok(latest)) = latest.map(|latest| latest.map(|desired| Arc::clone(&desired))) else {
            // Out of sync with etcd, most likely: no time for a reload.
            self.wake_by(AGAIN_AFTER);
            return Ok(());
        };
        let (missing, by_hand) = self.files(&latest).await?;
        if missing.is_empty() || !by_hand.is_empty() {
            return Ok(());
        }
        // The administrator's files may have changed since the sections were checked.
        if let Err(Refused(said)) = self.verifier.check(self.folder.path()).await? {
            self.base_refused(&said);
        } else {
            self.reloaded(master::reload(master).await, &missing);
        }
        Ok(())
    }

    fn reloaded(&mut self, outcome: Result<(), master::ReloadError>, missing: &Services) {
        let services = list(missing);
        match outcome {
            Ok(()) => {
                *self.done.reloads.entry(Reason::NewBackend).or_default() += 1;
                tracing::info!(services, reason = "new backend", "HAProxy reloaded");
                self.news.settled("reload");
            }
            Err(error) => {
                self.done.reloads_failed += 1;
                self.news.error("reload", || format!("{services} cannot be brought in: {error}"));
            }
        }
        self.wake_by(AGAIN_AFTER);
    }

    fn without_master(&mut self, missing: &Services) {
        if missing.is_empty() {
            return self.news.settled("reload");
        }
        let (services, dir) = (list(missing), self.folder.path().display());
        self.news.warn("reload", || {
            format!(
                "HAProxy has no backend for {services}; the sections are in {dir}\n  reload HAProxy to bring them in, or have lb-sync do it: --master-socket"
            )
        });
    }

    fn blocked(&mut self, missing: &Services, by_hand: &Services) {
        let (services, theirs) = (list(missing), list(by_hand));
        self.news.warn("reload", || {
            format!(
                "HAProxy has no backend for {services}, and is not reloaded: {theirs}, written by hand, would be without \
                 servers for a moment\n  hand those sections over (docs/files.md), or reload HAProxy when that does not matter"
            )
        });
    }
}

/// What a look at the directory and the templates gave.
struct Drawn {
    scan: Scan,
    choice: Choice,
    rendered: BTreeMap<ServiceName, String>,
    failed: BTreeMap<ServiceName, String>,
}

fn draw(folder: &Folder, templates: &Templates, desired: &Desired) -> io::Result<Drawn> {
    let scan = folder.scan()?;
    let choice = choose(desired, &scan.sections);
    let (mut rendered, mut failed) = (BTreeMap::new(), BTreeMap::new());
    for (service, section) in &choice.render {
        match templates.render(service, section, &folder.restarting_map(service)) {
            Ok(text) => drop(rendered.insert(service.clone(), text)),
            Err(error) => drop(failed.insert(service.clone(), error.to_string())),
        }
    }
    Ok(Drawn { scan, choice, rendered, failed })
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

fn topic(service: &ServiceName) -> String {
    format!("service {service}")
}

fn list(services: &Services) -> String {
    /// Most names in a line of the log.
    const NAMES_MAX: usize = 10;
    let names: Vec<&str> = services.iter().take(NAMES_MAX).map(ServiceName::as_str).collect();
    let rest = services.len().saturating_sub(NAMES_MAX);
    if rest == 0 { names.join(", ") } else { format!("{} and {rest} more", names.join(", ")) }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
