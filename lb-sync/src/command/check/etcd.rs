//! Whether etcd can be reached, and lets us read and write what `run` reads and writes. Each endpoint by itself: the
//! one that is in use hides that the next is dead.

use std::collections::BTreeSet;

use registry::cas;
use registry::key::{AckKey, Key};
use registry::name::{BalancerName, InstanceId, ServiceName};
use registry::preflight::{self, Member, Written};
use registry::record::{BalancerRecord, parse, to_value};
use registry::session::{EtcdError, EtcdOptions, Session};

use super::super::{read, text};
use super::finding::Finding;
use crate::config::RunConfig;
use crate::run::life;

/// An instance that is asked for in acks; a role that grants less than all acks of the balancer shows here.
const ANY: &str = "lb-sync/check";

/// Two lines for each endpoint that answers, one for each that does not.
pub(super) async fn endpoints(options: &EtcdOptions, config: &RunConfig) -> Vec<Finding> {
    let mut findings = vec![];
    let mut clusters = BTreeSet::new();
    for endpoint in &options.etcd_endpoints {
        let check = format!("etcd {}", endpoint.trim());
        let alone = EtcdOptions { etcd_endpoints: vec![endpoint.clone()], ..options.clone() };
        let session = match alone.checked() {
            Ok(alone) => Session::new(alone),
            Err(error) => {
                findings.push(Finding::by_error(check, &error));
                continue;
            }
        };
        match preflight::reach(&session).await {
            Ok(member) => {
                findings.push(Finding::ok(&*check, of_member(&member, options.etcd_user.as_deref())));
                findings.push(rights(&check, &session, config).await);
                findings.extend(name(&session, config).await);
                clusters.extend((member.cluster != 0).then_some(member.cluster));
            }
            Err(error) => findings.push(Finding::by_error(check, &error)),
        }
    }
    findings.extend(strangers(&clusters));
    findings
}

/// What all of the registry comes to.
pub(super) fn registry(registry: &read::Registry) -> Finding {
    const CHECK: &str = "registry";
    let ids = registry.view.instances().keys();
    let services: BTreeSet<&ServiceName> = ids.map(|id| &id.service).collect();
    let instances = text::count(registry.view.instances().len(), "instance", "instances");
    let seen = format!(
        "{instances} of {} at revision {}",
        text::count(services.len(), "service", "services"),
        registry.revision
    );
    if registry.unreadable.is_empty() {
        return Finding::ok(CHECK, seen);
    }
    let bad = registry.unreadable.iter().map(|(key, why)| format!("{key} ({why})"));
    let seen = format!("{seen}; ignored: {}", text::row(bad));
    Finding::warning(
        CHECK,
        seen,
        "write these records again, correctly; until then the last good ones stay in force",
    )
}

fn of_member(member: &Member, user: Option<&str>) -> String {
    let version = if member.version.is_empty() { "etcd" } else { &member.version };
    let login = user.map_or_else(String::new, |user| format!(", logged in as {user}"));
    format!("{version} answers{login}")
}

async fn rights(check: &str, session: &Session, config: &RunConfig) -> Finding {
    match try_rights(session, config).await {
        Ok(seen) => Finding::ok(check, seen),
        Err(error) => Finding::by_error(check, &error),
    }
}

/// Reads and writes as `run` does. What is written says that this balancer serves nothing, so that no leave waits for it.
async fn try_rights(session: &Session, config: &RunConfig) -> Result<String, EtcdError> {
    let prefix = &config.pass.prefix;
    preflight::read(session, &prefix.instances()).await?;
    preflight::read(session, &prefix.overrides()).await?;
    preflight::read(session, &prefix.balancers()).await?;
    let presence = Key::Balancer(config.balancer.clone());
    let written =
        preflight::write(session, &prefix.text(&presence), to_value(&BalancerRecord::default())).await?;
    if let Ok(id) = ANY.parse::<InstanceId>() {
        let ack = AckKey { balancer: config.balancer.clone(), id };
        preflight::may_write(session, &prefix.text(&Key::Ack(ack))).await?;
    }
    let written = match written {
        Written::AndRevoked => "",
        Written::Occupied => " (which stands there: an lb-sync of that name runs, or ran until just now)",
    };
    Ok(format!(
        "may read instances/, overrides/ and balancers/, and write balancers/{0}{written} and acks/{0}/",
        config.balancer
    ))
}

/// Whether the balancer's name is another one's. `None` where that cannot be read, which [`rights`] says.
async fn name(session: &Session, config: &RunConfig) -> Option<Finding> {
    let key = config.pass.prefix.text(&Key::Balancer(config.balancer.clone()));
    let value = cas::read(session, &key).await.ok()?.value?;
    let held = parse::<BalancerRecord>(&value).ok()?;
    let ours = life(config.balancer.clone(), &config.pass.socket, config.listen).record();
    name_held(&config.balancer, &held, &ours)
}

/// `held` stands under the name; `ours` is what `run` here would write.
fn name_held(name: &BalancerName, held: &BalancerRecord, ours: &BalancerRecord) -> Option<Finding> {
    if held.id.is_none() || held.is_same_haproxy(ours) {
        return None;
    }
    let (host, socket) = (&held.host, &held.socket);
    Some(Finding::warning(
        "balancer's name",
        format!(
            "an lb-sync on host {host} for HAProxy at {socket} has the name {name}: this one would run, or runs, as {name}.2 or so"
        ),
        "give each balancer a name of its own with --balancer",
    ))
}

/// Endpoints of two clusters: what is registered would depend on which one is in use.
fn strangers(clusters: &BTreeSet<u64>) -> Option<Finding> {
    (clusters.len() > 1).then(|| {
        let ids = text::row(clusters.iter().map(|id| format!("{id:x}")));
        Finding::failed(
            "etcd",
            format!("the endpoints belong to different clusters: {ids}"),
            "give the endpoints of one cluster with --etcd-endpoints",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_another_haproxys_lb_sync_has_is_told() {
        let record = |host: &str, id: &str| BalancerRecord {
            id: Some(id.into()),
            host: host.into(),
            socket: "/run/a.sock".into(),
            ..BalancerRecord::default()
        };
        let found = |held| name_held(&"lb".parse().unwrap(), &held, &record("here", "b"));
        assert_eq!(found(record("here", "a")), None, "the one that runs here");
        assert_eq!(found(BalancerRecord::default()), None, "an lb-sync of 0.1.0 says nothing of its host");
        let finding = found(record("there", "a")).unwrap();
        assert!(!finding.is_failed() && finding.seen.contains("on host there"), "{finding:?}");
    }

    #[test]
    fn endpoints_of_two_clusters_are_told() {
        assert_eq!(strangers(&[7].into()), None);
        let finding = strangers(&[7, 8].into()).unwrap();
        assert!(finding.is_failed() && finding.seen.ends_with("clusters: 7, 8"), "{finding:?}");
    }

    #[test]
    fn a_member_that_does_not_tell_its_version_still_answers() {
        let member = |version: &str| Member { version: version.into(), cluster: 1 };
        assert_eq!(of_member(&member("3.4.23"), Some("lb")), "3.4.23 answers, logged in as lb");
        assert_eq!(of_member(&member(""), None), "etcd answers");
    }
}
