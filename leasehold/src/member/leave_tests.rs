//! Who is waited for.

use std::time::Duration;

use proptest::prelude::*;
use registry::follow::{Change, Entry};
use registry::key::Prefix;
use registry::record::to_value;

use super::*;

fn identity() -> Identity {
    let id: InstanceId = "web/web-1".parse().unwrap();
    Identity { id, owner: "me".into(), prefix: Prefix::default() }
}

fn put(key: &str, value: Vec<u8>) -> Entry {
    Entry { key: format!("/leasehold/v1/{key}").into(), value, lease: 1, create_revision: 1, mod_revision: 1 }
}

fn presence(balancer: &str, services: &[&str]) -> Entry {
    let services = services.iter().map(|name| name.parse().unwrap()).collect();
    let record = BalancerRecord { services, ..BalancerRecord::default() };
    put(&format!("balancers/{balancer}"), to_value(&record))
}

fn ack(balancer: &str, owner: &str, state: AckState) -> Entry {
    let record = AckRecord { owner: owner.into(), revision: Some(REVISION), state, at: String::new() };
    put(&format!("acks/web/web-1/{balancer}"), to_value(&record))
}

fn listed(entries: Vec<Entry>) -> Event {
    Event::Listed { cluster: 1, revision: 1, entries }
}

fn changed(entry: Entry) -> Event {
    Event::Changed(vec![Change::Put(entry)])
}

fn gone(key: &str) -> Event {
    Event::Changed(vec![Change::Delete { key: format!("/leasehold/v1/{key}").into(), mod_revision: 2 }])
}

const NOW: Tick = Tick::from_ms(1_000);
const LINGER: Duration = Duration::from_secs(15);
/// Of our record as it says `draining`.
const REVISION: i64 = 7;

/// What a leaving instance sees.
struct Seen {
    now: Tick,
    balancers: Balancers,
    view: View,
}

impl Seen {
    fn nothing() -> Self {
        let Identity { id, prefix, .. } = identity();
        let balancers = Balancers::new(prefix, id.service, LINGER);
        Self { now: NOW, balancers, view: View::new(identity()) }
    }

    fn presence(&mut self, event: Event) {
        self.balancers.fold(self.now, event);
    }

    fn acks(&mut self, event: Event) {
        self.view.acks(event);
    }

    fn awaited(&self) -> Option<BTreeSet<BalancerName>> {
        self.view.awaited(self.now, &self.balancers, Some(REVISION))
    }
}

/// A whole view of these balancers and acks.
fn view(balancers: Vec<Entry>, acks: Vec<Entry>) -> Seen {
    let mut view = Seen::nothing();
    for event in [listed(balancers), Event::InSync] {
        view.presence(event);
    }
    for event in [listed(acks), Event::InSync] {
        view.acks(event);
    }
    view
}

