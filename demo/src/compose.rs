//! The lab in containers, started by `docker compose` or the older `docker-compose`, whichever is there.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use testkit::haproxy::{Seen, seen_over_tcp};
use testkit::{port::loopback, wait};

/// Its service, which HAProxy's backend is called by.
pub(crate) const SERVICE: &str = "webapp";
/// The project's name: containers and networks begin with it.
const PROJECT: &str = "leasehold-lab";
/// Longest wait for something to be seen; containers take seconds to start on a busy machine.
const SEEN_MAX: Duration = Duration::from_mins(2);

/// The lab in containers. Dropped, nothing of it is left.
#[derive(Debug)]
pub(crate) struct Compose {
    /// `docker compose`, or `docker-compose`.
    program: Vec<&'static str>,
    file: String,
}

/// A container of the app.
#[derive(Clone, Debug)]
pub(crate) struct Webapp {
    pub(crate) id: String,
    pub(crate) ip: String,
}

impl Compose {
    /// Finds Docker and the compose tool; starts nothing.
    pub(crate) fn find(file: &str) -> Result<Self> {
        run(&["docker", "version", "--format", "{{.Server.Version}}"]).context(
            "there is no Docker engine that answers: is it installed and running, and may this user use it?",
        )?;
        let plugin = run(&["docker", "compose", "version"]).is_ok();
        let program = if plugin { vec!["docker", "compose"] } else { vec!["docker-compose"] };
        run(&[&program[..], &["version"]].concat())
            .context("there is neither `docker compose` nor `docker-compose`")?;
        run(&["docker", "image", "inspect", "leasehold/haproxy:latest"])
            .context("the images are not there: run compose/build")?;
        Ok(Self { program, file: file.into() })
    }

    /// Starts what is missing for `count` apps, or stops what is too much.
    pub(crate) fn scale(&self, count: usize) -> Result<()> {
        self.compose(&["up", "-d", "--no-recreate", "--scale", &format!("{SERVICE}={count}")]).map(drop)
    }

    /// Runs the compose tool with `args`.
    pub(crate) fn compose(&self, args: &[&str]) -> Result<String> {
        run(&[&self.program[..], &["-f", &self.file, "-p", PROJECT], args].concat())
    }

    /// Where traffic comes in.
    pub(crate) fn traffic(&self) -> Result<SocketAddr> {
        self.published("80")
    }

    /// Where the stats page is.
    pub(crate) fn stats(&self) -> Result<SocketAddr> {
        self.published("1936")
    }

    /// What HAProxy says at this moment, over the lab's admin socket.
    pub(crate) async fn seen(&self) -> Result<Seen> {
        seen_over_tcp(self.published("9999")?).await
    }

    fn published(&self, port: &str) -> Result<SocketAddr> {
        let text = self.compose(&["port", "ha", port])?;
        let port = text.lines().next().and_then(|line| line.trim().rsplit_once(':')?.1.parse().ok());
        Ok(loopback(port.with_context(|| format!("the balancer's port is not published: {text}"))?))
    }

    /// Waits until HAProxy shows what `condition` wants.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&Seen) -> bool) -> Result<Seen> {
        let admin = self.published("9999")?;
        let mut last = Seen::default();
        let look = async || {
            // HAProxy may be between two lives.
            if let Ok(seen) = seen_over_tcp(admin).await {
                last = seen;
            }
            Ok(condition(&last).then(|| last.clone()))
        };
        let waited = wait::until(SEEN_MAX, what, look).await;
        let told = || {
            let logs = self.compose(&["logs", "--no-color", "--tail=5"]).unwrap_or_default();
            format!("{last}\nthe containers' last words:\n{logs}")
        };
        Ok(waited.with_context(told)?.0)
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        // What cannot be taken down now is named by the next start.
        let _ = self.compose(&["down", "-v", "-t", "1", "--remove-orphans"]);
    }
}

/// The running apps.
pub(crate) fn webapps() -> Result<Vec<Webapp>> {
    let project = format!("label=com.docker.compose.project={PROJECT}");
    let service = format!("label=com.docker.compose.service={SERVICE}");
    let ids = run(&["docker", "ps", "-q", "--filter", &project, "--filter", &service])?;
    ids.split_whitespace()
        .map(|id| {
            let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
            let ip = run(&["docker", "inspect", "-f", format, id])?.trim().to_owned();
            Ok(Webapp { id: id.to_owned(), ip })
        })
        .collect()
}

/// The output of a command that is to succeed.
pub(crate) fn run(words: &[&str]) -> Result<String> {
    let (program, args) = words.split_first().context("no command")?;
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let words = words.join(" ");
        bail!("`{words}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
