use std::fs;

use super::lab::{Lab, app, until};
use super::until_serving;

/// What docs/files.md tells people to put into a frontend.
const FRONTEND: &str = " http-request set-var-fmt(txn.route) \"%[req.hdr(host),host_only,lower]%[path]/\"
 http-request set-var-fmt(txn.path) \"%[path]/\"
 use_backend %[var(txn.route),map_beg(conf.d/routes.map)] if { var(txn.route),map_beg(conf.d/routes.map) -m found }
 use_backend %[var(txn.path),map_beg(conf.d/routes.map)] if { var(txn.path),map_beg(conf.d/routes.map) -m found }";

fn label(route: &str) -> String {
    format!(r#","labels":{{"route":"{route}"}}"#)
}

#[track_caller]
fn until_answers(lab: &Lab, host: &str, path: &str, who: &str) {
    until(&format!("{host}{path} leads to {who}"), || (lab.get(host, path).1 == who).then_some(()));
}

#[test]
fn routes_follow_the_labels_without_a_reload_and_stand_in_the_file() {
    let mut lab = Lab::routed(FRONTEND);
    lab.hand_over("web");
    lab.hand_over("api");
    lab.start_lb_sync(&["--master-socket", "master.sock"]);
    let (web, api) = (app("web"), app("api"));
    lab.put("web/web-1", web, &label("shop.example /"));
    lab.put("api/api-1", api, "");
    until_serving(&lab, "web", &["web-1"]);
    until_serving(&lab, "api", &["api-1"]);
    until_answers(&lab, "shop.example", "/", "web");
    let worker = lab.pid();

    lab.put("api/api-1", api, &label("shop.example/api"));
    until_answers(&lab, "shop.example", "/api/v1", "api");
    assert_eq!(lab.get("shop.example", "/apis").1, "web");
    assert_eq!(lab.get("other.example", "/api").1, "web", "by the path alone");
    // Who comes second does not take it; who loses it gives it free.
    lab.put("web/web-2", app("web"), &label("shop.example/api"));
    until_serving(&lab, "web", &["web-1", "web-2"]);
    assert_eq!(lab.get("shop.example", "/api").1, "api");
    lab.put("api/api-1", api, "");
    until_answers(&lab, "shop.example", "/api", "web");
    lab.delete("web/web-2");
    let map = || fs::read_to_string(lab.path("conf.d/routes.map")).unwrap();
    until("the route is gone from the file", || (!map().contains("/api")).then_some(()));
    assert!(map().contains("\nshop.example/ web\n"), "{}", map());
    assert_eq!(lab.pid(), worker, "a route needs no reload");
    assert!(lab.log().contains("registered it first"), "{}", lab.log());

    lab.kill_lb_sync();
    lab.kill_haproxy();
    lab.start_haproxy();
    assert_eq!(lab.get("shop.example", "/"), ("200".into(), "web".into()));
}

#[test]
fn a_new_service_with_a_route_is_reachable_and_nobody_edited_haproxy() {
    let mut lab = Lab::routed(FRONTEND);
    lab.start_lb_sync(&["--master-socket", "master.sock", "--backend-defaults", "plain"]);
    let worker = lab.pid();
    let can_add_backends = lab.at_least(3, 4);
    lab.put("new/new-1", app("new"), &label("new.example"));
    until_answers(&lab, "new.example:80", "/", "new");
    assert_eq!(lab.ask("show backend").lines().filter(|name| *name == "new").count(), 1);
    if can_add_backends {
        assert_eq!(lab.pid(), worker, "3.4 makes a backend while it runs");
        until("its section is there for a restart", || lab.section("new").contains("new-1").then_some(()));
        lab.kill_lb_sync();
        lab.kill_haproxy();
        lab.start_haproxy();
        assert_eq!(lab.get("new.example", "/"), ("200".into(), "new".into()));
    } else {
        until("it came in by a reload", || (lab.pid() != worker).then_some(()));
    }
}
