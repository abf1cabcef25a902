//! What was measured on, and with which versions: a figure without them says nothing.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use stack::{Stack, program};

/// A few lines of text.
pub(crate) async fn describe(stack: &Stack) -> Result<String> {
    let haproxy = stack.haproxy().ask("show info").await?;
    let haproxy = haproxy.lines().find_map(|line| line.strip_prefix("Version: ")).unwrap_or("unknown");
    let profile = if cfg!(debug_assertions) {
        "debug build: figures of a release build are what counts"
    } else {
        "release build"
    };
    Ok(format!(
        "{}, Linux {}\n{}, HAProxy {haproxy}, {}, {profile}",
        processor(),
        fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        version("etcd", program::system("etcd")?)?.replace(" Version:", ""),
        version("lb-sync", program::ours("lb-sync")?)?,
    ))
}

fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores of {}", model.map_or("an unknown processor", |(_, name)| name))
}

fn version(name: &str, path: std::path::PathBuf) -> Result<String> {
    let output = Command::new(path).arg("--version").output();
    let output = output.with_context(|| format!("cannot run {name} --version"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().next().unwrap_or(name).into())
}
