//! Who is waited for.

use std::time::Duration;

use proptest::prelude::*;
use registry::follow::{Change, Entry};
use registry::key::Prefix;
use registry::record::{AckRecord, to_value};

use super::*;

fn identity() -> Identity {
    let id: registry::name::InstanceId = "web/web-1".parse().unwrap();
    Identity { id, owner: "me".into(), prefix: Prefix::default() }
}

fn put(key: &str, value: Vec<u8>) -> Entry {
    Entry { key: format!("/leasehold/v1/{key}").into(), value, lease: 1, create_revision: 1, mod_revision: 1 }
}

fn presence(balancer: &str, services: &[&str]) -> Entry {
    let services = services.iter().map(|name| name.parse().unwrap()).collect();
    let record = BalancerRecord { id: Some("a life".into()), services, ..BalancerRecord::default() };
    put(&format!("balancers/{balancer}"), to_value(&record))
}

fn ack(balancer: &str, owner: &str, state: AckState) -> Entry {
    let record = AckRecord { owner: owner.into(), revision: Some(REVISION), state, at: String::new() };
    put(&format!("acks/{balancer}/web/web-1"), to_value(&record))
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
    /// The acks that stand, by key.
    acks: BTreeMap<String, Entry>,
}

impl Seen {
    fn nothing() -> Self {
        let Identity { id, prefix, .. } = identity();
        let balancers = Balancers::new(prefix, id.service, LINGER);
        Self { now: NOW, balancers, view: View::new(identity()), acks: BTreeMap::new() }
    }

    /// The acks that are followed from now on are listed at once.
    fn presence(&mut self, event: Event) {
        for key in self.follow(event) {
            let stands = self.acks.get(&key).cloned();
            self.view.acks(&key, listed(stands.into_iter().collect()));
            self.view.acks(&key, Event::InSync);
        }
    }

    fn follow(&mut self, event: Event) -> Vec<String> {
        self.balancers.fold(self.now, event);
        self.view.follow(&self.balancers)
    }

    /// Something is written at the key of an ack.
    fn ack(&mut self, entry: Entry) {
        let key = String::from_utf8(entry.key.clone()).unwrap();
        self.acks.insert(key.clone(), entry.clone());
        self.view.acks(&key, changed(entry));
    }

    fn awaited(&self) -> Option<BTreeSet<BalancerName>> {
        self.view.awaited(&self.balancers, Some(REVISION))
    }
}

/// A whole view of these balancers and acks.
fn view(balancers: Vec<Entry>, acks: Vec<Entry>) -> Seen {
    let mut view = Seen::nothing();
    for event in [listed(balancers), Event::InSync] {
        view.presence(event);
    }
    for entry in acks {
        view.ack(entry);
    }
    view
}

