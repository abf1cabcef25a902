//! A stack's temporary folder: data, sockets and logs. With it goes everything that was started in it.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

/// In the environment of everything that is started here, and handed on by whatever that starts: an app whose
/// registrar was killed is found by it.
pub(crate) const MARK: &str = "STACK_HOME";
/// How much of each log is printed when a test fails, in bytes.
const TAIL_LEN_MAX: u64 = 12 * 1024;
/// Waits until its standard input ends, which it does with this process, however that ends; then kills every process that
/// carries the mark and removes the folder, with the network namespace that is named in it (see [`crate::apart`]).
const SWEEPER: &str = r#"
read -r _
for file in $(grep -lzxF "STACK_HOME=$1" /proc/[0-9]*/environ 2>/dev/null); do
    pid=${file#/proc/}
    kill -KILL "${pid%/environ}" 2>/dev/null
done
if [ -f "$1/netns" ]; then
    PATH=$PATH:/usr/sbin:/sbin
    read -r name < "$1/netns"
    ip link delete "$name"
    ip netns delete "$name"
fi
rm -rf -- "$1"
"#;

/// A temporary folder and the guard of all that runs in it.
#[derive(Debug)]
pub struct Home {
    dir: TempDir,
    sweeper: Child,
}

impl Home {
    /// A new, empty folder.
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("leasehold-")
            .tempdir()
            .context("cannot make a temporary folder")?;
        let sweeper = Command::new("/bin/sh")
            .args(["-c", SWEEPER, "sweeper"])
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A Ctrl-C at the terminal is for us; the sweeper cleans up after it.
            .process_group(0)
            .spawn()
            .context("cannot start /bin/sh")?;
        Ok(Self { dir, sweeper })
    }

    /// Where `name` stands in it.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The log of the process `name`. One that is started again goes on in the same.
    pub(crate) fn log(&self, name: &str) -> Result<File> {
        let path = self.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&path);
        file.with_context(|| format!("cannot write {}", path.display()))
    }

    /// The last lines of the log of `name`.
    pub(crate) fn tail(&self, name: &str) -> String {
        tail(&self.join(format!("{name}.log"))).unwrap_or_default()
    }

    #[expect(
        clippy::print_stderr,
        reason = "a failed test shows its logs, and libtest captures this way only"
    )]
    fn print_logs(&self) {
        let Ok(entries) = fs::read_dir(self.dir.path()) else {
            return;
        };
        let mut logs: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        logs.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.sort();
        for path in logs {
            let name = path.file_stem().unwrap_or_default().display();
            eprintln!("---- the end of {name}'s log\n{}", tail(&path).unwrap_or_default());
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        drop(self.sweeper.stdin.take());
        // It only kills and removes; should it not have run, the folder goes with `dir`.
        let _ = self.sweeper.wait();
    }
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL_LEN_MAX)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_LEN_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::process::{Daemon, is_alive};

    #[test]
    fn orphans_and_the_folder_go_with_it() {
        let home = Arc::new(Home::new().unwrap());
        let path = home.path().to_owned();
        // In a session of its own, with no parent of ours: only the mark is left.
        let orphan = r#"setsid sleep 600 & echo $! > "$STACK_HOME/pid""#;
        let shell = Daemon::new(&home, "shell", "/bin/sh".into(), vec!["-c".into(), orphan.into()]);
        shell.start().unwrap();
        let pid = loop {
            match fs::read_to_string(path.join("pid")) {
                Ok(text) if text.ends_with('\n') => break text.trim().parse().unwrap(),
                _ => std::thread::yield_now(),
            }
        };
        assert!(is_alive(pid));

        drop(shell);
        drop(home);

        assert!(!is_alive(pid), "process {pid} is left");
        assert!(!path.exists(), "{} is left", path.display());
    }
}
