//! Files that equal the running state, with a real HAProxy under its master. Run with another HAProxy first on PATH to
//! see another version.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod fixture;
mod routes;

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use fixture::{Fixture, app};
use testkit::blocking::until;

/// Waits until exactly these are in rotation.
#[track_caller]
fn until_serving(fixture: &Fixture, service: &str, names: &[&str]) {
    until(&format!("{names:?} serve"), || (fixture.serving(service) == names).then_some(()));
}

/// Waits until the section has (or has not) these texts.
#[track_caller]
fn until_section(fixture: &Fixture, service: &str, with: &[&str], without: &[&str]) {
    until(&format!("the section has {with:?}, not {without:?}: {}", fixture.section(service)), || {
        let text = fixture.section(service);
        let right = with.iter().all(|it| text.contains(it)) && !without.iter().any(|it| text.contains(it));
        right.then_some(())
    });
}

#[test]
fn haproxy_killed_and_started_again_serves_its_members_from_the_first_request() {
    let mut fixture = Fixture::start("");
    fixture.hand_over("web");
    fixture.start_lb_sync(&["--master-socket", "master.sock"]);
    let names = ["web-1", "web-2", "web-3"];
    for name in names {
        fixture.put(&format!("web/{name}"), app(name), "");
    }
    until_serving(&fixture, "web", &names);
    fixture.put("web/web-4", app("web-4"), "");
    until_serving(&fixture, "web", &["web-1", "web-2", "web-3", "web-4"]);
    fixture.put("web/web-2", app("moved"), r#","weight":50"#);
    until("it has moved", || fixture.servers("web").iter().any(|row| row.ends_with(" 0 50")).then_some(()));
    fixture.delete("web/web-3");
    until_section(&fixture, "web", &["web-4", "weight 50"], &["web-3"]);
    until("the view is on disk", || {
        let view = fs::read_to_string(fixture.path("state/snapshot.json")).unwrap_or_default();
        (view.contains(r#""weight":50"#) && !view.contains("web/web-3")).then_some(())
    });
    let before = fixture.servers("web");
    assert_eq!(before.len(), 3, "{before:?}");

    fixture.kill_lb_sync();
    fixture.kill_haproxy();
    fixture.start_haproxy();

    let answers: Vec<_> = (0..12).map(|_| fixture.request("web")).collect();
    assert!(answers.iter().all(|(status, _)| status == "200"), "{answers:?}");
    let who: BTreeSet<_> = answers.iter().map(|(_, who)| who.as_str()).collect();
    assert_eq!(who, BTreeSet::from(["moved", "web-1", "web-4"]));
    assert_eq!(fixture.servers("web"), before);

    // lb-sync finds nothing to do, and nothing to write.
    let section = fixture.section("web");
    let logged = fixture.log().len();
    fixture.start_lb_sync(&[]);
    until("lb-sync is in sync", || fixture.log()[logged..].contains("in sync with etcd").then_some(()));
    fixture.put("web/web-5", app("web-5"), "");
    until_serving(&fixture, "web", &["web-1", "web-2", "web-4", "web-5"]);
    until("it is logged", || fixture.log()[logged..].contains("added instance=web/web-5").then_some(()));
    let log = fixture.log()[logged..].to_owned();
    let deeds: Vec<_> = log.lines().filter(|line| line.contains("took_us")).collect();
    assert!(deeds.len() == 1 && deeds[0].contains("web/web-5"), "{deeds:?}");
    until_section(&fixture, "web", &[section.trim_end(), "web-5"], &[]);
    let ids: BTreeSet<_> =
        fixture.servers("web").iter().map(|row| row.split(' ').nth(1).unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 4);
    assert!(!ids.contains("10002"), "the id of web-3 is not used again: {ids:?}");
}

#[test]
fn an_instance_that_leaves_or_is_down_gets_nothing_after_a_restart() {
    let mut fixture = Fixture::start("");
    fixture.hand_over("web");
    fixture.start_lb_sync(&["--master-socket", "master.sock"]);
    let ports: Vec<_> = ["web-1", "web-2", "web-3"].iter().map(|name| app(name)).collect();
    for (port, n) in ports.iter().zip(1..) {
        fixture.put(&format!("web/web-{n}"), *port, "");
    }
    until_serving(&fixture, "web", &["web-1", "web-2", "web-3"]);
    fixture.put("web/web-1", ports[0], r#","state":"down""#);
    fixture.put("web/web-2", ports[1], r#","state":"draining","drain":{"sticky_s":600}"#);
    until_section(&fixture, "web", &["disabled", "weight 0"], &[]);

    fixture.kill_haproxy();
    fixture.kill_lb_sync();
    fixture.start_haproxy();

    let answers: BTreeSet<_> = (0..8).map(|_| fixture.request("web")).collect();
    assert_eq!(answers, BTreeSet::from([("200".into(), "web-3".into())]));
    fixture.start_lb_sync(&[]);
    fixture.put("web/web-1", ports[0], "");
    fixture.put("web/web-2", ports[1], "");
    until_serving(&fixture, "web", &["web-1", "web-2", "web-3"]);
    let full = |fixture: &Fixture| fixture.servers("web").iter().all(|row| row.ends_with(" 100"));
    until("all have their full share", || full(&fixture).then_some(()));
}

#[test]
fn a_new_service_is_brought_in_by_one_reload_and_no_service_loses_a_server() {
    let mut fixture = Fixture::start("");
    fixture.start_lb_sync(&["--master-socket", "master.sock"]);
    let first = fixture.pid();
    fixture.put("web/web-1", app("web-1"), "");
    until_serving(&fixture, "web", &["web-1"]);
    // Until it is told to go, the old worker takes connections on the socket, too.
    let second = until("another worker answers", || Some(fixture.pid()).filter(|pid| *pid != first));
    fixture.put("web/web-2", app("web-2"), "");
    until_serving(&fixture, "web", &["web-1", "web-2"]);
    assert_eq!(fixture.pid(), second, "a server needs no reload");

    let done = AtomicBool::new(false);
    let loaded = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut statuses = Vec::new();
            while !done.load(Relaxed) || statuses.len() <= 100 {
                statuses.push(fixture.request("web").0);
            }
            statuses
        });
        fixture.put("api/api-1", app("api-1"), "");
        until("the new service answers", || (fixture.request("api").1 == "api-1").then_some(()));
        done.store(true, Relaxed);
        load.join().unwrap()
    });
    assert!(loaded.len() > 100 && loaded.iter().all(|status| status == "200"), "{loaded:?}");
    assert_eq!(fixture.serving("web"), ["web-1", "web-2"]);
    // The new worker answers before the master says that the reload is done.
    until("both reloads are logged", || {
        (fixture.log().matches("HAProxy reloaded").count() == 2).then_some(())
    });
    assert!(!fixture.log().contains("ERROR"), "{}", fixture.log());
}

#[test]
fn a_backend_written_by_hand_is_not_written_twice_nor_reloaded_away() {
    let mut fixture = Fixture::start("backend hand\n balance roundrobin\n");
    fixture.start_lb_sync(&["--master-socket", "master.sock"]);
    fixture.put("hand/hand-1", app("hand-1"), "");
    until_serving(&fixture, "hand", &["hand-1"]);
    fixture.put("web/web-1", app("web-1"), "");
    until("lb-sync says why not", || fixture.log().contains("hand, written by hand").then_some(()));
    until_section(&fixture, "web", &["server web-1"], &[]);
    assert_eq!((fixture.section("hand").as_str(), fixture.serving("hand").len()), ("", 1));
    assert!(!fixture.log().contains("HAProxy reloaded"));
}

#[test]
fn a_broken_template_is_refused_and_the_last_good_file_stays() {
    let mut fixture = Fixture::start("");
    fs::create_dir(fixture.path("templates")).unwrap();
    for service in ["web", "api"] {
        fixture.hand_over(service);
    }
    fixture.start_lb_sync(&["--master-socket", "master.sock", "--template", "templates"]);
    fixture.put("web/web-1", app("web-1"), "");
    fixture.put("api/api-1", app("api-1"), "");
    until_serving(&fixture, "api", &["api-1"]);
    until_serving(&fixture, "web", &["web-1"]);
    let good = fixture.section("web");

    let broken =
        "backend {{ service }}\n  balance nonsense\n{% for s in servers %}  {{ s.line }}\n{% endfor %}";
    fs::write(fixture.path("templates/web.cfg.j2"), broken).unwrap();
    fixture.put("web/web-2", app("web-2"), "");
    fixture.put("api/api-2", app("api-2"), "");
    until_section(&fixture, "api", &["api-2"], &[]);
    until("lb-sync says why", || fixture.log().contains("50-web.cfg:3").then_some(()));
    until_serving(&fixture, "web", &["web-1", "web-2"]);
    assert_eq!(fixture.section("web"), good);
    assert_eq!(fixture.log().matches("HAProxy refuses the section of web").count(), 1, "{}", fixture.log());

    fs::write(fixture.path("templates/web.cfg.j2"), broken.replace("nonsense", "roundrobin")).unwrap();
    until_section(&fixture, "web", &["roundrobin", "web-2"], &[]);
}

#[test]
fn thousands_at_a_cold_start_come_by_file_and_one_reload_where_commands_are_slow() {
    let mut fixture = Fixture::start("");
    fixture.kill_haproxy();
    fixture.empty_section("web");
    fixture.start_haproxy();
    fixture.put_many("web", 1_200);
    fixture.start_lb_sync(&["--master-socket", "master.sock", "--check-interval", "0s"]);

    until("all serve", || (fixture.serving("web").len() == 1_200).then_some(()));
    let info = fixture.ask("show info");
    let old = ["Version: 2.6", "Version: 3.0"].iter().any(|version| info.contains(version));
    if old {
        until("it is logged", || fixture.log().contains("reason=\"cold start\"").then_some(()));
        assert!(!fixture.log().contains(" added "), "{}", fixture.log());
    } else {
        until("it is logged", || (fixture.log().matches(" added ").count() == 1_200).then_some(()));
        assert!(!fixture.log().contains("HAProxy reloaded"), "{}", fixture.log());
    }
}