fn names(view: &Seen) -> Vec<String> {
    view.awaited().expect("the view is whole").iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_is_concluded_before_all_is_listed_and_in_sync() {
    const KEY: &str = "/leasehold/v1/acks/lb-1/web/web-1";
    let lb = || listed(vec![presence("lb-1", &["web"])]);
    let drained = || listed(vec![ack("lb-1", "me", AckState::Drained)]);
    let mut view = Seen::nothing();
    assert_eq!(view.follow(lb()), [KEY], "not only once it is in sync");
    assert_eq!(view.awaited(), None);
    assert_eq!(view.follow(Event::InSync), [""; 0]);
    assert_eq!(view.awaited(), None);
    view.view.acks(KEY, drained());
    assert_eq!(view.awaited(), None);
    view.view.acks(KEY, Event::InSync);
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
    view.ack(ack("lb-1", "me", AckState::Draining));
    assert_eq!(names(&view), ["lb-1", "lb-3"]);
    view.ack(ack("lb-1", "me", AckState::Drained));
    assert_eq!(names(&view), ["lb-3"]);
    view.ack(ack("lb-3", "me", AckState::Drained));
    assert_eq!(names(&view), [""; 0]);
    view.ack(ack("lb-3", "me", AckState::Serving));
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
    assert_eq!(view.balancers.wake_at(), Some(NOW.plus(LINGER)));
    assert!(!view.balancers.let_go(NOW), "its time is not over");
    view.now = NOW.plus(LINGER);
    assert_eq!(names(&view), ["lb-1", "lb-2"], "it is let go by a decision, not by the clock alone");
    assert!(view.balancers.let_go(view.now) && !view.balancers.let_go(view.now));
    assert_eq!(names(&view), ["lb-2"]);
    view.presence(changed(presence("lb-1", &["web"])));
    view.ack(ack("lb-1", "me", AckState::Drained));
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
    view.ack(drained_at("acks/lb-1/web/web-1", Some(REVISION - 1)));
    assert_eq!(names(&view), ["lb-1"]);
    view.ack(drained_at("acks/lb-1/web/web-1", Some(REVISION + 1)));
    assert_eq!(names(&view), [""; 0]);
}

fn drained_at(key: &str, revision: Option<i64>) -> Entry {
    let (owner, state, at) = ("me".into(), AckState::Drained, String::new());
    put(key, to_value(&AckRecord { owner, revision, state, at }))
}

/// lb-sync 0.1.0 has no id, names no revision, and writes the balancer last. Once it is upgraded, what its earlier life said
/// says nothing.
#[test]
fn a_balancer_of_0_1_0_is_read_at_the_key_that_it_writes() {
    let old = |services: &[&str]| {
        let services = services.iter().map(|name| name.parse().unwrap()).collect();
        put("balancers/lb-1", to_value(&BalancerRecord { services, ..BalancerRecord::default() }))
    };
    let mut view = view(vec![old(&["web"])], vec![]);
    view.ack(drained_at("acks/lb-1/web/web-1", None));
    assert_eq!(names(&view), ["lb-1"]);
    view.ack(drained_at("acks/web/web-1/lb-1", None));
    assert_eq!(names(&view), [""; 0]);
    view.presence(gone("balancers/lb-1"));
    assert_eq!(names(&view), [""; 0], "as it was written");
    view.presence(changed(presence("lb-1", &["web"])));
    assert_eq!(names(&view), ["lb-1"], "upgraded");
    view.ack(ack("lb-1", "me", AckState::Drained));
    assert_eq!(names(&view), [""; 0]);
}

/// The names of one key's three parts say nothing of its layout: a balancer may be called as a service is.
#[test]
fn a_service_that_is_named_like_a_balancer_confuses_nothing() {
    let mut view = view(vec![presence("web", &["web"]), presence("web-1", &["web"])], vec![]);
    // Of another instance, by a balancer of 0.1.0 that is called `web-1`: `web`'s ack of us is at `acks/web/web/web-1`.
    view.ack(drained_at("acks/web/web/web-1", None));
    assert_eq!(names(&view), ["web", "web-1"]);
    view.ack(ack("web", "me", AckState::Drained));
    assert_eq!(names(&view), ["web-1"]);
}

#[test]
fn a_record_that_does_not_parse_changes_nothing() {
    let mut view = view(vec![presence("lb-1", &["web"])], vec![ack("lb-1", "me", AckState::Draining)]);
    view.presence(changed(put("balancers/lb-1", b"oops".to_vec())));
    view.presence(listed(vec![put("balancers/lb-1", b"oops".to_vec()), put("balancers/l b", vec![])]));
    view.ack(put("acks/lb-1/web/web-1", b"{}".to_vec()));
    assert_eq!(names(&view), ["lb-1"], "the last good one still says it serves us");
    view.ack(drained_at("acks/lb-1/web/web-10", Some(REVISION)));
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
                view.ack(ack(&name, "me", state));
            }
        }
        let expected: Vec<String> = balancers.iter()
            .filter(|(_, (serves, said))| *serves && *said < 2)
            .map(|(balancer, _)| format!("lb-{balancer}"))
            .collect();
        prop_assert_eq!(names(&view), expected);
    }
}