fn names(view: &Seen) -> Vec<String> {
    view.awaited().expect("the view is whole").iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_is_concluded_before_both_are_listed_and_in_sync() {
    let events: [fn(&mut Seen); 4] = [
        |view| view.presence(listed(vec![])),
        |view| view.presence(Event::InSync),
        |view| view.acks(listed(vec![])),
        |view| view.acks(Event::InSync),
    ];
    let mut view = Seen::nothing();
    for event in events {
        assert_eq!(view.awaited(), None);
        event(&mut view);
    }
    assert_eq!(names(&view), [""; 0]);
    view.presence(Event::OutOfSync);
    assert_eq!(view.awaited(), None, "a balancer may have come in the meantime");
    view.presence(Event::InSync);
    assert_eq!(names(&view), [""; 0]);
}

#[test]
fn who_serves_the_service_is_awaited_until_it_says_drained_of_us() {
    let mut view = view(
        vec![presence("lb-1", &["api", "web"]), presence("lb-2", &["api"]), presence("lb-3", &["web"])],
        vec![ack("lb-3", "an owner before us", AckState::Drained)],
    );
    assert_eq!(names(&view), ["lb-1", "lb-3"]);
    view.acks(changed(ack("lb-1", "me", AckState::Draining)));
    assert_eq!(names(&view), ["lb-1", "lb-3"]);
    view.acks(changed(ack("lb-1", "me", AckState::Drained)));
    assert_eq!(names(&view), ["lb-3"]);
    view.acks(changed(ack("lb-3", "me", AckState::Drained)));
    assert_eq!(names(&view), [""; 0]);
    view.acks(changed(ack("lb-3", "me", AckState::Serving)));
    assert_eq!(names(&view), ["lb-3"], "it took us back");
}

#[test]
fn a_balancer_that_vanishes_is_awaited_for_a_time_and_one_that_comes_at_once() {
    let mut view = view(vec![presence("lb-1", &["web"])], vec![]);
    view.presence(changed(presence("lb-2", &["web"])));
    assert_eq!(names(&view), ["lb-1", "lb-2"]);
    // Its lb-sync was stopped, or is cut off: its HAProxy may serve on.
    view.presence(gone("balancers/lb-1"));
    assert_eq!(names(&view), ["lb-1", "lb-2"]);
    assert_eq!(view.balancers.wake_at(view.now), Some(NOW.plus(LINGER)));
    view.now = NOW.plus(LINGER);
    assert_eq!(names(&view), ["lb-2"]);
    view.presence(changed(presence("lb-1", &["web"])));
    view.acks(changed(ack("lb-1", "me", AckState::Drained)));
    assert_eq!(names(&view), ["lb-2"], "it is back, and says so");
}

/// A wiped etcd lists no balancer: that is no news of any.
#[test]
fn a_list_that_lacks_a_balancer_does_not_end_the_wait_for_it() {
    let mut view = view(vec![presence("lb-1", &["web"])], vec![]);
    view.presence(Event::OutOfSync);
    view.presence(listed(vec![]));
    view.presence(Event::InSync);
    assert_eq!(names(&view), ["lb-1"]);
}

/// `drained` may have been said of an earlier record: of one that was unhealthy, or drained by an operator.
#[test]
fn an_ack_of_an_earlier_record_does_not_count() {
    let mut view = view(vec![presence("lb-1", &["web"])], vec![ack("lb-1", "me", AckState::Drained)]);
    assert_eq!(names(&view), [""; 0]);
    let of = |revision| {
        let (owner, state, at) = ("me".into(), AckState::Drained, String::new());
        changed(put("acks/web/web-1/lb-1", to_value(&AckRecord { owner, revision, state, at })))
    };
    view.acks(of(Some(REVISION - 1)));
    assert_eq!(names(&view), ["lb-1"]);
    view.acks(of(None));
    assert_eq!(names(&view), [""; 0], "an lb-sync of 0.1.0 names no revision");
}

#[test]
fn a_record_that_does_not_parse_changes_nothing() {
    let mut view = view(vec![presence("lb-1", &["web"])], vec![ack("lb-1", "me", AckState::Draining)]);
    view.presence(changed(put("balancers/lb-1", b"oops".to_vec())));
    view.presence(listed(vec![put("balancers/lb-1", b"oops".to_vec()), put("balancers/l b", vec![])]));
    view.acks(changed(put("acks/web/web-1/lb-1", b"{}".to_vec())));
    assert_eq!(names(&view), ["lb-1"], "the last good one still says it serves us");
    view.acks(changed(put(
        "acks/web/web-10/lb-1",
        to_value(&AckRecord {
            owner: "me".into(),
            revision: Some(REVISION),
            state: AckState::Drained,
            at: String::new(),
        }),
    )));
    assert_eq!(names(&view), ["lb-1"], "an ack for another instance");
}

proptest! {
    /// Whatever order presence and acks arrive in, the same balancers are awaited.
    #[test]
    fn the_order_of_what_arrives_does_not_matter(
        balancers in proptest::collection::btree_map(0..9_u8, (any::<bool>(), 0..3_u8), 0..9),
        order in Just((0..18_usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let mut view = view(vec![], vec![]);
        for n in order {
            let balancer = u8::try_from(n % 9).unwrap();
            let Some((serves, said)) = balancers.get(&balancer) else { continue };
            let name = format!("lb-{balancer}");
            if n < 9 {
                view.presence(changed(presence(&name, if *serves { &["web"] } else { &["api"] })));
            } else if *said > 0 {
                let state = if *said == 1 { AckState::Draining } else { AckState::Drained };
                view.acks(changed(ack(&name, "me", state)));
            }
        }
        let expected: Vec<String> = balancers.iter()
            .filter(|(_, (serves, said))| *serves && *said < 2)
            .map(|(balancer, _)| format!("lb-{balancer}"))
            .collect();
        prop_assert_eq!(names(&view), expected);
    }
}
