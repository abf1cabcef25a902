//! An app that registers itself, by the crate: in the test's own process, and the example.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use leasehold::{Naming, Registration, RegistrationBuilder};
use serde_json::json;
use testkit::blocking::{Guard, WITHIN, free_port, free_url};

use crate::etcd::Etcd;
use crate::program::REGISTRAR;

const KEY: &str = "instances/web/web-1";

fn join(endpoint: &str) -> RegistrationBuilder {
    let mut join = RegistrationBuilder::new("web".parse().unwrap(), 3_000.try_into().unwrap());
    join.naming = Some(Naming::Is("web-1".parse().unwrap()));
    join.etcd.etcd_endpoints = vec![endpoint.into()];
    join.ttl = Duration::from_secs(2);
    join
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(WITHIN, what).await.expect("it ends in time")
}

async fn registered(endpoint: &str) -> Registration {
    let mut place = join(endpoint).start().unwrap();
    in_time(place.registered()).await;
    place
}

#[tokio::test]
async fn a_place_stands_while_the_app_is_well_and_is_left_in_order() {
    let etcd = Etcd::start();
    etcd.put("balancers/lb-1", &json!({"services": ["web"]}));
    let place = registered(&etcd.endpoint).await;
    let owner = etcd.record(KEY).unwrap()["owner"].clone();
    assert!(place.status().wants_traffic);
    place.set_unhealthy("out of memory");
    etcd.until_state(KEY, "down");
    place.set_healthy();
    etcd.until_state(KEY, "up");

    let leaving = tokio::spawn(place.leave());
    tokio::task::spawn_blocking(move || {
        etcd.until_state(KEY, "draining");
        etcd.put("acks/web/web-1/lb-1", &json!({"owner": owner, "state": "drained", "at": ""}));
        etcd.until_gone(KEY);
        assert_eq!(etcd.leases(), [""; 0]);
    })
    .await
    .unwrap();
    in_time(leaving).await.unwrap();
}

/// The runtime of the app does nothing but compute, for three ttls: the lease is kept anyway.
#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "a runtime that is kept busy is what is tested")]
async fn a_busy_runtime_costs_no_lease() {
    let etcd = Etcd::start();
    let place = registered(&etcd.endpoint).await;
    let lease = etcd.only_lease();
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(etcd.only_lease(), lease);
    drop(place);
    etcd.until_gone(KEY);
}

#[tokio::test]
async fn a_leave_without_an_etcd_is_bounded() {
    let mut join = join(&free_url());
    join.leave_max = Duration::from_millis(100);
    let place = join.start().unwrap();
    in_time(place.leave()).await;
}

#[test]
fn the_example_joins_and_leaves() {
    let etcd = Etcd::start();
    let example = Path::new(REGISTRAR).with_file_name("examples").join("self_registering");
    let port = free_port().to_string();
    let example = Guard::start(Command::new(example).args([&port, &etcd.endpoint]));
    etcd.until_state(KEY, "up");
    assert_eq!(etcd.record(KEY).unwrap()["port"].to_string(), port);
    assert_eq!(example.terminate(), Some(0));
    assert_eq!((etcd.record(KEY), etcd.leases()), (None, vec![]));
}
