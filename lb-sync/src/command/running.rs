//! What only the running lb-sync knows: its suspects. Asked on its status port (`--listen`).

use std::time::Duration;

use proto::registry::v1::registry_client::RegistryClient;
use proto::registry::v1::{Event, Instance, InstanceFilter, ListEventsRequest, ListInstancesRequest};
use registry::name::InstanceId;
use registry::record::{DrainTimes, InstanceRecord, InstanceState};
use registry::time::Clock;

use crate::balancer::presence::may_run_as;
use crate::config::RunConfig;
use crate::view::{Registered, View};

/// Longest that it may take to answer.
const WITHIN: Duration = Duration::from_secs(2);
/// Pages of a thousand: more suspects than that are no question for a terminal.
const PAGES_MAX: usize = 100;

/// Takes the suspects of the running lb-sync into `view`. The error says, as part of a sentence, why it could not be
/// asked.
pub(super) async fn adopt_suspects(config: &RunConfig, view: &mut View) -> Result<(), String> {
    let addr = config.listen;
    if addr.port() == 0 {
        return Err("no running lb-sync was asked, since --listen gives no port".into());
    }
    if config.listen_tls.listen_cert.is_some() {
        return Err(format!("the lb-sync at {addr} speaks TLS (--listen-cert) and was not asked"));
    }
    let suspects = tokio::time::timeout(WITHIN, ask(config)).await;
    let suspects = suspects
        .map_err(|_| format!("the lb-sync at {addr} (--listen) did not answer within {WITHIN:?}"))??;
    let now = Clock.now();
    for one in suspects {
        let left = one.balancer.as_ref().map_or(0, |balancer| balancer.suspect_left_s);
        if let Some((id, registered)) = registered(one) {
            view.adopt_suspect(now, Duration::from_secs(left.into()), id, registered);
        }
    }
    Ok(())
}

/// What the running lb-sync has done about `id` lately, the latest first; nothing if it cannot be asked, which
/// [`adopt_suspects`] has told.
pub(super) async fn events(config: &RunConfig, id: &InstanceId) -> Vec<Event> {
    let asked = async {
        let mut client = RegistryClient::connect(format!("http://{}", config.listen)).await.ok()?;
        let answer = client.list_events(ListEventsRequest { instance: id.to_string() }).await.ok()?;
        Some(answer.into_inner().events)
    };
    tokio::time::timeout(WITHIN, asked).await.ok().flatten().unwrap_or_default()
}

async fn ask(config: &RunConfig) -> Result<Vec<Instance>, String> {
    let addr = config.listen;
    let mut client = RegistryClient::connect(format!("http://{addr}"))
        .await
        .map_err(|_| format!("no lb-sync answers at {addr} (--listen)"))?;
    let filter = Some(InstanceFilter { suspects_only: true, ..InstanceFilter::default() });
    let (mut suspects, mut page_token) = (Vec::new(), String::new());
    for _ in 0..PAGES_MAX {
        let request = ListInstancesRequest { filter: filter.clone(), page_size: 0, page_token };
        let answer = client.list_instances(request).await;
        let answer = answer
            .map_err(|status| format!("the lb-sync at {addr} (--listen) answers: {}", status.message()))?
            .into_inner();
        let balancer = answer.view.map(|view| view.balancer).unwrap_or_default();
        if !may_run_as(&config.balancer, &balancer) {
            return Err(format!(
                "the lb-sync at {addr} (--listen) is that of balancer {balancer}, not of {}",
                config.balancer
            ));
        }
        suspects.extend(answer.instances);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    Ok(suspects)
}

/// As it was registered. `None` for what is no record; a running lb-sync has none.
fn registered(one: Instance) -> Option<(InstanceId, Registered)> {
    let id: InstanceId = format!("{}/{}", one.service, one.instance).parse().ok()?;
    let port = u16::try_from(one.port).ok()?.try_into().ok()?;
    let state = match one.state() {
        proto::registry::v1::InstanceState::Down => InstanceState::Down,
        proto::registry::v1::InstanceState::Draining => InstanceState::Draining,
        _ => InstanceState::Up,
    };
    let drain = one.drain.unwrap_or_default();
    let owner = Some(one.owner).filter(|owner| !owner.is_empty());
    let record = InstanceRecord {
        state,
        weight: one.weight.try_into().ok()?,
        owner: owner.clone(),
        slow_start_s: one.slow_start_s,
        drain: DrainTimes { sticky_s: drain.sticky_s, inflight_s: drain.inflight_s },
        labels: one.labels,
        ..InstanceRecord::new(one.address.parse().ok()?, port)
    };
    let owner = owner.unwrap_or_else(|| format!("key-{id}"));
    let (create_revision, mod_revision) = (one.created_revision, one.modified_revision);
    Some((id, Registered { record, owner, create_revision, mod_revision, since: mod_revision, lease: 0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_suspect_is_its_record_again() {
        let told = Instance {
            service: "web".into(),
            instance: "web-1".into(),
            address: "10.0.0.5".into(),
            port: 3_000,
            state: 1,
            weight: 7,
            owner: "ab12".into(),
            created_revision: 4,
            modified_revision: 5,
            ..Instance::default()
        };
        let (id, registered) = registered(told.clone()).unwrap();
        assert_eq!(id.to_string(), "web/web-1");
        assert_eq!(registered.record.endpoint().to_string(), "10.0.0.5:3000");
        assert_eq!((registered.record.weight.get(), registered.mod_revision), (7, 5));
        assert!(super::registered(Instance { port: 0, ..told.clone() }).is_none());
        assert!(super::registered(Instance { instance: "a b".into(), ..told }).is_none());
    }
}
