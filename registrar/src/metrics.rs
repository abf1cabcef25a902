//! `/metrics`, in Prometheus' text format, rendered on demand.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Error, IntCounter, IntGauge, Opts, Registry, TextEncoder};
use registry::lease::{LeaseMetrics, LeaseStatus};
use registry::name::ServiceName;
use tokio::sync::watch;

use crate::supervise::Restarts;
use leasehold::Status;

/// The status of each member, with its service.
pub(crate) type MemberStatuses = Vec<(ServiceName, Status)>;

/// The sources of the metrics.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    pub(crate) statuses: watch::Receiver<MemberStatuses>,
    /// `None` without services.
    pub(crate) lease: Option<(watch::Receiver<LeaseStatus>, Arc<LeaseMetrics>)>,
    pub(crate) restarts: Restarts,
}

/// The page, for the port.
pub(crate) fn pages(sources: Sources) -> Router {
    Router::new().route("/metrics", get(scrape)).with_state(sources)
}

async fn scrape(State(sources): State<Sources>) -> Response {
    match text(&sources) {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn text(sources: &Sources) -> Result<String, Error> {
    let registry = Registry::new();
    if let Some((standing, counts)) = &sources.lease {
        let held = standing.borrow().lease.is_some();
        for (service, status) in sources.statuses.borrow().iter() {
            // Not `instance`: Prometheus uses that label for the address that it scrapes.
            let name = status.name.as_ref().map_or("", |name| name.as_str());
            let labelled =
                |opts: Opts| opts.const_label("service", service.as_str()).const_label("name", name);
            member(&registry, &labelled, status, held)?;
            lease(&registry, &labelled, counts)?;
        }
    }
    for (process, restarts) in sources.restarts.iter() {
        let help = "How often a process was started again after it had ended.";
        let opts = Opts::new("leasehold_registrar_restarts_total", help).const_label("process", process);
        let counter = IntCounter::with_opts(opts)?;
        counter.inc_by(restarts.load(Ordering::Relaxed));
        registry.register(Box::new(counter))?;
    }
    TextEncoder::new().encode_to_string(&registry.gather())
}

fn member(
    registry: &Registry,
    labelled: &impl Fn(Opts) -> Opts,
    status: &Status,
    held: bool,
) -> Result<(), Error> {
    let flags = [
        ("leasehold_registrar_app_healthy", "Whether the app's own check passes.", status.healthy),
        ("leasehold_registrar_registered", "Whether the record stands in etcd.", status.registered),
        ("leasehold_registrar_wants_traffic", "Whether it should get traffic.", status.wants_traffic),
        ("leasehold_registrar_lease_held", "Whether a lease is held.", held),
        (
            "leasehold_registrar_superseded",
            "Whether a newer owner has its name: it stands down.",
            status.stood_down,
        ),
    ];
    for (name, help, set) in flags {
        let gauge = IntGauge::with_opts(labelled(Opts::new(name, help)))?;
        gauge.set(set.into());
        registry.register(Box::new(gauge))?;
    }
    Ok(())
}

/// The process has one lease; its metrics are exported for each member.
fn lease(registry: &Registry, labelled: &impl Fn(Opts) -> Opts, counts: &LeaseMetrics) -> Result<(), Error> {
    let counters = [
        (
            "leasehold_registrar_beats_total",
            "Beats of the lease that etcd acknowledged.",
            counts.keep_alives(),
        ),
        (
            "leasehold_registrar_beats_late_total",
            "Beats that were sent when half of the ttl had gone.",
            counts.keep_alives_late(),
        ),
        ("leasehold_registrar_leases_lost_total", "Leases that ran out or were gone.", counts.leases_lost()),
    ];
    for (name, help, count) in counters {
        let counter = IntCounter::with_opts(labelled(Opts::new(name, help)))?;
        counter.inc_by(count);
        registry.register(Box::new(counter))?;
    }
    Ok(())
}
