//! A real HAProxy for tests: the one on PATH, in a folder of its own, killed when its guard goes.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::{Command, Dialogue};

/// Longest that anything here may take.
pub(super) const WITHIN: Duration = Duration::from_secs(20);

/// A running HAProxy with the backends `web`, `empty`, and some with other balance algorithms.
pub(super) struct Haproxy {
    process: Child,
    folder: TempDir,
}

impl Haproxy {
    /// Starts one; returns once its sockets are there.
    pub(super) async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().display();
        let config = format!(
            "global\n stats socket {path}/admin.sock mode 600 level admin\n \
             stats socket {path}/operator.sock mode 600 level operator\n stats timeout 500ms\n\
             defaults\n mode http\n timeout connect 1s\n timeout client 5s\n timeout server 5s\n\
             backend web\n balance leastconn\nbackend empty\n\
             backend fixed\n balance static-rr\nbackend map\n balance source\n\
             backend consistent\n balance source\n hash-type consistent\n"
        );
        fs::write(folder.path().join("haproxy.cfg"), config).unwrap();
        let process = Process::new("haproxy")
            .args(["-db", "-f", "haproxy.cfg"])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let haproxy = Self { process, folder };
        let ready = async {
            while Dialogue::connect(&haproxy.socket("admin"), WITHIN).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(WITHIN, ready).await.unwrap();
        haproxy
    }

    /// The path of one of its sockets.
    pub(super) fn socket(&self, level: &str) -> PathBuf {
        self.folder.path().join(format!("{level}.sock"))
    }

    /// A session at level admin.
    pub(super) async fn dialogue(&self) -> Dialogue {
        Dialogue::connect(&self.socket("admin"), WITHIN).await.unwrap()
    }

    /// Ends it, as a crash would.
    pub(super) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The answer to one command.
pub(super) async fn ask(dialogue: &mut Dialogue, command: Command) -> String {
    dialogue.ask(&[command]).await.unwrap().remove(0)
}
