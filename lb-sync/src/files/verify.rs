//! Asks HAProxy itself whether it would take a configuration: `haproxy -c`.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use haproxy::answer::excerpt::Excerpt;

/// Longest check; 10,000 servers take 0.55 s on 2.6.
const CHECK_MAX: Duration = Duration::from_secs(30);
/// How often is looked whether it is done.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Most that is read of what HAProxy says, in bytes, and how many of its lines are told.
const SAID_MAX: u64 = 64 * 1024;
const LINES_MAX: usize = 5;

/// HAProxy's checker, and the administrator's own files.
#[derive(Clone, Debug)]
pub(super) struct Verifier {
    binary: PathBuf,
    base: Vec<PathBuf>,
}

/// HAProxy would not start on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused(pub(super) String);

impl Verifier {
    /// Checks with `binary`, together with `base`.
    pub(super) fn new(binary: PathBuf, base: Vec<PathBuf>) -> Self {
        Self { binary, base }
    }

    /// Whether `binary` can be run at all.
    pub(super) fn try_out(binary: &Path) -> io::Result<()> {
        let quiet = || Command::new(binary);
        let status =
            quiet().arg("-v").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("it ended with {status}"))) }
    }

    /// Checks the base files together with those in `dir`. An error means that it could not be found out.
    pub(super) async fn check(&self, dir: &Path) -> io::Result<Result<(), Refused>> {
        let log = dir.join(".said");
        let mut running = self.spawn(dir, &log)?;
        let Ok(status) = tokio::time::timeout(CHECK_MAX, ended(&mut running)).await else {
            running.kill()?;
            running.wait()?;
            let text = format!("`haproxy -c` did not end within {} s", CHECK_MAX.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        };
        let status = status?;
        let said = said(&log)?;
        fs::remove_file(&log)?;
        match status.code() {
            Some(0) => Ok(Ok(())),
            // Sections alone, without the administrator's frontends: as far as they go, they are good.
            Some(2) if said.contains("no listener") => Ok(Ok(())),
            Some(_) => Ok(Err(Refused(summary_of(&said, dir)))),
            None => Err(io::Error::other(format!("`haproxy -c` ended with {status}"))),
        }
    }

    fn spawn(&self, dir: &Path, log: &Path) -> io::Result<Child> {
        let log = File::create(log)?;
        let files = self.base.iter().map(PathBuf::as_path).chain([dir]);
        Command::new(&self.binary)
            .arg("-c")
            .args(files.flat_map(|file| [Path::new("-f"), file]))
            // Not this service's to tell systemd of.
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
    }
}

async fn ended(running: &mut Child) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = running.try_wait()? {
            return Ok(status);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn said(log: &Path) -> io::Result<String> {
    let mut said = Vec::new();
    File::open(log)?.take(SAID_MAX).read_to_end(&mut said)?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// HAProxy's errors, in short: without its process id, which changes, and with the paths that people know.
fn summary_of(said: &str, dir: &Path) -> String {
    let candidate = format!("{}/", dir.display());
    let lines = said.lines().filter_map(|line| line.strip_prefix("[ALERT]"));
    let lines = lines.map(|line| line.trim_start().split_once(") : ").map_or(line, |(_, text)| text));
    let lines = lines.map(|line| Excerpt::of(&line.replace(&candidate, "")).to_string());
    let summary = |line: &String| line.contains("Fatal errors found") || line.contains("Error(s) found");
    let told: Vec<String> = lines.filter(|line| !summary(line)).take(LINES_MAX).collect();
    if told.is_empty() { Excerpt::of(said).to_string() } else { told.join("\n  ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn haproxy_says_what_it_does_not_take() {
        let dir = tempfile::tempdir().unwrap();
        let verifier = Verifier::new("haproxy".into(), vec![]);
        let put = |text: &str| fs::write(dir.path().join("50-web.cfg"), text).unwrap();
        let base = "defaults\n timeout connect 1s\n timeout client 1s\n timeout server 1s\n";
        put(&format!("{base}backend web\n"));
        assert_eq!(verifier.check(dir.path()).await.unwrap(), Ok(()));
        put(&format!("{base}backend web\n balance nonsense\n"));
        let Err(Refused(said)) = verifier.check(dir.path()).await.unwrap() else { panic!("taken") };
        assert!(said.contains("50-web.cfg:6") && !said.contains(dir.path().to_str().unwrap()), "{said}");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_no_verdict() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Verifier::try_out(Path::new("/no/such/haproxy")).is_err());
        assert!(Verifier::new("/no/such/haproxy".into(), vec![]).check(dir.path()).await.is_err());
    }
}
