//! The machine of the writer: which deed comes next, so that the files equal what is desired and HAProxy has a backend for
//! each. It does no I/O: the task ([`super::writer`]) performs one deed at a time and returns what came of it.
//!
//! A round is: look at directory and templates ([`Deed::Draw`]), have HAProxy check what differs ([`Deed::Check`], by
//! halves where it refuses: [`super::bisect`]), put in place what it takes ([`Deed::PutInPlace`]), and reload where a backend
//! is missing ([`Deed::CheckFolder`], then [`Deed::Reload`]).

mod messages;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use daemon::log_once::LogOnce;
use haproxy::master::ReloadError;
use registry::name::ServiceName;
use registry::time::Tick;

use super::WriterRequests;
use super::bisect::Bisect;
use super::desired::{Desired, Presence};
use super::folder::{Folder, Scan};
use super::ownership::{Found, Ownership};
use super::reloads::{Reason, Reloads, Step};
use super::verify::Refused;

/// How often everything is looked at without a change: templates and hand edits.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How soon what failed is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// Fewest servers in the files for which a bulk load is worth a reload.
const BULK_MIN: usize = 1_000;
/// Longest wait for the latest sections before a reload; a round of the balancer takes milliseconds.
const LATEST_MAX: Duration = Duration::from_secs(2);

pub(super) type Services = BTreeSet<ServiceName>;
pub(super) type Texts = BTreeMap<ServiceName, String>;

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

/// What happened.
#[derive(Debug)]
pub(super) enum Input {
    /// This is desired from now on, or [`Machine::wake_at`] has come.
    Desired(Arc<Desired>),
    /// What the directory and the templates gave.
    Drawn(Drawn),
    /// What HAProxy says of what it was shown.
    Verdict(Result<(), Refused>),
    /// The sections are in place.
    Placed,
    /// What came of the reload.
    Reloaded(Result<(), ReloadError>),
    /// The deed could not be done: the error, in words.
    Failed(String),
}

/// Something to do. At most one is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// Write the map of routes, look at the directory, and render the sections that are ours.
    Draw(Arc<Desired>),
    /// Show HAProxy the directory as it would be with these.
    Check(Arc<Scan>, Texts),
    /// Rename these into place.
    PutInPlace(Texts),
    /// Have HAProxy check the directory as it is.
    CheckFolder,
    /// Reload HAProxy through its master socket.
    Reload,
    /// Ask the balancer.
    Request(WriterRequests),
}

/// What a look at the directory and the templates gave.
#[derive(Debug)]
pub(super) struct Drawn {
    pub(super) scan: Scan,
    pub(super) ownership: Ownership,
    /// Sections that rendered.
    pub(super) rendered: Texts,
    /// Sections that did not, with the error.
    pub(super) failed: Texts,
    /// Whether the map of routes is ours.
    pub(super) routes_ours: bool,
}

/// The machine.
#[derive(Debug)]
pub(super) struct Machine {
    /// For its paths only.
    folder: Folder,
    /// Whether there is a master socket.
    can_reload: bool,
    state: State,
    reloads: Reloads,
    /// Sections that were refused, and until when they are not tried again.
    retry_after: BTreeMap<ServiceName, Tick>,
    requests: WriterRequests,
    /// What the balancer was told of them last.
    told: WriterRequests,
    /// The drawing that is written, or was last.
    drawing: u64,
    /// The worker that was to be replaced last.
    replaced: Option<u32>,
    report: Report,
    log_once: LogOnce,
    wake_at: Tick,
}

#[derive(Debug)]
enum State {
    Idle,
    Drawing {
        desired: Arc<Desired>,
        purpose: Purpose,
    },
    Checking {
        candidate: Candidate,
        purpose: Purpose,
    },
    Placing {
        files: FilesState,
        accepted: Services,
        purpose: Purpose,
    },
    /// A reload waits for sections that answer request `latest`.
    AwaitingLatest {
        latest: u64,
        until: Tick,
    },
    CheckingFolder(Reload),
    Reloading(Reload),
}

/// What a round is for.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    /// The files are to follow what is desired; `replace` is the worker that a bulk load would replace.
    Follow { replace: Option<u32> },
    /// The sections are the latest, and HAProxy is to be reloaded on them.
    Reload,
}

/// A reload under way.
#[derive(Debug)]
struct Reload {
    reason: Reason,
    services: Services,
    /// The worker that is told to the balancer as kept if the reload fails.
    replaces: Option<u32>,
}

