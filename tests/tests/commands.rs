//! The operator's commands, as a person or a deploy script uses them, on a whole stack.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use testkit::{PerSecond as _, Stack, http, program, wait};

/// What a command said, and how it ended.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

async fn registrar(stack: &Stack, args: &[&str]) -> Said {
    let mut command = Command::new(program::ours("registrar").unwrap());
    command.args(args).args(["--etcd-endpoints", &stack.etcd().endpoint(), "--prefix", testkit::PREFIX]);
    command.env("USER", "kim");
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let [out, err] = [stdout, stderr].map(|text| String::from_utf8(text).unwrap());
    Said { code: status.code().unwrap(), out, err }
}

impl Said {
    #[track_caller]
    fn is(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        for part in parts {
            assert!(self.out.contains(part) || self.err.contains(part), "{part:?} is not in {self:?}");
        }
    }
}

/// A running `registrar watch`; ends when it is dropped.
struct Watching {
    child: Child,
    lines: Receiver<String>,
}

impl Watching {
    fn start(stack: &Stack) -> Self {
        let mut command = Command::new(program::ours("registrar").unwrap());
        command.args(["watch", "--etcd-endpoints", &stack.etcd().endpoint(), "--prefix", testkit::PREFIX]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Self { child, lines }
    }

    #[track_caller]
    fn until(&self, part: &str) {
        while !self.lines.recv_timeout(Duration::from_secs(10)).unwrap().contains(part) {}
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_lists_weighs_drains_waits_and_resumes_and_no_request_fails() {
    let stack = Stack::native().await;
    registrar(&stack, &["list"]).await.is(0, &["no instance is registered"]);
    stack.service("web").instances(3).serving().await;
    let load = stack.load(200.per_second());
    registrar(&stack, &["wait", "web/web-1", "--for", "serving", "--timeout", "10s"])
        .await
        .is(0, &["is serving"]);
    registrar(&stack, &["list"]).await.is(0, &["INSTANCE", "web/web-1", "web/web-3", "1 serving"]);

    let watching = Watching::start(&stack);
    watching.until("web/web-3  up at");
    registrar(&stack, &["weight", "web/web-1", "7", "--reason", "new disk"]).await.is(0, &["weight 7"]);
    stack.until(|s| s.server("web", "web-1").is_some_and(|server| server.weight == 7)).await;
    registrar(&stack, &["drain", "web/web-1", "--reason", "kernel"]).await.is(0, &["to be drained"]);
    registrar(&stack, &["wait", "web/web-1", "--for", "drained", "--timeout", "10s"])
        .await
        .is(0, &["is drained"]);
    let seen = stack.seen().await;
    assert!(!seen.up("web").contains(&"web-1"), "drained means out: {seen}");
    let shown = registrar(&stack, &["show", "web/web-1"]).await;
    shown.is(0, &["drain weight 7, by kim", "kernel", "lb: drained"]);
    watching.until("web/web-1  kim wants drain, weight 7: kernel");
    watching.until("web/web-1  lb: drained");
    registrar(&stack, &["resume", "web/web-1"]).await.is(0, &["drain cleared"]);
    registrar(&stack, &["wait", "web/web-1", "--for", "serving", "--timeout", "10s"]).await.is(0, &[]);
    // Who does not speak of the weight leaves it.
    stack.until(|s| s.server("web", "web-1").is_some_and(|server| server.weight == 7)).await;
    registrar(&stack, &["weight", "web/web-1", "record"]).await.is(0, &["its record's weight again"]);
    stack.until(|s| s.server("web", "web-1").is_some_and(|server| server.weight == 100)).await;
    assert!(stack.etcd().get(&format!("{}/overrides/web/web-1", testkit::PREFIX)).await.unwrap().is_none());

    let json = registrar(&stack, &["list", "web", "--output", "json"]).await;
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((json.as_array().unwrap().len(), &json[0]["balancers"]["lb"]), (3, &"serving".into()));
    assert_eq!(json[0]["record"]["port"], stack.instance("web", "web-1").unwrap().spec().app_port);
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

#[tokio::test]
async fn a_wish_that_ends_by_itself_and_answers_to_what_is_not_so() {
    let stack = Stack::native().await;
    let web = stack.service("web").instances(2).serving().await;
    registrar(&stack, &["drain", "web/web-1", "--now", "--for", "2s"]).await.is(0, &["For 2s."]);
    stack.until(|s| s.up("web") == ["web-2"]).await;
    // etcd ends the lease, and with it the wish.
    stack.until(|s| s.up("web") == ["web-1", "web-2"]).await;

    registrar(&stack, &["wait", "web/web-1", "--for", "gone", "--timeout", "200ms"])
        .await
        .is(1, &["web/web-1 is not gone after 200ms: it is registered"]);
    web.instance(1).terminate().await;
    registrar(&stack, &["wait", "web/web-1", "--for", "gone", "--timeout", "10s"]).await.is(0, &["is gone"]);
    registrar(&stack, &["show", "web/web-1"]).await.is(1, &["web/web-1 is not registered"]);
    registrar(&stack, &["wait", "web/web-1", "--for", "serving", "--timeout", "100ms"])
        .await
        .is(1, &["it is not registered"]);
    for (args, part) in [
        (&["drain", "web"][..], "SERVICE/INSTANCE"),
        (&["weight", "web/web-1", "0"], "1 to 256"),
        (&["wait", "web/web-1", "--for", "ever"], "serving"),
    ] {
        registrar(&stack, args).await.is(64, &[part]);
    }
    for order in [&["drain"][..], &["wait", "--for", "drained"], &["resume"], &["weight", "7"]] {
        let args = [&order[..1], &["wbe/web-2"], &order[1..]].concat();
        registrar(&stack, &args).await.is(1, &["wbe/web-2", "did you mean web/web-2?"]);
    }
    registrar(&stack, &["drain", "web/web-7", "--force"]).await.is(0, &[]);
    registrar(&stack, &["list"]).await.is(0, &["override without an instance: web/web-7: drain (kim)"]);
    registrar(&stack, &["resume", "web/web-7"]).await.is(0, &[]);
    let two = registrar(&stack, &["explain", "web/web-2"]).await;
    two.is(0, &["gets traffic on 1 of 1 balancers: it is registered and up", "lb: up, weight 100"]);
    registrar(&stack, &["drain", "web/web-2"]).await.is(1, &["the last one of its service in rotation"]);
    registrar(&stack, &["drain", "web/web-2", "--force", "--reason", "new disk"]).await.is(0, &[]);
    stack.until(|s| s.up("web").is_empty()).await;
    // What lb-sync answers is up to 100 ms old.
    let out = async || {
        let two = registrar(&stack, &["explain", "web/web-2"]).await;
        Ok(two.out.contains("gets no traffic").then_some(two))
    };
    let (two, _) = wait::until(Duration::from_secs(5), "explained as out", out).await.unwrap();
    two.is(
        0,
        &[
            "gets no traffic on any of 1 balancers: an operator drains it (override by kim",
            ": new disk).",
            "lb: ",
        ],
    );
    let json = registrar(&stack, &["explain", "web/web-2", "--output", "json"]).await;
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(
        (&json["balancers"][0]["balancer"], &json["balancers"][0]["not_asked"]),
        (&"lb".into(), &().into())
    );
    assert_ne!(json["balancers"][0]["server"]["view"]["state"], "up");
    // Its lb-sync away and its ack still there: told so.
    stack.lb_sync().kill().await;
    let two = registrar(&stack, &["explain", "web/web-2"]).await;
    two.is(0, &["lb: cannot be asked at 127.0.0.1", "acked: drain"]);
    stack.lb_sync().start().await;
    registrar(&stack, &["explain", "web/web-1"]).await.is(1, &["web/web-1 is not registered"]);

    stack.etcd().kill().await;
    registrar(&stack, &["list"]).await.is(69, &["is etcd running"]);
}

/// Before, `wait` said that it serves, `list` showed it as serving, and a deploy script went on to the next instance.
#[tokio::test(flavor = "multi_thread")]
async fn what_haproxy_s_check_rejects_is_said_by_every_command_and_stops_a_deploy() {
    let stack = Stack::native().with_lb_sync_flag("--check-interval", "300ms").await;
    stack.service("web").instances(2).serving().await;
    let load = stack.load(200.per_second());

    // A new version that its registrar takes for well, and at whose port HAProxy finds no app.
    let port = stack.ports().free().unwrap();
    let _new = stack.put_record("web", "web-9", format!(r#"{{"address":"127.0.0.1","port":{port}}}"#)).await;
    let waited = registrar(&stack, &["wait", "web/web-9", "--for", "serving", "--timeout", "5s"]).await;
    waited.is(1, &["web/web-9 is not serving after 5s: HAProxy's check of it fails on lb"]);
    registrar(&stack, &["list", "web"]).await.is(0, &["1 failing", "1 serving"]);
    let explained = registrar(&stack, &["explain", "web/web-9"]).await;
    explained.is(
        0,
        &[
            "gets no traffic on any of 1 balancers: HAProxy's check of it fails on lb",
            "HAProxy's check fails: L4CON",
        ],
    );
    let text = async |path: &str| http::get(stack.lb_sync().port(), path).await.unwrap().1;
    let metrics = text("/metrics").await;
    assert!(metrics.contains("leasehold_lb_checks_failed_total 1"), "{metrics}");
    assert!(text("/events").await.contains("HAProxy's check fails"));

    registrar(&stack, &["wait", "web/web-1", "--for", "serving", "--timeout", "10s"]).await.is(0, &[]);
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}
