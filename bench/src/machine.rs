//! What was measured on, and with which versions: a figure without them says nothing.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use testkit::program;

/// A few lines of text.
pub(crate) fn describe() -> Result<String> {
    let profile = if cfg!(debug_assertions) {
        "debug build: figures of a release build are what counts"
    } else {
        "release build"
    };
    Ok(format!(
        "{}, Linux {}\n{}, {}, {}, {profile}",
        processor(),
        fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        version("etcd", program::system("etcd")?)?.replace(" Version:", ""),
        haproxy()?,
        version("lb-sync", program::ours("lb-sync")?)?,
    ))
}

fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores of {}", model.map_or("an unknown processor", |(_, name)| name))
}

/// Without its date and its site.
fn haproxy() -> Result<String> {
    let output =
        Command::new(program::system("haproxy")?).arg("-v").output().context("cannot run haproxy -v")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split(' ').nth(2).unwrap_or("of an unknown version");
    Ok(format!("HAProxy {version}"))
}

/// The text's lines, as they are kept.
pub(crate) fn lines(about: &str) -> Vec<&str> {
    about.lines().collect()
}

fn version(name: &str, path: std::path::PathBuf) -> Result<String> {
    let output = Command::new(path).arg("--version").output();
    let output = output.with_context(|| format!("cannot run {name} --version"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().next().unwrap_or(name).into())
}
