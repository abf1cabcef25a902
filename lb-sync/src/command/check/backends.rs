//! Which backends there are, which of them are a service's, and which cannot take servers while HAProxy runs.

use std::collections::BTreeSet;

use registry::name::{InstanceId, ServiceName};

use super::super::dry_run::dry_run;
use super::super::read::{Haproxy, Registry};
use super::super::text::row;
use super::finding::Finding;
use crate::balancer::PassError;
use crate::config::RunConfig;
use crate::plan::names::backend_name;
use crate::scope::Scope;
use haproxy::{Command, Reply};

const CHECK: &str = "backends";
/// Trials in one request. Each may stop HAProxy's threads for a moment, as an `add server` does.
const TRIALS_MAX: usize = 10;

/// What there is to say of the backends. Without a registry, only what HAProxy says by itself.
pub(super) async fn findings(
    haproxy: &mut Haproxy,
    config: &RunConfig,
    registry: Option<&Registry>,
) -> Result<Vec<Finding>, PassError> {
    let found: BTreeSet<ServiceName> = haproxy.observed.backends.keys().cloned().collect();
    let fixed = fixed(haproxy, &found).await?;
    let (mut services, mut foreign) = (BTreeSet::new(), vec![]);
    if let Some(registry) = registry {
        services.extend(registry.view.instances().keys().map(|id| id.service.clone()));
        foreign = dry_run(config, &registry.view, haproxy, &Scope::All).await?.foreign;
    }
    Ok(told(&found, &services, &fixed, &foreign))
}

/// Those whose balance algorithm is fixed when HAProxy starts.
async fn fixed(
    haproxy: &mut Haproxy,
    found: &BTreeSet<ServiceName>,
) -> Result<BTreeSet<ServiceName>, PassError> {
    let mut fixed = BTreeSet::new();
    let all: Vec<&ServiceName> = found.iter().collect();
    for some in all.chunks(TRIALS_MAX) {
        let trials: Vec<Command> =
            some.iter().map(|service| Command::TryAdd(backend_name(service))).collect();
        let answers = haproxy.dialogue.ask(&trials).await?;
        for ((service, trial), answer) in some.iter().zip(&trials).zip(&answers) {
            if matches!(Reply::read(trial, answer), Reply::Other(_)) {
                fixed.insert((*service).clone());
            }
        }
    }
    Ok(fixed)
}

fn told(
    found: &BTreeSet<ServiceName>,
    services: &BTreeSet<ServiceName>,
    fixed: &BTreeSet<ServiceName>,
    foreign: &[InstanceId],
) -> Vec<Finding> {
    let served: Vec<&ServiceName> = found.intersection(services).collect();
    let others: Vec<&ServiceName> = found.difference(services).collect();
    let missing: Vec<&ServiceName> = services.difference(found).collect();
    let (broken, idle): (Vec<&ServiceName>, Vec<_>) = fixed.iter().partition(|it| services.contains(*it));
    let names = |some: &[&ServiceName]| {
        if some.is_empty() { "none".to_owned() } else { row(some.iter()) }
    };
    let mut findings = vec![];
    let seen =
        format!("of a registered service: {}; of no registered service: {}", names(&served), names(&others));
    findings.push(if found.is_empty() {
        let advice = "add a backend with a service's name and no servers to HAProxy's configuration";
        Finding::warning(CHECK, "HAProxy has none whose name can be a service's", advice)
    } else {
        Finding::ok(CHECK, seen)
    });
    if !missing.is_empty() {
        let seen = format!("registered services without a backend here: {}", names(&missing));
        findings.push(Finding::warning(
            CHECK,
            seen,
            "add a backend of that name, if this HAProxy is to serve it",
        ));
    }
    let advice = "use roundrobin, leastconn, random, first, or a hash with `hash-type consistent`";
    let seen = |some: &[&ServiceName]| {
        format!("the balance algorithm takes no servers while HAProxy runs: {}", names(some))
    };
    if !broken.is_empty() {
        findings.push(Finding::failed(CHECK, seen(&broken), advice));
    }
    if !idle.is_empty() {
        findings.push(Finding::warning(CHECK, seen(&idle), advice));
    }
    if !foreign.is_empty() {
        let seen = format!(
            "instances with a server of their name that lb-sync did not make: {}",
            row(foreign.iter())
        );
        let advice = "remove it from the configuration, or give the instance another name; it is not served";
        findings.push(Finding::warning(CHECK, seen, advice));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::{Outcome, render};
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<ServiceName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn outcomes(findings: &[Finding]) -> Vec<Outcome> {
        findings.iter().map(|finding| finding.outcome).collect()
    }

    #[test]
    fn a_backend_that_matters_fails_and_one_that_may_not_warns() {
        let all_well = told(&set(&["web"]), &set(&["web"]), &set(&[]), &[]);
        assert_eq!(outcomes(&all_well), [Outcome::Ok]);
        assert_eq!(outcomes(&told(&set(&[]), &set(&[]), &set(&[]), &[])), [Outcome::Warning]);

        let foreign = ["web/static".parse().unwrap()];
        let findings =
            told(&set(&["web", "www", "old"]), &set(&["web", "api"]), &set(&["web", "old"]), &foreign);
        assert_eq!(
            outcomes(&findings),
            [Outcome::Ok, Outcome::Warning, Outcome::Failed, Outcome::Warning, Outcome::Warning]
        );
        let text = render(&findings);
        assert!(text.contains("of a registered service: web; of no registered service: old, www"), "{text}");
        assert!(text.contains("without a backend here: api"), "{text}");
        assert!(text.contains("did not make: web/static"), "{text}");
    }
}
