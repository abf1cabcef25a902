//! What one balancer's lb-sync answers about an instance, on its status port.

use std::time::Duration;

use proto::registry::v1::registry_client::RegistryClient;
use proto::registry::v1::{
    BalancerView, Event, InstanceFilter, ListEventsRequest, ListInstancesRequest, ServerState,
};
use registry::name::{BalancerName, InstanceId};
use serde_json::{Value, json};

/// Longest that it may take to answer.
const WITHIN: Duration = Duration::from_secs(2);

/// What it says.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    /// Nothing, if it does not know the instance.
    view: Option<BalancerView>,
    in_sync: bool,
    /// What it did about it, the latest first.
    pub(super) events: Vec<Event>,
}

/// Asks the lb-sync of `balancer` at `addr`. The error says, as part of a sentence, why it could not be asked.
pub(super) async fn ask(balancer: &BalancerName, addr: &str, id: &InstanceId) -> Result<Answer, String> {
    if addr.is_empty() {
        return Err("does not say where it can be asked".into());
    }
    match tokio::time::timeout(WITHIN, asked(balancer, addr, id)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("did not answer at {addr} within {WITHIN:?}")),
    }
}

async fn asked(balancer: &BalancerName, addr: &str, id: &InstanceId) -> Result<Answer, String> {
    let local = addr.starts_with("127.") || addr.starts_with("[::1]");
    let hint =
        if local { " (that is its own host's loopback: ask there, or give it another --listen)" } else { "" };
    let failed = |what: &str| format!("{what} at {addr}{hint}");
    let mut client =
        RegistryClient::connect(format!("http://{addr}")).await.map_err(|_| failed("cannot be asked"))?;
    let filter = InstanceFilter {
        service: id.service.to_string(),
        instance: id.instance.to_string(),
        ..InstanceFilter::default()
    };
    let request = ListInstancesRequest { filter: Some(filter), page_size: 0, page_token: String::new() };
    let answer =
        client.list_instances(request).await.map_err(|status| failed(status.message()))?.into_inner();
    let view = answer.view.unwrap_or_default();
    if view.balancer != balancer.as_str() {
        return Err(failed("cannot be asked: another balancer's lb-sync answers"));
    }
    let events = client.list_events(ListEventsRequest { instance: id.to_string() }).await;
    let events = events.map(|answer| answer.into_inner().events).unwrap_or_default();
    // An older lb-sync knows no filter by instance.
    let one = answer.instances.into_iter().find(|one| one.instance == id.instance.as_str());
    Ok(Answer { view: one.and_then(|one| one.balancer), in_sync: view.in_sync, events })
}

impl Answer {
    /// Whether the instance gets traffic there.
    pub(super) fn serves(&self) -> bool {
        self.view.as_ref().is_some_and(|view| view.state() == ServerState::Up)
    }

    /// For people.
    pub(super) fn sentence(&self) -> String {
        let doubt = if self.in_sync { "" } else { "; it is out of sync with etcd, and drains no instance" };
        match &self.view {
            None => format!("does not know it{doubt}"),
            Some(view) => {
                let state = word(view.state());
                format!(
                    "{state}, weight {}, {} in flight: {}{doubt}",
                    view.weight, view.in_flight, view.reason
                )
            }
        }
    }

    /// For machines.
    pub(super) fn as_json(&self) -> Value {
        let event = |event: &Event| json!({"at": event.at, "what": event.what, "why": event.why});
        let view = self.view.as_ref().map(|view| {
            json!({
                "state": word(view.state()),
                "weight": view.weight,
                "in_flight": view.in_flight,
                "reason": view.reason,
                "reason_code": view.reason_code,
                "suspect": view.suspect,
            })
        });
        json!({"in_sync": self.in_sync, "view": view, "events": self.events.iter().map(event).collect::<Vec<_>>()})
    }
}

fn word(state: ServerState) -> &'static str {
    match state {
        ServerState::Unspecified => "unknown",
        ServerState::Absent => "no server",
        ServerState::Up => "up",
        ServerState::Down => "down",
        ServerState::Drain => "drain",
        ServerState::Maint => "maint",
    }
}
