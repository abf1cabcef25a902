//! `/metrics`, in Prometheus' text format. All of it comes from one [`Report`]: nothing is counted twice.

use std::collections::BTreeMap;

use prometheus::{
    Error, Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::Report;
use crate::files::{self, Reason};
use crate::status::Phase;

/// Of the text format.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The page. Names: <https://prometheus.io/docs/practices/naming/>.
pub(super) fn text(report: &Report, files: &files::Report) -> Result<String, Error> {
    let registry = Registry::new();
    condition(&registry, report)?;
    instances(&registry, report)?;
    totals(&registry, report)?;
    reloads(&registry, files)?;
    TextEncoder::new().encode_to_string(&registry.gather())
}

fn condition(registry: &Registry, report: &Report) -> Result<(), Error> {
    let version = report.haproxy.as_ref().map_or("", |haproxy| &haproxy.version);
    let info = gauges(
        registry,
        "leasehold_lb_info",
        "The balancer, lb-sync's version and HAProxy's; always 1.",
        &["balancer", "version", "haproxy_version"],
    )?;
    info.with_label_values(&[report.balancer.as_str(), env!("CARGO_PKG_VERSION"), version]).set(1);
    let flags = [
        (
            "leasehold_lb_in_sync",
            "Whether the view is what etcd has (1) or may be out of date (0).",
            report.registry.in_sync,
        ),
        (
            "leasehold_lb_from_disk",
            "Whether the view is from the snapshot on disk: etcd was not heard since the start.",
            report.registry.from_disk,
        ),
        (
            "leasehold_lb_haproxy_up",
            "Whether HAProxy answers on its runtime socket.",
            report.haproxy.is_some(),
        ),
        (
            "leasehold_lb_name_taken",
            "Whether another lb-sync has the name that this one was given, which then runs as NAME.2 or so.",
            report.has_other_name,
        ),
    ];
    for (name, help, set) in flags {
        let flag = IntGauge::new(name, help)?;
        flag.set(set.into());
        registry.register(Box::new(flag))?;
    }
    if let Some(age) = report.registry.age {
        let gauge = Gauge::new("leasehold_lb_view_age_seconds", "Time since etcd was last heard.")?;
        gauge.set(age.as_secs_f64());
        registry.register(Box::new(gauge))?;
    }
    let revision = IntGauge::new("leasehold_lb_view_revision", "etcd's revision of the view.")?;
    revision.set(report.registry.revision);
    registry.register(Box::new(revision))
}

fn instances(registry: &Registry, report: &Report) -> Result<(), Error> {
    let mut counts: BTreeMap<[&str; 3], i64> = BTreeMap::new();
    // A service whose last instance has gone has none: its figures stay, at 0.
    let none: BTreeMap<&str, i64> = report.services.keys().map(|service| (service.as_str(), 0)).collect();
    let (mut suspects, mut serving, mut refused) = (none.clone(), none.clone(), none);
    for (id, one) in &report.instances {
        let service = id.service.as_str();
        *counts.entry([service, one.status.phase.code(), one.status.reason.code()]).or_default() += 1;
        *suspects.entry(service).or_default() += i64::from(one.suspect_for.is_some());
        *serving.entry(service).or_default() += i64::from(one.status.phase == Phase::Up);
        *refused.entry(service).or_default() += i64::from(one.refusal.is_some());
    }
    let by_state = gauges(
        registry,
        "leasehold_lb_instances",
        "Instances, by what HAProxy does with them and why.",
        &["service", "state", "reason"],
    )?;
    for (labels, count) in counts {
        by_state.with_label_values(&labels).set(count);
    }
    let by_service = [
        ("leasehold_lb_serving", "Instances that HAProxy sends their share of the traffic.", serving),
        (
            "leasehold_lb_suspects",
            "Instances that have expired with much of their service, which is not believed yet.",
            suspects,
        ),
        ("leasehold_lb_refused", "Instances for which HAProxy refused what it was told last.", refused),
    ];
    for (name, help, counts) in by_service {
        let gauge = gauges(registry, name, help, &["service"])?;
        for (service, count) in counts {
            gauge.with_label_values(&[service]).set(count);
        }
    }
    let backends = gauges(
        registry,
        "leasehold_lb_service_has_backend",
        "Whether this HAProxy has a backend of the service's name.",
        &["service"],
    )?;
    for (service, has) in &report.services {
        backends.with_label_values(&[service.as_str()]).set((*has).into());
    }
    Ok(())
}

fn totals(registry: &Registry, report: &Report) -> Result<(), Error> {
    let totals = &report.totals;
    let counters = [
        ("leasehold_lb_passes_total", "Passes in which something was looked at.", totals.passes),
        (
            "leasehold_lb_resyncs_total",
            "Times that all of HAProxy's state was read anew, audits included.",
            totals.resyncs,
        ),
        (
            "leasehold_lb_audit_findings_total",
            "Servers that were found changed by hand.",
            totals.audit_findings,
        ),
        (
            "leasehold_lb_checks_failed_total",
            "Times that HAProxy's check of an instance began to fail.",
            totals.checks_failed,
        ),
        (
            "leasehold_lb_haproxy_lost_total",
            "Times that HAProxy was lost: restarts, reloads, broken sockets.",
            totals.haproxy_lost,
        ),
        (
            "leasehold_lb_out_of_sync_total",
            "Times that the view fell out of sync with etcd.",
            totals.out_of_sync,
        ),
        (
            "leasehold_lb_steps_total",
            "Servers that passes have changed, or tried to: the size of plans.",
            totals.steps,
        ),
        (
            "leasehold_lb_watch_restarts_total",
            "Times that a watch of etcd ended and was begun anew.",
            totals.watch_restarts,
        ),
        (
            "leasehold_lb_rejected_records_total",
            "Values in etcd that were not records.",
            report.registry.rejected_count,
        ),
        (
            "leasehold_lb_suspected_total",
            "Instances that expired and were not believed to be gone.",
            report.registry.suspected_count,
        ),
    ];
    for (name, help, count) in counters {
        let counter = IntCounter::new(name, help)?;
        counter.inc_by(count);
        registry.register(Box::new(counter))?;
    }
    for histogram in [&totals.serving, &totals.removed].into_iter().flatten() {
        registry.register(Box::new(histogram.clone()))?;
    }
    let commands = counters_by(
        registry,
        "leasehold_lb_commands_total",
        "Commands on HAProxy's socket that change something, by kind and by whether their step went through.",
        &["command", "result"],
    )?;
    for ((kind, took), count) in &totals.commands {
        commands.with_label_values(&[*kind, if *took { "ok" } else { "refused" }]).inc_by(*count);
    }
    Ok(())
}

/// Membership never reloads HAProxy: only `--conf-dir` with a master socket does, for what has no backend yet.
fn reloads(registry: &Registry, files: &files::Report) -> Result<(), Error> {
    let reloads = counters_by(
        registry,
        "leasehold_lb_reloads_total",
        "Reloads of HAProxy that lb-sync asked for, by reason.",
        &["reason"],
    )?;
    for reason in [Reason::NewBackend, Reason::ColdStart] {
        let count = files.reloads.get(&reason).copied().unwrap_or(0);
        reloads.with_label_values(&[reason.text().replace(' ', "_")]).inc_by(count);
    }
    let sections = counters_by(
        registry,
        "leasehold_lb_sections_total",
        "Backend sections for the files, by whether they were put in place or refused.",
        &["result"],
    )?;
    sections.with_label_values(&["written"]).inc_by(files.written);
    sections.with_label_values(&["refused"]).inc_by(files.refused);
    let failed = IntCounter::new(
        "leasehold_lb_reloads_failed_total",
        "Reloads that were asked for and did not work.",
    )?;
    failed.inc_by(files.reloads_failed);
    registry.register(Box::new(failed))
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, Error> {
    let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(gauges.clone()))?;
    Ok(gauges)
}

fn counters_by(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, Error> {
    let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}
