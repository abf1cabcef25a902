//! What lb-sync answers on its status port, beside health: `leasehold.v1.Registry`, `/metrics`, `/events`, and the page.
//!
//! Nothing is prepared for somebody who may ask. Who asks gets a [`Report`], which the pass draws up from what it has at
//! hand; everybody who asks within 100 ms gets the same one. A pass that has no time leaves them the last one, which
//! says its age.

mod audit;
mod grpc;
mod journal;
mod live;
mod metrics;
mod page;
mod report;
mod spark;
mod totals;
mod traffic;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::sse::KeepAlive;
use axum::response::{Html, IntoResponse, Response, Sse};
use axum::routing::get;
use daemon::port::Beside;
use registry::time::Clock;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::files;
use live::Viewers;
use traffic::Meter;

pub use journal::{Journal, JournalEvent};
pub use report::{HaproxyReport, InstanceReport, PassProgress, RegistryReport, Report};
pub use totals::{Effect, Metrics};

/// Who asks within this time gets the same report: a thousand questions a second cost the pass ten reports.
const REPORT_AGE_MAX: Duration = Duration::from_millis(100);
/// Longest that the pass is waited for; while it fills a HAProxy with thousands it has no time.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Asks the pass. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StatusHandle {
    asks: mpsc::Sender<oneshot::Sender<Arc<Report>>>,
    last: Arc<Mutex<Option<Arc<Report>>>>,
    news: watch::Receiver<u64>,
    journal: Journal,
    meter: Meter,
    files: Option<watch::Receiver<files::Report>>,
}

/// The pass's side.
#[derive(Debug)]
pub struct StatusPublisher {
    asks: mpsc::Receiver<oneshot::Sender<Arc<Report>>>,
    news: watch::Sender<u64>,
    /// What has happened: the pass writes, whoever asks reads.
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
            let writing: files::Task = Box::pin(audit::keep(path, news));
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
    /// The next who asks; pends for ever when nobody can.
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

    fn reloads(&self) -> files::Report {
        self.files.as_ref().map(|report| report.borrow().clone()).unwrap_or_default()
    }
}

/// What is served beside health.
pub fn beside(hub: &StatusHandle, shutdown: &CancellationToken) -> Beside {
    let mut beside = Beside::default();
    beside.grpc.add_service(grpc::server(hub.clone(), shutdown.clone()));
    beside.pages = Router::new()
        .route("/", get(status_page))
        .route("/metrics", get(scrape))
        .route("/events", get(events))
        .route("/live", get(live))
        .route("/live.js", get(script))
        .with_state((hub.clone(), Viewers::new(shutdown.clone())));
    beside
}

type Asked = State<(StatusHandle, Viewers)>;

async fn status_page(State((hub, _)): Asked) -> Response {
    let Some(report) = hub.report(0).await else { return busy() };
    let traffic = hub.meter.read(&report).await;
    match page::render(&report, &traffic, &hub.journal.latest()) {
        Ok(text) => (page::HEADERS, Html(text)).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response(),
    }
}

async fn live(State((hub, viewers)): Asked) -> Response {
    match viewers.follow(hub) {
        Some(events) => Sse::new(events).keep_alive(KeepAlive::default()).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "too many browsers look on; close one\n").into_response(),
    }
}

async fn script() -> Response {
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], include_str!("port/live.js")).into_response()
}

async fn scrape(State((hub, _)): Asked) -> Response {
    match hub.report(0).await {
        Some(report) => match metrics::text(&report, &hub.reloads()) {
            Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        },
        None => busy(),
    }
}

async fn events(State((hub, _)): Asked) -> Response {
    let latest = hub.journal.latest();
    axum::Json(latest.iter().map(|one| &**one).collect::<Vec<&JournalEvent>>()).into_response()
}

fn busy() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "lb-sync has had no time for an answer yet; ask again\n")
        .into_response()
}
