use std::fs;

use super::fixture::{Fixture, app};
use super::until_serving;
use testkit::blocking::until;

/// What docs/files.md tells people to put into a frontend.
const FRONTEND: &str = " http-request set-var-fmt(txn.route) \"%[req.hdr(host),host_only,lower]%[path]/\"
 http-request set-var-fmt(txn.path) \"%[path]/\"
 use_backend %[var(txn.route),map_beg(conf.d/routes.map)] if { var(txn.route),map_beg(conf.d/routes.map) -m found }
 use_backend %[var(txn.path),map_beg(conf.d/routes.map)] if { var(txn.path),map_beg(conf.d/routes.map) -m found }";

fn label(route: &str) -> String {
    format!(r#","labels":{{"route":"{route}"}}"#)
}

#[track_caller]
fn until_answers(fixture: &Fixture, host: &str, path: &str, who: &str) {
    until(&format!("{host}{path} leads to {who}"), || (fixture.get(host, path).1 == who).then_some(()));
}

#[test]
fn routes_follow_the_labels_without_a_reload_and_stand_in_the_file() {
    let mut fixture = Fixture::routed(FRONTEND);
    fixture.hand_over("web");
    fixture.hand_over("api");
    fixture.start_lb_sync(&["--master-socket", "master.sock"]);
    let (web, api) = (app("web"), app("api"));
    fixture.put("web/web-1", web, &label("shop.example /"));
    fixture.put("api/api-1", api, "");
    until_serving(&fixture, "web", &["web-1"]);
    until_serving(&fixture, "api", &["api-1"]);
    until_answers(&fixture, "shop.example", "/", "web");
    let worker = fixture.pid();

    fixture.put("api/api-1", api, &label("shop.example/api"));
    until_answers(&fixture, "shop.example", "/api/v1", "api");
    assert_eq!(fixture.get("shop.example", "/apis").1, "web");
    assert_eq!(fixture.get("other.example", "/api").1, "web", "by the path alone");
    // Who comes second does not take it; who loses it gives it free.
    fixture.put("web/web-2", app("web"), &label("shop.example/api"));
    until_serving(&fixture, "web", &["web-1", "web-2"]);
    assert_eq!(fixture.get("shop.example", "/api").1, "api");
    fixture.put("api/api-1", api, "");
    until_answers(&fixture, "shop.example", "/api", "web");
    fixture.delete("web/web-2");
    let map = || fs::read_to_string(fixture.path("conf.d/routes.map")).unwrap();
    until("the route is gone from the file", || (!map().contains("/api")).then_some(()));
    assert!(map().contains("\nshop.example/ web\n"), "{}", map());
    assert_eq!(fixture.pid(), worker, "a route needs no reload");
    assert!(fixture.log().contains("registered it first"), "{}", fixture.log());

    fixture.kill_lb_sync();
    fixture.kill_haproxy();
    fixture.start_haproxy();
    assert_eq!(fixture.get("shop.example", "/"), ("200".into(), "web".into()));
}

#[test]
fn a_new_service_with_a_route_is_reachable_without_an_edit_of_haproxy() {
    let mut fixture = Fixture::routed(FRONTEND);
    fixture.start_lb_sync(&["--master-socket", "master.sock", "--backend-defaults", "plain"]);
    let worker = fixture.pid();
    let can_add_backends = fixture.at_least(3, 4);
    fixture.put("new/new-1", app("new"), &label("new.example"));
    until_answers(&fixture, "new.example:80", "/", "new");
    assert_eq!(fixture.ask("show backend").lines().filter(|name| *name == "new").count(), 1);
    if can_add_backends {
        assert_eq!(fixture.pid(), worker, "3.4 makes a backend while it runs");
        until("its section is there for a restart", || {
            fixture.section("new").contains("new-1").then_some(())
        });
        fixture.kill_lb_sync();
        fixture.kill_haproxy();
        fixture.start_haproxy();
        assert_eq!(fixture.get("new.example", "/"), ("200".into(), "new".into()));
    } else {
        until("it came in by a reload", || (fixture.pid() != worker).then_some(()));
    }
}
