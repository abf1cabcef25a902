//! What lb-sync answers on its status port, beside health: `leasehold.v1.Registry`, `/metrics`, `/events`, and the page.
//!
//! Reports are built on demand by the balancer's task ([`handle`]) and cached for 100 ms. While that task has no time, the
//! last report is answered; it says its age.

mod audit;
mod grpc;
mod handle;
mod journal;
mod live;
mod metrics;
mod page;
mod report;
mod spark;
mod totals;
mod traffic;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::sse::KeepAlive;
use axum::response::{Html, IntoResponse, Response, Sse};
use axum::routing::get;
use daemon::port::PortServices;
use tokio_util::sync::CancellationToken;

use live::Viewers;

pub use handle::{StatusHandle, StatusPublisher, open};
pub use journal::{Journal, JournalEvent};
pub use report::{HaproxyReport, InstanceReport, PassProgress, RegistryReport, Report};
pub use totals::{Effect, Metrics};

/// What is served beside health.
pub fn services(hub: &StatusHandle, shutdown: &CancellationToken) -> PortServices {
    let mut services = PortServices::default();
    services.grpc.add_service(grpc::server(hub.clone(), shutdown.clone()));
    services.pages = Router::new()
        .route("/", get(status_page))
        .route("/metrics", get(scrape))
        .route("/events", get(events))
        .route("/live", get(live))
        .route("/live.js", get(script))
        .with_state((hub.clone(), Viewers::new(shutdown.clone())));
    services
}

type Asked = State<(StatusHandle, Viewers)>;

async fn status_page(State((hub, _)): Asked) -> Response {
    let Some(report) = hub.report(0).await else { return busy() };
    let traffic = hub.meter().read(&report).await;
    match page::render(&report, &traffic, &hub.journal().latest()) {
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
    let latest = hub.journal().latest();
    axum::Json(latest.iter().map(|one| &**one).collect::<Vec<&JournalEvent>>()).into_response()
}

fn busy() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "lb-sync has had no time for an answer yet; ask again\n")
        .into_response()
}
