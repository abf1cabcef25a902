//! lb-sync and registrar, asked by programs that know nothing of us: gRPC's own Python clients, Prometheus' promtool, and a
//! real browser. `scripts/setup test` installs them.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, SystemTime};

use testkit::{Clock, PerSecond as _, Stack};

/// Longest until a foreign program answers: a browser takes seconds to start on a busy machine.
const ANSWER_MAX: Duration = Duration::from_mins(1);

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A Python program, spoken with line by line; killed when it goes.
struct Python {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Python {
    fn start(script: &str, args: &[&str]) -> Self {
        let python = project().join("target/python/bin/python");
        assert!(python.exists(), "{} is missing: run scripts/setup test", python.display());
        let script = project().join("tests/python").join(script);
        let mut command = Command::new(python);
        command.arg(script).args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (tell, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Self { input: child.stdin.take(), child, lines }
    }

    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(ANSWER_MAX).unwrap()
    }

    /// Says something, and returns the answer.
    #[track_caller]
    fn ask(&mut self, line: &str) -> String {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
        self.line()
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        self.input = None;
        // It ends what it has started once its input ends; a browser takes a moment.
        while self.lines.recv_timeout(Duration::from_secs(10)).is_ok() {}
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcs_own_clients_check_list_watch_and_reflect() {
    let stack = Stack::native().await;
    let web = stack.service("web").instances(1).serving().await;
    let addr = format!("127.0.0.1:{}", stack.lb_sync().port());
    let python = Python::start("ask.py", &[&addr, "web"]);
    let said: Vec<String> = (0..8).map(|_| python.line()).collect();
    assert_eq!(said[..3], ["check '': SERVING", "check 'web': SERVING", "check 'unknown': NOT_FOUND"]);
    assert_eq!(said[3], "list: '' SERVING, 'registry' SERVING, 'web' SERVING");
    for said in &said[4..6] {
        let names = ["grpc.health.v1.Health", "grpc.reflection.v1", "leasehold.v1.Registry"];
        assert!(names.iter().all(|name| said.contains(name)), "{said}");
    }
    assert_eq!(said[6], "methods: ListServices, ListInstances, WatchInstances, ListEvents");
    assert_eq!(said[7], "watch 'web': SERVING");
    web.instance(1).terminate().await;
    assert_eq!(python.line(), "watch 'web': NOT_SERVING");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_joins_and_leaves_by_the_python_example_without_a_failed_request() {
    let stack = Stack::native().await;
    stack.service("web").instances(1).serving().await;
    let app = stack.app("by-python").await;
    let example = |name: &str| {
        let mut command = Command::new("python3");
        command.arg(project().join("docs/examples/register.py")).args(["--etcd", &stack.etcd().endpoint()]);
        command.args(["--service", "web", "--instance", name, "--address", "127.0.0.1"]);
        command.args(["--port", &app.record()["port"].to_string()]);
        Killed(command.spawn().unwrap())
    };
    let load = stack.load(200.per_second());
    let running = example("by-python");
    stack.until(|s| s.up("web") == ["by-python", "web-1"]).await;
    stack.until_served(&load, &["by-python", "web-1"], 20).await;
    nix::sys::signal::kill(running.pid(), nix::sys::signal::Signal::SIGTERM).unwrap();
    let ended = tokio::task::spawn_blocking(move || {
        let mut running = running;
        running.0.wait().unwrap()
    })
    .await
    .unwrap();
    assert!(ended.success());
    stack.until(|s| s.servers("web") == ["web-1"]).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report}");
}

/// A process that does not outlive the test.
struct Killed(Child);

impl Killed {
    fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.0.id().try_into().unwrap())
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs promtool; what it says, if it is content.
#[track_caller]
fn promtool(args: &[&str], input: &str) -> String {
    let mut command = Command::new("promtool");
    command.args(args).current_dir(project().join("docs/monitoring"));
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    assert!(output.status.success(), "promtool {args:?}: {said}");
    said
}

/// The names of metrics in a text.
fn metrics(text: &str) -> BTreeSet<String> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let names = text.split(word).filter(|name| name.starts_with("leasehold_"));
    let of_histogram = |name: &str| {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        base.unwrap_or(name).to_owned()
    };
    names.map(of_histogram).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_takes_the_metrics_and_the_alerts_and_every_metric_they_name_is_there() {
    let stack = Stack::native().await;
    let web = stack.service("web").instances(2).serving().await;
    let lb_sync = stack.lb_sync().page("/metrics").await.unwrap();
    let registrar = web.instance(1).now().page("/metrics").await.unwrap();
    for text in [&lb_sync, &registrar] {
        assert_eq!(promtool(&["check", "metrics"], text), "", "{text}");
    }
    assert!(
        registrar.contains("leasehold_registrar_lease_held{name=\"web-1\",service=\"web\"} 1"),
        "{registrar}"
    );
    assert!(lb_sync.contains("leasehold_lb_serving_seconds_count 2"), "{lb_sync}");

    promtool(&["check", "rules", "alerts.yml"], "");
    promtool(&["test", "rules", "alerts_test.yml"], "");
    let there: BTreeSet<String> = metrics(&lb_sync).union(&metrics(&registrar)).cloned().collect();
    for file in ["alerts.yml", "alerts_test.yml", "dashboard.json"] {
        let text = std::fs::read_to_string(project().join("docs/monitoring").join(file)).unwrap();
        let missing: Vec<String> = metrics(&text).difference(&there).cloned().collect();
        assert!(missing.is_empty() && !metrics(&text).is_empty(), "{file} names {missing:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_in_a_browser_is_live_and_takes_no_label_for_html() {
    let stack = Stack::native().await;
    stack.service("web").instances(2).serving().await;
    let hostile = r#"{"address":"127.0.0.1","port":9,"labels":{"<img src=x onerror=\"document.title='taken'\">":"<b>bold</b>"}}"#;
    let _hostile = stack.put_record("web", "hostile", hostile).await;
    stack.until(|s| s.servers("web").len() == 3).await;
    let folder = tempfile::tempdir().unwrap();
    let url = format!("http://127.0.0.1:{}/", stack.lb_sync().port());
    let mut browser = Python::start("page.py", &[&url, folder.path().to_str().unwrap()]);
    assert_eq!(browser.line(), "ready");
    browser.ask("await <b>bold</b>");
    let text = browser.ask("text");
    for part in ["lb-sync", "in sync", "web-1", "web-2", "<img src=x", "add server web/web-1"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert_eq!(browser.ask("run document.title"), "\"lb · lb-sync\"", "no script of a label has run");
    assert_eq!(browser.ask("run document.querySelectorAll('#live img, #live b').length"), "0");
    browser.ask("await · live");

    // A change reaches a page that is open.
    let app = stack.app("late").await;
    let put = Clock.time_of_day();
    let _late = stack.put_record("web", "late", app.record().to_string()).await;
    let seen: u64 = browser.ask("await late").parse().unwrap();
    let put = u64::try_from(put.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()).unwrap();
    println!("put to shown: {} ms", seen.saturating_sub(put));

    // For people to look at: the pictures stay in target/page.
    let pictures = project().join("target/page");
    std::fs::create_dir_all(&pictures).unwrap();
    for (name, look) in [("light", "1200 light"), ("dark", "1200 dark"), ("phone", "390 light")] {
        browser.ask(&format!("emulate {look}"));
        browser.ask(&format!("shot {name}"));
        let picture = std::fs::read(folder.path().join(format!("{name}.png"))).unwrap();
        assert!(picture.starts_with(b"\x89PNG") && picture.len() > 10_000, "{name}: {} bytes", picture.len());
        std::fs::write(pictures.join(format!("{name}.png")), picture).unwrap();
    }
    assert_eq!(
        browser.ask("run document.documentElement.scrollWidth <= window.innerWidth"),
        "true",
        "on a phone nothing is wider than the screen"
    );
}