/// Sections that HAProxy is asked about.
#[derive(Debug)]
struct Candidate {
    scan: Arc<Scan>,
    changes: Texts,
    files: FilesState,
    bisect: Bisect<ServiceName>,
    /// What HAProxy said of all together, and last of each.
    said_of_all: Option<String>,
    said_of: Texts,
}

/// How the files and HAProxy stand to each other.
#[derive(Clone, Debug)]
struct FilesState {
    ownership: Ownership,
    /// Services whose section is in place.
    placed: Services,
}

/// [`FilesState`], summed up.
struct Comparison {
    /// Backends whose file is in place and that HAProxy has not.
    missing: Services,
    /// Backends whose file is in place and that HAProxy has, and how many servers are in those files.
    present: Services,
    servers: usize,
    /// Whether it is known what HAProxy has.
    haproxy_answers: bool,
}

impl Machine {
    /// Nothing is desired yet. `can_reload`: there is a master socket.
    pub(super) fn new(now: Tick, folder: Folder, can_reload: bool) -> Self {
        Self {
            folder,
            can_reload,
            state: State::Idle,
            reloads: Reloads::new(),
            retry_after: BTreeMap::new(),
            requests: WriterRequests::default(),
            told: WriterRequests::default(),
            drawing: 0,
            replaced: None,
            report: Report::default(),
            log_once: LogOnce::default(),
            wake_at: now.plus(LOOK_EVERY),
        }
    }

    /// What has been done so far.
    pub(super) fn report(&self) -> &Report {
        &self.report
    }

    /// When [`Input::Desired`] is wanted, changed or not.
    pub(super) fn wake_at(&self) -> Tick {
        match self.state {
            State::AwaitingLatest { until, .. } => until,
            _ => self.wake_at,
        }
    }

    /// The next deed; `None`: wait for [`Input::Desired`].
    pub(super) fn step(&mut self, now: Tick, input: Input) -> Option<Deed> {
        let deed = self.decide(now, input);
        let writes =
            matches!(self.state, State::Drawing { .. } | State::Checking { .. } | State::Placing { .. });
        if !writes {
            self.requests.settled = self.drawing;
        }
        match deed {
            None | Some(Deed::Request(_)) if self.told != self.requests => {
                self.told = self.requests;
                Some(Deed::Request(self.requests))
            }
            deed => deed,
        }
    }

    fn decide(&mut self, now: Tick, input: Input) -> Option<Deed> {
        match (std::mem::replace(&mut self.state, State::Idle), input) {
            (State::Idle, Input::Desired(desired)) => self.follow(now, desired),
            (State::AwaitingLatest { latest, until }, Input::Desired(desired)) => {
                self.awaited(now, desired, latest, until)
            }
            (State::Drawing { desired, purpose }, Input::Drawn(drawn)) => {
                self.drawn(now, &desired, drawn, purpose)
            }
            (State::Checking { candidate, purpose }, Input::Verdict(verdict)) => {
                Some(self.checked(now, candidate, verdict, purpose))
            }
            (State::Placing { files, accepted, purpose }, Input::Placed) => {
                self.placed(now, files, accepted, purpose)
            }
            (State::CheckingFolder(reload), Input::Verdict(Ok(()))) => {
                self.state = State::Reloading(reload);
                Some(Deed::Reload)
            }
            (State::CheckingFolder(reload), Input::Verdict(Err(Refused(said)))) => {
                self.log_base_refused(now, &said);
                self.keep_worker(reload.replaces)
            }
            (State::Reloading(reload), Input::Reloaded(outcome)) => {
                let failed = outcome.is_err();
                self.log_reloaded(outcome, &reload);
                if failed { self.keep_worker(reload.replaces) } else { self.rest() }
            }
            (_, Input::Failed(error)) => {
                self.log_failed(now, &error);
                None
            }
            // The task performs one deed at a time: nothing else comes.
            (state, _) => {
                self.state = state;
                None
            }
        }
    }

    fn wake_by(&mut self, at: Tick) {
        self.wake_at = self.wake_at.min(at);
    }

    /// Everything that was begun is done.
    fn rest(&mut self) -> Option<Deed> {
        self.log_once.settled("disk");
        None
    }

