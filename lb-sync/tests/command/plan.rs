use super::app;
use super::fixture::Fixture;

#[test]
fn a_plan_says_what_would_be_done_does_not_do_it_and_is_empty_once_it_is_done() {
    let fixture = Fixture::start("");
    fixture.say("plan", &[]).is(0, &["nothing to do"]);
    let (_app, port) = app();
    fixture.etcd.put_instance("web/web-1", port, "");
    fixture.put("unserved/unserved-1", r#"{"address":"127.0.0.1","port":1}"#);
    let adds = format!(
        "web/web-1: it is registered and up: add server web/web-1 127.0.0.1:{port} id 10000 weight 100"
    );
    let said = fixture.say("plan", &[]);
    said.is(2, &[&adds, "; enable health web/web-1; set server web/web-1 state ready"]);
    assert_eq!(said.out.lines().count(), 1, "{}", said.out);
    assert!(!fixture.ask("show servers state").contains("web-1"), "a plan does nothing");

    let kept = r#"{"format":1,"reserved":11000,"services":{"web":{"web-1":10007}}}"#;
    std::fs::write(fixture.folder().join("ids.json"), kept).unwrap();
    fixture
        .say("plan", &["--state-dir", fixture.folder().to_str().unwrap()])
        .is(2, &[" id 10007 weight 100"]);

    let said = fixture.say("plan", &["--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&said.is(2, &[]).out).unwrap();
    assert_eq!(json["steps"][0]["instance"], "web/web-1");
    assert_eq!(json["steps"][0]["commands"].as_array().unwrap().len(), 3);

    let running = fixture.settle();
    fixture.say("plan", &[]).is(0, &["nothing to do"]);
    assert_eq!(running.terminate(), Some(0));

    // It leaves in two stages, of which the second waits for what is in flight: that is read as the pass does.
    fixture.etcd.ctl(&["del", "/leasehold/v1/instances/web/web-1"]);
    fixture.say("plan", &[]).is(2, &["set server web/web-1 state maint"]);
    fixture.ask("set server web/web-1 state maint");
    fixture.say("plan", &[]).is(2, &["web/web-1: it is not registered: del server web/web-1"]);
}

#[test]
fn what_cannot_be_reached_is_69_and_what_is_set_up_wrongly_78() {
    let fixture = Fixture::start("");
    let dead = ["--etcd-endpoints", "http://127.0.0.1:1"];
    fixture.say("plan", &dead).is(69, &["error: cannot list the registry in etcd at http://127.0.0.1:1"]);
    let one_is_dead = format!("http://127.0.0.1:1,{}", fixture.etcd.endpoint);
    fixture.say("plan", &["--etcd-endpoints", &one_is_dead]).is(0, &["nothing to do"]);
    fixture.say("plan", &["--haproxy-socket", "/no/such.sock"]).is(69, &["no such socket"]);
    let operator = fixture.socket("operator");
    fixture.say("plan", &["--haproxy-socket", operator.to_str().unwrap()]).is(78, &["set `level admin`"]);
    fixture.say("plan", &["--etcd-endpoints", "here"]).is(78, &["write http://HOST:PORT"]);
    fixture.say("explain", &["web"]).is(64, &["write SERVICE/INSTANCE"]);
}
