//! What lb-sync answers on its port, asked as others would: a gRPC client that watches, and one that reads pages.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::collections::BTreeMap;
use std::time::Duration;

use proto::registry::v1::registry_client::RegistryClient;
use proto::registry::v1::watch_instances_response::Event;
use proto::registry::v1::{
    InstanceFilter, ListInstancesRequest, ListServicesRequest, ServerState, WatchInstancesRequest,
    WatchInstancesResponse,
};
use testkit::Stack;
use tonic::Streaming;

/// Longest until an event that is on its way.
const SEEN_MAX: Duration = Duration::from_secs(10);

/// A watcher's set, kept as the protocol says.
struct Watcher {
    stream: Streaming<WatchInstancesResponse>,
    set: BTreeMap<String, ServerState>,
    whole: bool,
}

impl Watcher {
    /// Takes events in until the set is what `condition` wants.
    async fn until(&mut self, condition: impl Fn(&BTreeMap<String, ServerState>) -> bool) {
        let waited = tokio::time::timeout(SEEN_MAX, async {
            while !self.whole || !condition(&self.set) {
                let message = self.stream.message().await.unwrap().unwrap();
                self.take_in(message.event.unwrap());
            }
        });
        assert!(waited.await.is_ok(), "{:?}", self.set);
    }

    fn take_in(&mut self, event: Event) {
        let changed = match event {
            Event::Snapshot(snapshot) => {
                self.whole = snapshot.last;
                snapshot.instances
            }
            Event::Changes(changes) => {
                for key in &changes.removed {
                    self.set.remove(&format!("{}/{}", key.service, key.instance));
                }
                changes.changed
            }
            Event::Progress(_) => vec![],
        };
        for one in changed {
            let state = one.balancer.unwrap().state();
            self.set.insert(format!("{}/{}", one.service, one.instance), state);
        }
    }
}

#[tokio::test]
async fn a_watcher_sees_who_joins_changes_and_leaves() {
    let stack = Stack::native().with_services(&["web", "api"]).await;
    stack.service("web").instances(2).serving().await;
    let mut client =
        RegistryClient::connect(format!("http://127.0.0.1:{}", stack.lb_sync().port())).await.unwrap();
    let filter = InstanceFilter { service: "web".into(), ..InstanceFilter::default() };
    let request = WatchInstancesRequest { filter: Some(filter.clone()) };
    let stream = client.watch_instances(request).await.unwrap().into_inner();
    let mut watcher = Watcher { stream, set: BTreeMap::new(), whole: false };
    let up = |names: &'static [&str]| {
        move |set: &BTreeMap<String, ServerState>| {
            set.len() == names.len() && names.iter().all(|name| set.get(*name) == Some(&ServerState::Up))
        }
    };
    watcher.until(up(&["web/web-1", "web/web-2"])).await;

    stack.service("web").instances(3).serving().await;
    watcher.until(up(&["web/web-1", "web/web-2", "web/web-3"])).await;
    stack.put_override("web", "web-2", r#"{"mode":"maintenance","by":"kim","reason":"disk"}"#).await;
    watcher.until(|set| set.get("web/web-2") == Some(&ServerState::Maint)).await;
    let events = stack.lb_sync().page("/events").await.unwrap();
    assert!(events.contains("kim took it out: disk"), "{events}");
    stack.service("web").instance(1).terminate().await;
    watcher.until(|set| !set.contains_key("web/web-1")).await;

    // The lists agree, page by page.
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListInstancesRequest { filter: Some(filter.clone()), page_size: 1, page_token };
        let page = client.list_instances(request).await.unwrap().into_inner();
        assert!(page.view.unwrap().in_sync);
        seen.extend(page.instances);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let names: Vec<&str> = seen.iter().map(|one| one.instance.as_str()).collect();
    assert_eq!(names, ["web-2", "web-3"]);
    assert_eq!(seen[0].balancer.as_ref().unwrap().reason, "kim took it out: disk");
    let services = client.list_services(ListServicesRequest::default()).await.unwrap().into_inner().services;
    let counts: Vec<_> =
        services.iter().map(|service| (service.name.as_str(), service.instances, service.serving)).collect();
    assert_eq!(counts, [("web", 2, 1)], "a backend without a registration ever is no service");
}

#[tokio::test]
async fn a_request_that_makes_no_sense_is_refused_and_watchers_end_with_lb_sync() {
    let stack = Stack::native().await;
    let mut client =
        RegistryClient::connect(format!("http://127.0.0.1:{}", stack.lb_sync().port())).await.unwrap();
    let filter = Some(InstanceFilter { states: vec![77], ..InstanceFilter::default() });
    let request = ListInstancesRequest { filter, ..ListInstancesRequest::default() };
    let refused = client.list_instances(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    let mut stream = client.watch_instances(WatchInstancesRequest::default()).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some(), "an empty set is told, too");
    stack.end().await.unwrap();
    let ended = tokio::time::timeout(SEEN_MAX, stream.message()).await.unwrap();
    assert!(ended.is_err() || ended.is_ok_and(|message| message.is_none()));
}

#[tokio::test]
async fn the_page_is_whole_html_and_says_what_haproxy_does() {
    let stack = Stack::native().await;
    stack.service("web").instances(2).serving().await;
    let page = stack.lb_sync().page("/").await.unwrap();
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"), "{page}");
    for part in ["in sync", "web-1", "web-2", "2 of 2 serving", "add server web&#x2f;web-1"] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    let metrics = stack.lb_sync().page("/metrics").await.unwrap();
    assert!(
        metrics.contains("leasehold_lb_commands_total{command=\"add_server\",result=\"ok\"} 2"),
        "{metrics}"
    );
    stack.haproxy().kill().await;
    let gone = async || {
        loop {
            if stack.lb_sync().page("/metrics").await.unwrap().contains("leasehold_lb_haproxy_up 0") {
                return stack.lb_sync().page("/").await.unwrap();
            }
        }
    };
    let page = tokio::time::timeout(SEEN_MAX, gone()).await.unwrap();
    assert!(page.contains("does not answer"), "{page}");
}