    fn follow(&mut self, now: Tick, desired: Arc<Desired>) -> Option<Deed> {
        self.wake_at = now.plus(LOOK_EVERY);
        if !desired.complete {
            return None;
        }
        let purpose = Purpose::Follow { replace: desired.replace };
        Some(self.draw(desired, purpose))
    }

    fn draw(&mut self, desired: Arc<Desired>, purpose: Purpose) -> Deed {
        self.drawing = desired.drawing;
        self.state = State::Drawing { desired: Arc::clone(&desired), purpose };
        Deed::Draw(desired)
    }

    /// Sections came while a reload waits for the latest.
    fn awaited(&mut self, now: Tick, desired: Arc<Desired>, latest: u64, until: Tick) -> Option<Deed> {
        if desired.answers >= latest {
            return Some(self.draw(desired, Purpose::Reload));
        }
        if now < until {
            self.state = State::AwaitingLatest { latest, until };
            return None;
        }
        // Out of sync with etcd, most likely: no time for a reload.
        self.wake_by(now.plus(RETRY_AFTER));
        None
    }

    fn drawn(&mut self, now: Tick, desired: &Desired, drawn: Drawn, purpose: Purpose) -> Option<Deed> {
        let Drawn { scan, ownership, rendered, failed, routes_ours } = drawn;
        self.log_ownership(&scan, &ownership, &failed);
        self.log_routes_map(routes_ours || desired.routes.is_empty());
        self.retry_after.retain(|_, until| now < *until);
        let changes: Texts = rendered
            .into_iter()
            .filter(|(service, text)| scan.sections.get(service) != Some(&Found::Ours(text.clone())))
            .filter(|(service, _)| !self.retry_after.contains_key(service))
            .collect();
        let files = FilesState { ownership, placed: in_place(&scan) };
        if changes.is_empty() {
            return self.in_place(now, &files, purpose);
        }
        let bisect = Bisect::new(changes.keys().cloned());
        let candidate = Candidate {
            scan: Arc::new(scan),
            changes,
            files,
            bisect,
            said_of_all: None,
            said_of: Texts::new(),
        };
        Some(self.check(now, candidate, purpose))
    }

    /// Has the next part of the changes checked; once all is known, has those that HAProxy takes put in place.
    fn check(&mut self, now: Tick, candidate: Candidate, purpose: Purpose) -> Deed {
        if let Some(these) = candidate.bisect.next() {
            let shown = only(&candidate.changes, &these);
            let scan = Arc::clone(&candidate.scan);
            self.state = State::Checking { candidate, purpose };
            return Deed::Check(scan, shown);
        }
        let Candidate { changes, files, bisect, said_of_all, said_of, .. } = candidate;
        let (accepted, refused, base_taken) = bisect.outcome();
        if base_taken {
            self.log_once.settled("base");
        } else {
            self.log_base_refused(now, said_of_all.as_deref().unwrap_or_default());
        }
        if accepted.len() + refused.len() < changes.len() {
            self.wake_by(now.plus(RETRY_AFTER));
        }
        for service in refused {
            self.log_refused(now, &service, said_of.get(&service).map_or("", String::as_str));
        }
        let texts = only(&changes, &accepted);
        self.state = State::Placing { files, accepted, purpose };
        Deed::PutInPlace(texts)
    }

    fn checked(
        &mut self,
        now: Tick,
        mut candidate: Candidate,
        verdict: Result<(), Refused>,
        purpose: Purpose,
    ) -> Deed {
        let these = candidate.bisect.next().unwrap_or_default();
        candidate.bisect.verdict(verdict.is_ok());
        if let Err(Refused(said)) = verdict {
            candidate.said_of_all.get_or_insert_with(|| said.clone());
            candidate.said_of.extend(these.into_iter().map(|service| (service, said.clone())));
        }
        self.check(now, candidate, purpose)
    }

    fn placed(
        &mut self,
        now: Tick,
        mut files: FilesState,
        accepted: Services,
        purpose: Purpose,
    ) -> Option<Deed> {
        for service in &accepted {
            self.log_written(service);
        }
        self.report.written += u64::try_from(accepted.len()).unwrap_or(0);
        files.placed.extend(accepted);
        self.in_place(now, &files, purpose)
    }

