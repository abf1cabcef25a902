//! HAProxy's counters, read as often as a page is open and at most once a second, over a session of its own: a look costs
//! the pass nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use registry::name::{InstanceId, ServiceName};
use registry::time::{Clock, Tick};
use tokio::sync::Mutex;

use super::report::Report;
use crate::status::Phase;
use haproxy::answer::stat::{self, Counters};
use haproxy::{Command, Dialogue};

/// Shortest time between two reads: HAProxy's own rates are of one second.
const READ_EVERY: Duration = Duration::from_secs(1);
/// Longest that HAProxy may take; it answers 10,000 rows in 50 ms.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Samples that are remembered of each service: two minutes while a page is open.
pub(super) const HISTORY_MAX: usize = 120;

/// What the instances have to do.
#[derive(Clone, Debug, Default)]
pub(super) struct Traffic {
    /// Of each server, as last read.
    pub(super) servers: BTreeMap<InstanceId, Counters>,
    /// Of each service, the latest last.
    pub(super) history: BTreeMap<ServiceName, VecDeque<Sample>>,
}

/// One service at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    /// Requests a second, of all its servers.
    pub(super) rate: u64,
    /// How many of them serve.
    pub(super) serving: usize,
}

/// Reads them.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    socket: Arc<PathBuf>,
    last: Arc<Mutex<(Option<Tick>, Arc<Traffic>)>>,
}

impl Meter {
    /// Of the HAProxy at `socket`.
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket: Arc::new(socket), last: Arc::default() }
    }

    /// At most a second old. While HAProxy does not answer there are no counters, and the history has a gap.
    pub(super) async fn read(&self, report: &Report) -> Arc<Traffic> {
        let mut last = self.last.lock().await;
        let now = Clock.now();
        if last.0.is_some_and(|at| now.since(at) < READ_EVERY) {
            return Arc::clone(&last.1);
        }
        let servers = match report.haproxy {
            Some(_) => self.ask(report).await.unwrap_or_default(),
            None => BTreeMap::new(),
        };
        let mut history = last.1.history.clone();
        sample(&mut history, report, &servers);
        *last = (Some(now), Arc::new(Traffic { servers, history }));
        Arc::clone(&last.1)
    }

    async fn ask(&self, report: &Report) -> Option<BTreeMap<InstanceId, Counters>> {
        let mut dialogue = Dialogue::connect(&self.socket, ANSWER_MAX).await.ok()?;
        let answers = dialogue.ask(&[Command::ShowStatServers(None)]).await.ok()?;
        let rows = stat::counters(answers.first()?).ok()?;
        let known = |(path, counters): (haproxy::ServerPath, Counters)| {
            let (service, instance) =
                (path.backend.as_ref().parse().ok()?, path.server.as_ref().parse().ok()?);
            let id = InstanceId { service, instance };
            report.instances.contains_key(&id).then_some((id, counters))
        };
        Some(rows.into_iter().filter_map(known).collect())
    }
}

/// One more of each service; those that are gone are forgotten.
fn sample(
    history: &mut BTreeMap<ServiceName, VecDeque<Sample>>,
    report: &Report,
    servers: &BTreeMap<InstanceId, Counters>,
) {
    let mut now: BTreeMap<&ServiceName, Sample> =
        report.services.keys().map(|service| (service, Sample::default())).collect();
    for (id, one) in &report.instances {
        if let Some(sample) = now.get_mut(&id.service) {
            sample.serving += usize::from(one.status.phase == Phase::Up);
            sample.rate += servers.get(id).map_or(0, |counters| counters.rate);
        }
    }
    let names: BTreeSet<&ServiceName> = now.keys().copied().collect();
    history.retain(|service, _| names.contains(service));
    for (service, sample) in now {
        let samples = history.entry(service.clone()).or_default();
        if samples.len() >= HISTORY_MAX {
            samples.pop_front();
        }
        samples.push_back(sample);
    }
}
