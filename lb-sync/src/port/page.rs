//! The status page: read-only, whole without JavaScript, nothing from elsewhere.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderName, header};
use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, UndefinedBehavior, context};
use registry::name::{InstanceId, ServiceName};
use registry::time::Clock;

use super::journal::JournalEvent;
use super::report::{InstanceReport, Report};
use super::spark::{Spark, spark};
use super::traffic::Traffic;
use crate::status::Phase;

/// What stays, and what changes within it.
const FRAME: &str = include_str!("page.html.j2");
const CONTENT: &str = include_str!("content.html.j2");
/// Instances on the page; a larger registry is read by gRPC.
const INSTANCES_MAX: usize = 2_000;
/// Happenings on the page.
const HAPPENINGS_MAX: usize = 100;

/// Nothing is loaded from elsewhere, nothing inline runs, no page frames it, and it is never old.
pub(super) const HEADERS: [(HeaderName, &str); 3] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CACHE_CONTROL, "no-store"),
];

/// The whole page as HTML. Everything in it is escaped by the template engine.
pub(super) fn render(
    report: &Report,
    traffic: &Traffic,
    happenings: &[Arc<JournalEvent>],
) -> Result<String, minijinja::Error> {
    let content = Value::from_safe_string(content(report, traffic, happenings)?);
    let (balancer, version) = (report.balancer.as_str(), env!("CARGO_PKG_VERSION"));
    environment(FRAME)?.get_template("page")?.render(context! { balancer, version, content })
}

/// What of it changes.
pub(super) fn content(
    report: &Report,
    traffic: &Traffic,
    happenings: &[Arc<JournalEvent>],
) -> Result<String, minijinja::Error> {
    let mut room = INSTANCES_MAX;
    let named =
        |(name, has_backend): (&ServiceName, &bool)| service(report, traffic, name, *has_backend, &mut room);
    let services: Vec<Value> = report.services.iter().map(named).collect();
    let haproxy = report.haproxy.as_ref().map(|haproxy| {
        let uptime = duration(haproxy.uptime);
        context! { version => &haproxy.version, pid => haproxy.pid, uptime }
    });
    let registry = &report.registry;
    environment(CONTENT)?.get_template("page")?.render(context! {
        in_sync => registry.in_sync,
        from_disk => registry.from_disk,
        age_s => registry.age.map(|age| format!("{:.1}", age.as_secs_f64())),
        revision => registry.revision,
        rejected => registry.rejected_count,
        suspects => report.suspects().count(),
        passed => report.passed.map(duration),
        haproxy => haproxy,
        services => services,
        instances => report.instances.len(),
        left_out => report.instances.len().saturating_sub(INSTANCES_MAX),
        happenings => happenings.iter().take(HAPPENINGS_MAX).map(|one| Value::from(Serde(&**one))).collect::<Vec<_>>(),
    })
}

fn environment(template: &'static str) -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.add_template("page", template)?;
    Ok(environment)
}

fn service(
    report: &Report,
    traffic: &Traffic,
    name: &ServiceName,
    has_backend: bool,
    room: &mut usize,
) -> Value {
    let members: Vec<(&InstanceId, &InstanceReport)> =
        report.instances.iter().filter(|(id, _)| id.service == *name).collect();
    let serving = members.iter().filter(|(_, one)| one.status.phase == Phase::Up).count();
    let shown = members.len().min(*room);
    *room -= shown;
    let rows: Vec<Value> = members.iter().take(shown).map(|(id, one)| row(id, one, traffic)).collect();
    let Spark { rate, serving: serving_line, rate_max } =
        traffic.history.get(name).map(spark).unwrap_or_default();
    let count = members.len();
    context! { name => name.as_str(), has_backend, count, serving, rows, rate, serving_line, rate_max }
}

