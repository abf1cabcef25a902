//! `/metrics`, in Prometheus' text format, drawn up when somebody asks.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Error, IntCounter, IntGauge, Opts, Registry, TextEncoder};
use registry::lease::{Counts, Standing};
use registry::name::InstanceId;
use tokio::sync::watch;

use crate::member::Status;

/// What the metrics are drawn from.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    pub(crate) id: InstanceId,
    pub(crate) member: watch::Receiver<Status>,
    pub(crate) standing: watch::Receiver<Standing>,
    pub(crate) counts: Arc<Counts>,
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
    let (member, standing) = (*sources.member.borrow(), sources.standing.borrow().clone());
    let registry = Registry::new();
    let named = |name: &str, help: &str| {
        let InstanceId { service, instance } = &sources.id;
        // Not `instance`: Prometheus has that label for where it scrapes.
        Opts::new(name, help).const_label("service", service.as_str()).const_label("name", instance.as_str())
    };
    let flags = [
        ("leasehold_registrar_app_healthy", "Whether the app's own check passes.", member.healthy),
        ("leasehold_registrar_registered", "Whether the record stands in etcd.", member.registered),
        ("leasehold_registrar_wants_traffic", "Whether it should get traffic.", member.wants_traffic),
        ("leasehold_registrar_lease_held", "Whether a lease is held.", standing.lease.is_some()),
        (
            "leasehold_registrar_superseded",
            "Whether somebody newer has its name: it stands down.",
            !standing.superseded.is_empty(),
        ),
    ];
    for (name, help, set) in flags {
        let gauge = IntGauge::with_opts(named(name, help))?;
        gauge.set(set.into());
        registry.register(Box::new(gauge))?;
    }
    let counts = &sources.counts;
    let counters = [
        ("leasehold_registrar_beats_total", "Beats of the lease that etcd acknowledged.", counts.beats()),
        (
            "leasehold_registrar_beats_late_total",
            "Beats that were sent when half of the ttl had gone.",
            counts.beats_late(),
        ),
        ("leasehold_registrar_leases_lost_total", "Leases that ran out or were gone.", counts.leases_lost()),
    ];
    for (name, help, count) in counters {
        let counter = IntCounter::with_opts(named(name, help))?;
        counter.inc_by(count);
        registry.register(Box::new(counter))?;
    }
    TextEncoder::new().encode_to_string(&registry.gather())
}
