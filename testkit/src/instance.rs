//! One life of an instance: a registrar with an app below it.

use std::ffi::OsString;
use std::fs;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use crate::haproxy::{self, Server};
use crate::home::Home;
use crate::port::loopback;
use crate::process::{self, Daemon, END_MAX};
use crate::{PREFIX, http, program};

/// Longest that leaving may take: draining has up to 30 s by the contract's default, then the app its grace.
pub const LEAVE_MAX: Duration = Duration::from_secs(45);

/// Runs the app, and when TERM comes asks HAProxy for its servers before it hands TERM on. The app is in a session
/// of its own, so that a TERM to the whole group waits here too.
const NOTE_AND_STOP: &str = r#"
socket=$1 note=$2
shift 2
setsid "$@" &
app=$!
trap 'echo "show stat" | socat -t 5 - "UNIX-CONNECT:$socket" > "$note"; kill -TERM $app' TERM
wait $app
wait $app
"#;

/// What an instance is started as.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its service.
    pub service: String,
    /// Its name.
    pub name: String,
    /// Where its app listens.
    pub app_port: u16,
    /// Where its registrar does.
    pub registrar_port: u16,
    /// The ttl of its lease, in seconds.
    pub ttl_s: u32,
    /// Whether what HAProxy says at the app's TERM is noted, for [`Instance::server_when_stopped`].
    pub notes_its_stop: bool,
    /// Further flags for its registrar.
    pub flags: Vec<String>,
}

/// A registrar that runs an app.
#[derive(Debug)]
pub struct Instance {
    spec: Spec,
    home: Arc<Home>,
    registrar: Daemon,
}

impl Instance {
    /// Starts it; it registers in its own time.
    pub fn launch(home: &Arc<Home>, endpoint: &str, spec: Spec) -> Result<Self> {
        let mut args = registrar_args(endpoint, &spec);
        args.push("--".into());
        if spec.notes_its_stop {
            // Only then is it needed; found here, it is named when it is missing.
            program::system("socat")?;
            let words = ["/bin/sh", "-c", NOTE_AND_STOP, "note-and-stop"].map(OsString::from);
            args.extend(words);
            args.extend([haproxy::socket_in(home), note_in(home, &spec)].map(OsString::from));
        }
        let app = program::ours("webapp")?.into_os_string();
        let words =
            ["--listen".into(), loopback(spec.app_port).to_string(), "--tag".into(), spec.name.clone()];
        args.push(app);
        args.extend(words.map(OsString::from));
        let registrar = Daemon::new(home, &spec.name, program::ours("registrar")?, args);
        registrar.start()?;
        Ok(Self { spec, home: Arc::clone(home), registrar })
    }

    /// What it was started as.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Its registrar and the log of both.
    #[must_use]
    pub fn registrar(&self) -> &Daemon {
        &self.registrar
    }

    /// Its key in etcd.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{PREFIX}/instances/{}/{}", self.spec.service, self.spec.name)
    }

    /// What runs below its registrar: the app.
    pub fn app_pids(&self) -> Result<Vec<u32>> {
        Ok(self.registrar.process()?.descendants())
    }

    /// The body of one of its registrar's pages.
    pub async fn page(&self, path: &str) -> Result<String> {
        Ok(http::get(self.spec.registrar_port, path).await?.1)
    }

    /// TERM to the registrar, which leaves in order; waits for its end.
    pub async fn terminate(&self) -> Result<ExitStatus> {
        self.registrar.process()?.terminate(LEAVE_MAX).await
    }

    /// `kill -9` to the registrar and the app, as when the host is gone.
    pub async fn kill_hard(&self) -> Result<()> {
        let registrar = self.registrar.process()?;
        let apps = registrar.descendants();
        // The registrar first: it must not live to see its app die.
        registrar.signal(Signal::SIGKILL)?;
        for app in apps {
            process::signal(app, Signal::SIGKILL)?;
        }
        registrar.end(END_MAX).await?;
        Ok(())
    }

    /// `kill -9` to the app alone; waits for the registrar to end after it.
    pub async fn kill_app(&self) -> Result<ExitStatus> {
        let registrar = self.registrar.process()?;
        registrar.let_go();
        for app in registrar.descendants() {
            process::signal(app, Signal::SIGKILL)?;
        }
        registrar.end(LEAVE_MAX).await
    }

    /// `kill -9` to the registrar alone: the app goes on, and nothing answers for it.
    pub async fn kill_registrar(&self) -> Result<()> {
        self.registrar.process()?.kill().await
    }

    /// Lets every GET of its app wait for `delay_ms`.
    pub async fn slow_down(&self, delay_ms: u32) -> Result<()> {
        let body = format!(r#"{{"delay": {delay_ms}}}"#);
        let (status, answer) = http::post(self.spec.app_port, "/delay", &body).await?;
        ensure!(status == 200, "the app refused the delay: {answer}");
        Ok(())
    }

    /// Its server as HAProxy had it when the app was told to stop; `None` if there was none any more.
    pub fn server_when_stopped(&self) -> Result<Option<Server>> {
        let note = note_in(&self.home, &self.spec);
        let stat = fs::read_to_string(&note).with_context(|| {
            format!("{} left no note of its stop: was its app ever told to?", self.spec.name)
        })?;
        let servers = Server::parse_all(&stat)?;
        let ours = |server: &Server| server.backend == self.spec.service && server.name == self.spec.name;
        Ok(servers.into_iter().find(ours))
    }
}

fn registrar_args(endpoint: &str, spec: &Spec) -> Vec<OsString> {
    let flags = [
        ("--service", spec.service.clone()),
        ("--instance", spec.name.clone()),
        ("--port", spec.app_port.to_string()),
        ("--address", "127.0.0.1".into()),
        ("--check", "http:/".into()),
        ("--ttl", format!("{}s", spec.ttl_s)),
        ("--etcd-endpoints", endpoint.into()),
        ("--prefix", PREFIX.into()),
        ("--listen", loopback(spec.registrar_port).to_string()),
    ];
    let mut args: Vec<OsString> = vec!["run".into()];
    // Its own take the place of these: a flag may stand only once.
    let ours = flags.into_iter().filter(|(flag, _)| !spec.flags.iter().any(|it| it == flag));
    args.extend(ours.flat_map(|(flag, value)| [flag.into(), value.into()]));
    args.extend(spec.flags.iter().map(OsString::from));
    args
}

fn note_in(home: &Home, spec: &Spec) -> std::path::PathBuf {
    home.join(format!("{}-{}-at-stop.csv", spec.service, spec.name))
}