fn row(id: &InstanceId, one: &InstanceReport, traffic: &Traffic) -> Value {
    let record = one.registered.as_ref().map(|registered| &registered.record);
    let labels: Vec<String> = record
        .iter()
        .flat_map(|record| &record.labels)
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let counters = traffic.servers.get(id);
    context! {
        name => id.instance.as_str(),
        address => record.map(|record| record.endpoint().to_string()),
        state => one.status.phase.code(),
        suspect => one.suspect_for.is_some(),
        suspect_for_s => one.suspect_for.map(|left| left.as_secs()),
        reason => one.reason(),
        weight => one.server.as_ref().map(|server| server.weight.get()),
        sessions => counters.map(|counters| counters.pending),
        rate => counters.map(|counters| counters.rate),
        age => record.and_then(|record| age(record.registered_at.as_deref()?)),
        labels,
    }
}

/// Since when it has been registered, by its own word.
fn age(registered_at: &str) -> Option<String> {
    let since = humantime::parse_rfc3339_weak(registered_at).ok()?;
    Clock.time_of_day().duration_since(since).ok().map(duration)
}

/// `3 s`, `12 min`, `5 h`, `9 d`: what is of interest is how long about.
fn duration(time: Duration) -> String {
    let s = time.as_secs();
    match s {
        0..120 => format!("{s} s"),
        120..7_200 => format!("{} min", s / 60),
        7_200..172_800 => format!("{} h", s / 3_600),
        _ => format!("{} d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use registry::record::{InstanceRecord, parse};
    use registry::time::Tick;

    use super::super::report::{HaproxyReport, RegistryReport};
    use super::super::{Metrics, Report};
    use super::*;
    use crate::status::{InstanceStatus, Reason};
    use crate::view::Registered;

    fn report(record: &str) -> Report {
        let record: InstanceRecord = parse(record.as_bytes()).unwrap();
        let registered = Registered {
            record,
            owner: "ab".into(),
            create_revision: 1,
            mod_revision: 2,
            since: 2,
            lease: 3,
        };
        let one = InstanceReport {
            registered: Some(registered),
            overriding: None,
            suspect_for: Some(Duration::from_secs(61)),
            server: None,
            status: InstanceStatus { phase: Phase::Up, reason: Reason::Suspect },
            shadowed_by: None,
            refusal: None,
        };
        Report {
            made_at: Tick::default(),
            generation: 0,
            balancer: "b".parse().unwrap(),
            has_other_name: false,
            registry: RegistryReport {
                in_sync: true,
                from_disk: false,
                age: Some(Duration::from_millis(1_250)),
                revision: 42,
                rejected_count: 0,
                suspected_count: 1,
            },
            haproxy: Some(HaproxyReport { version: "2.6.12".into(), pid: 7, uptime: Duration::from_secs(1) }),
            passed: None,
            services: BTreeMap::from([("web".parse().unwrap(), true)]),
            instances: BTreeMap::from([("web/web-1".parse().unwrap(), one)]),
            totals: Metrics::default(),
        }
    }

    #[test]
    fn a_suspect_is_on_the_page_and_nothing_from_a_record_is_html() {
        let hostile =
            r#"{"address":"10.0.0.5","port":80,"labels":{"<script>alert(1)</script>":"\"><img src=x>"}}"#;
        let said = JournalEvent { what: "added".into(), why: "<b>".into(), ..JournalEvent::default() };
        let page = render(&report(hostile), &Traffic::default(), &[Arc::new(said)]).unwrap();
        assert!(page.contains("suspect, 61 s left") && page.contains("in sync"), "{page}");
        assert!(
            page.matches("<script").count() == 1 && !page.contains("<img") && !page.contains("<b>"),
            "{page}"
        );
        assert!(page.contains("&lt;script&gt;"), "{page}");
    }

    #[test]
    fn metrics_tell_suspects_and_reloads() {
        let text = super::super::metrics::text(
            &report(r#"{"address":"10.0.0.5","port":80}"#),
            &crate::files::Report::default(),
        );
        let text = text.unwrap();
        for line in [
            "leasehold_lb_suspects{service=\"web\"} 1",
            "leasehold_lb_suspected_total 1",
            "leasehold_lb_instances{reason=\"suspect\",service=\"web\",state=\"up\"} 1",
            "leasehold_lb_reloads_total{reason=\"new_backend\"} 0",
            "leasehold_lb_view_age_seconds 1.25",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in:\n{text}");
        }
    }
}