    /// The files are as they should be, as far as HAProxy takes them.
    fn in_place(&mut self, now: Tick, files: &FilesState, purpose: Purpose) -> Option<Deed> {
        let comparison = files.compare();
        let by_hand = &files.ownership.by_hand;
        if !self.can_reload {
            self.log_without_master(&comparison.missing);
            return self.rest();
        }
        let replace = match purpose {
            Purpose::Reload => return self.reload_latest(now, comparison.missing, by_hand),
            Purpose::Follow { replace } => replace.filter(|worker| self.replaced != Some(*worker)),
        };
        if let Some(worker) = replace {
            self.replaced = Some(worker);
            return self.bulk_load(now, worker, comparison, by_hand);
        }
        if !comparison.haproxy_answers {
            return self.rest();
        }
        match self.reloads.step(now, &comparison.missing, by_hand) {
            Step::Rest => self.log_once.settled("reload"),
            Step::Wait(until) => self.wake_by(until),
            Step::Blocked => self.log_blocked(&comparison.missing, by_hand),
            Step::Reload => {
                // On the files as they are now, an instance that has joined or left since would be wrong until the next
                // round: the balancer is asked for the latest first.
                self.requests.latest += 1;
                let latest = self.requests.latest;
                self.state = State::AwaitingLatest { latest, until: now.plus(LATEST_MAX) };
                return Some(Deed::Request(self.requests));
            }
        }
        self.rest()
    }

    /// The files are the latest: reloads for what is still missing.
    fn reload_latest(&mut self, now: Tick, missing: Services, by_hand: &Services) -> Option<Deed> {
        if missing.is_empty() || !by_hand.is_empty() {
            return self.rest();
        }
        let still_missing: Services = self.reloads.still_missing().intersection(&missing).cloned().collect();
        if !still_missing.is_empty() {
            self.log_fruitless(&still_missing);
        }
        let (reason, services) = (Reason::NewBackend, missing);
        Some(self.reload(now, Reload { reason, services, replaces: None }))
    }

    /// Has HAProxy take in what is in the files and not in `worker`; or says that it cannot be done.
    fn bulk_load(
        &mut self,
        now: Tick,
        worker: u32,
        comparison: Comparison,
        by_hand: &Services,
    ) -> Option<Deed> {
        let Comparison { present, servers, .. } = comparison;
        if !by_hand.is_empty() || servers < BULK_MIN {
            return self.keep_worker(Some(worker));
        }
        let (reason, services, replaces) = (Reason::ColdStart, present, Some(worker));
        Some(self.reload(now, Reload { reason, services, replaces }))
    }

    /// Reloads HAProxy, if it takes the files: the administrator's may have changed since the sections were checked.
    fn reload(&mut self, now: Tick, reload: Reload) -> Deed {
        self.wake_by(now.plus(RETRY_AFTER));
        self.state = State::CheckingFolder(reload);
        Deed::CheckFolder
    }

    /// Tells the balancer that no reload replaces this worker.
    fn keep_worker(&mut self, worker: Option<u32>) -> Option<Deed> {
        self.log_once.settled("disk");
        self.requests.kept = Some(worker?);
        Some(Deed::Request(self.requests))
    }
}

impl FilesState {
    fn compare(&self) -> Comparison {
        let (mut missing, mut present, mut servers) = (Services::new(), Services::new(), 0);
        let mut haproxy_answers = true;
        let placed = |service: &&ServiceName| self.placed.contains(*service);
        for (service, section) in self.ownership.render.iter().filter(|(service, _)| placed(service)) {
            match section.presence {
                Presence::Absent if section.serves() => drop(missing.insert(service.clone())),
                Presence::Present { .. } | Presence::Made => {
                    servers += section.lines.len();
                    present.insert(service.clone());
                }
                // Nothing is known of a section that the registry no longer has.
                Presence::Unknown => haproxy_answers &= section.lines.is_empty(),
                Presence::Absent => {}
            }
        }
        Comparison { missing, present, servers, haproxy_answers }
    }
}

/// The services whose section is in place, and is one: an empty file hands it over only.
fn in_place(scan: &Scan) -> Services {
    let written = |found: &Found| matches!(found, Found::Ours(text) if !text.trim().is_empty());
    scan.sections.iter().filter(|(_, found)| written(found)).map(|(service, _)| service.clone()).collect()
}

fn only(changes: &Texts, which: &Services) -> Texts {
    let some = changes.iter().filter(|(service, _)| which.contains(*service));
    some.map(|(service, text)| (service.clone(), text.clone())).collect()
}

#[cfg(test)]
mod tests;
