//! The exec check: does a command end with 0?

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::supervise::{Exit, Processes};

/// Runs `script` by a shell, and kills it with all it started if it takes longer than `timeout`. It finds where the app is
/// in `LEASEHOLD_CHECK_ADDRESS` and `LEASEHOLD_CHECK_PORT`; what it prints goes nowhere.
pub(super) async fn perform(
    processes: &Processes,
    script: &str,
    target: SocketAddr,
    timeout: Duration,
) -> Result<(), String> {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    command.env("LEASEHOLD_CHECK_ADDRESS", target.ip().to_string());
    command.env("LEASEHOLD_CHECK_PORT", target.port().to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = processes.spawn(command).await.map_err(|error| error.to_string())?;
    match tokio::time::timeout(timeout, &mut child.exit).await {
        Ok(Ok(Exit::Code(0))) => Ok(()),
        Ok(Ok(exit)) => Err(format!("exec:{script} {exit}")),
        // The reaper has ended, and with it the registrar.
        Ok(Err(_)) => Err(format!("exec:{script} was not waited for")),
        Err(_) => {
            processes.signal(child.pid, Signal::SIGKILL).await;
            // The next check is not to run beside it.
            let _ = child.exit.await;
            Err(format!("exec:{script} did not end within {}", humantime::format_duration(timeout)))
        }
    }
}
