use super::app;
use super::fixture::Fixture;
use testkit::blocking::until;

#[test]
fn an_instance_is_explained_whatever_its_state() {
    let fixture = Fixture::start("");
    let (_app, port) = app();
    fixture.etcd.put_instance("web/serving", port, r#","owner":"ab12","weight":7"#);
    let (_down_app, down) = app();
    fixture.etcd.put_instance("web/down", down, "");
    let (_out_app, out) = app();
    fixture.etcd.put_instance("web/out", out, "");
    let (_shared_app, shared) = app();
    fixture.etcd.put_instance("web/older", shared, "");
    fixture.etcd.put_instance("web/newer", shared, "");
    fixture.put("web/broken", "{}");
    let _running = fixture.settle();
    fixture.etcd.put_instance("web/down", down, r#","state":"down""#);
    let overriding = r#"{"mode":"maintenance","reason":"kernel","by":"ann"}"#;
    fixture.etcd.ctl(&["put", "/leasehold/v1/overrides/web/out", overriding]);
    for (name, state) in [("down", ",MAINT,"), ("out", ",MAINT,"), ("serving", ",L4OK,")] {
        let row = format!("web,{name},");
        let is_so = |stat: String| stat.lines().any(|line| line.starts_with(&row) && line.contains(state));
        until(&format!("{name} is {state}"), || is_so(fixture.ask("show stat")).then_some(()));
    }

    let at = format!(
        "web/serving is registered at 127.0.0.1:{port} as up with weight 7, by owner ab12, since revision"
    );
    fixture.say("explain", &["web/serving"]).is(
        0,
        &[
            &at,
            "as server 1000",
            "ready, weight 7",
            "(last check L4OK)",
            "It gets traffic: it is registered and up. There is nothing to do.",
        ],
    );
    fixture.say("explain", &["web/down"]).is(
        0,
        &["as down", "in MAINT", "It gets no traffic: it says that it is unhealthy. There is nothing to do."],
    );
    fixture.say("explain", &["web/out"]).is(
        0,
        &[
            "ann wants it out of rotation at once: \"kernel\".",
            "It gets no traffic: an operator took it out.",
        ],
    );
    fixture.say("explain", &["web/older"]).is(
        0,
        &[
            "web/newer has the same address",
            "has no server for it",
            "It gets no traffic: a newer instance has its address.",
        ],
    );
    fixture
        .say("explain", &["web/broken"])
        .is(0, &["What stands at its key is ignored", "missing field `address`"]);
    fixture.say("explain", &["web/unknown"]).is(1, &["web/unknown is not known"]);

    let said = fixture.say("explain", &["web/out", "--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&said.is(0, &[]).out).unwrap();
    assert_eq!((&json["traffic"], &json["override"]["by"]), (&"no".into(), &"ann".into()));
    assert_eq!(json["server"]["maint"], true);
}
