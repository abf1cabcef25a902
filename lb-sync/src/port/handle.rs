//! Reports on demand: the port asks, the balancer's task answers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use registry::time::Clock;
use tokio::sync::{Mutex, mpsc, oneshot, watch};

use super::audit;
use super::journal::Journal;
use super::report::Report;
use super::traffic::Meter;
use crate::files;

/// A report is answered again for so long: a thousand questions a second cost the balancer ten reports.
const REPORT_AGE_MAX: Duration = Duration::from_millis(100);
/// Longest that the pass is waited for; while it fills a HAProxy with thousands it has no time.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Asks the balancer's task. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StatusHandle {
    asks: mpsc::Sender<oneshot::Sender<Arc<Report>>>,
    last: Arc<Mutex<Option<Arc<Report>>>>,
    pub(super) news: watch::Receiver<u64>,
    journal: Journal,
    meter: Meter,
    files: Option<watch::Receiver<files::Report>>,
}

/// The end of the balancer's task.
#[derive(Debug)]
pub struct StatusPublisher {
    asks: mpsc::Receiver<oneshot::Sender<Arc<Report>>>,
    news: watch::Sender<u64>,
    /// What has happened: the balancer writes, the port reads.
    pub journal: Journal,
}

/// The two ends. HAProxy's counters are read from its `socket`. `files` tells how often HAProxy was reloaded for a new backend.
/// The task, if there is one, writes all that happens to `audit_file`.
#[must_use]
pub fn open(
    socket: PathBuf,
    audit_file: Option<PathBuf>,
    files: Option<watch::Receiver<files::Report>>,
) -> (StatusHandle, StatusPublisher, Option<files::Task>) {
    let (ask, asks) = mpsc::channel(1);
    let (tell, news) = watch::channel(0);
    let (file, writing) = match audit_file {
        Some(path) => {
            let (send, news) = mpsc::channel(audit::WAITING_MAX);
            let writing: files::Task = Box::pin(audit::append_events(path, news));
            (Some(send), Some(writing))
        }
        None => (None, None),
    };
    let journal = Journal::written_to(file);
    let (meter, last) = (Meter::new(socket), Arc::default());
    let hub = StatusHandle { asks: ask, last, news, journal: journal.clone(), meter, files };
    (hub, StatusPublisher { asks, news: tell, journal }, writing)
}

impl StatusPublisher {
    /// The next request for a report; pends for ever when no handle is left.
    pub async fn asked(&mut self) -> oneshot::Sender<Arc<Report>> {
        match self.asks.recv().await {
            Some(ask) => ask,
            None => std::future::pending().await,
        }
    }

    /// Something may look different from now on.
    pub fn changed(&self) {
        self.news.send_modify(|news| *news += 1);
    }

    /// Counts what [`Self::changed`] has told.
    #[must_use]
    pub fn generation(&self) -> u64 {
        *self.news.borrow()
    }
}

impl StatusHandle {
    /// How things stand, not older than 100 ms and with all that was told before `generation`, unless the pass has no
    /// time; `None` if it never had any.
    pub async fn report(&self, generation: u64) -> Option<Arc<Report>> {
        let mut last = self.last.lock().await;
        let fresh = |report: &Arc<Report>| {
            report.generation >= generation && Clock.now().since(report.made_at) < REPORT_AGE_MAX
        };
        if let Some(report) = last.as_ref().filter(|report| fresh(report)) {
            return Some(Arc::clone(report));
        }
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.asks.send(answer).await.ok()?;
            answered.await.ok()
        };
        if let Ok(Some(report)) = tokio::time::timeout(ANSWER_WITHIN, asked).await {
            *last = Some(report);
        }
        last.clone()
    }

    /// HAProxy's counters.
    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// What has happened.
    pub(super) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The report of the files, for metrics.
    pub(super) fn reloads(&self) -> files::Report {
        self.files.as_ref().map(|report| report.borrow().clone()).unwrap_or_default()
    }
}
