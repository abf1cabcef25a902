//! Ports that are taken, and the processes that have them.

use std::fs;
use std::net::TcpListener;

use anyhow::{Result, bail};
use testkit::port::loopback;

/// State of a listening socket in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// Refuses a `port` that cannot be listened on; `what` it is for, `flag` changes it.
pub(crate) fn must_be_free(port: u16, what: &str, flag: &str) -> Result<()> {
    let Err(error) = TcpListener::bind(loopback(port)) else {
        return Ok(());
    };
    let other = format!("choose another: {flag} PORT");
    match error.kind() {
        std::io::ErrorKind::AddrInUse => match holder(port) {
            Some((pid, name)) => bail!(
                "port {port} ({what}) is taken by {name} (process {pid})\n  stop it (kill {pid}), or {other}"
            ),
            None => bail!(
                "port {port} ({what}) is taken by a process of another user\n  `sudo ss -ltnp sport = :{port}` shows it; stop it, or {other}"
            ),
        },
        std::io::ErrorKind::PermissionDenied => {
            bail!("port {port} ({what}) may not be used by this user\n  {other}")
        }
        _ => bail!("port {port} ({what}) cannot be used: {error}\n  {other}"),
    }
}

/// Who listens on `port`, as far as we may see: another user's processes do not show their sockets.
fn holder(port: u16) -> Option<(u32, String)> {
    let sockets: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .flat_map(|table| inodes(&table, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let pid = pids.find(|pid| holds(*pid, &sockets))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some((pid, name.trim().into()))
}

fn holds(pid: u32, sockets: &[String]) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    let mut targets = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    targets.any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()))
}

/// The inodes of the sockets that listen on `port`, from a table with columns
/// `sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode`.
fn inodes(table: &str, port: u16) -> Vec<String> {
    let suffix = format!(":{port:04X}");
    let rows = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let ours = rows.filter(|row| {
        row.get(1).is_some_and(|local| local.ends_with(&suffix)) && row.get(3) == Some(&LISTENING)
    });
    ours.filter_map(|row| Some((*row.get(9)?).to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use testkit::port::Ports;

    use super::*;

    #[test]
    fn who_has_a_port_is_named_with_the_flag_that_changes_it() {
        let ports = Ports::claim().unwrap();
        let port = ports.free().unwrap();
        let listener = TcpListener::bind(loopback(port)).unwrap();
        let error = must_be_free(port, "traffic", "--traffic-port").unwrap_err().to_string();
        let us = std::process::id();
        assert!(error.contains(&format!("port {port} (traffic) is taken by")), "{error}");
        assert!(error.contains(&format!("(process {us})")), "{error}");
        assert!(error.contains("--traffic-port PORT"), "{error}");
        drop(listener);
        must_be_free(port, "traffic", "--traffic-port").unwrap();
    }
}
