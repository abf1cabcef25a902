//! A real HAProxy in a folder of its own, killed when its guard goes.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;

use haproxy::Dialogue;
use tempfile::TempDir;

/// Longest that one thing may take.
pub(crate) const WITHIN: Duration = Duration::from_secs(5);

/// A running HAProxy.
pub(crate) struct Real {
    process: Child,
    folder: TempDir,
}

impl Real {
    /// Starts one with these sections behind its `global` and `defaults`; `FOLDER` in them becomes its folder.
    pub(crate) async fn start(sections: &str, maps: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().display().to_string();
        for map in maps {
            fs::write(folder.path().join(map), "").unwrap();
        }
        let config = format!(
            "global\n stats socket {path}/admin.sock mode 600 level admin\n\
             defaults\n mode http\n timeout connect 50ms\n timeout client 1m\n timeout server 1m\n{}",
            sections.replace("FOLDER", &path)
        );
        fs::write(folder.path().join("haproxy.cfg"), config).unwrap();
        let program = std::env::var_os("LEASEHOLD_HAPROXY").unwrap_or_else(|| "haproxy".into());
        let process = Process::new(program)
            .args(["-db", "-f", "haproxy.cfg"])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let real = Self { process, folder };
        let ready = async {
            while Dialogue::connect(&real.folder.path().join("admin.sock"), WITHIN).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(WITHIN, ready).await.expect("HAProxy does not answer");
        real
    }

    /// A session at level admin.
    pub(crate) async fn dialogue(&self) -> Dialogue {
        Dialogue::connect(&self.folder.path().join("admin.sock"), WITHIN).await.unwrap()
    }

    /// The socket that takes requests.
    pub(crate) fn front(&self) -> PathBuf {
        self.folder.path().join("front.sock")
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
