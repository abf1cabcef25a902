//! What a process uses, from `/proc`.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use testkit::Clock;

/// How long it is looked at: above the 30 s from one of lb-sync's audits to the next.
const LOOKED_AT: Duration = Duration::from_secs(32);
/// One look: it holds one or two of lb-sync's glances, which come every 200 ms.
const SAMPLE: Duration = Duration::from_millis(250);
/// The dearest samples are the audits': two at most come in that time, each falls into two at most.
const DEAREST: usize = 4;

/// What it uses while it has nothing to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Memory that is in use.
    pub(crate) resident_kb: f64,
    /// The most that ever was.
    pub(crate) peak_kb: f64,
    /// Of one core, audits apart.
    pub(crate) idle_share: f64,
    /// One audit's processor time.
    pub(crate) audit: Duration,
}

impl Cost {
    /// Looks at an idle lb-sync for half a minute.
    pub(crate) async fn of_idle(pid: u32) -> Result<Self> {
        let mut samples = Vec::new();
        let (start, mut used) = (Clock.now(), processor(pid)?);
        while Clock.now().since(start) < LOOKED_AT {
            Clock.until(Some(Clock.now().plus(SAMPLE))).await;
            let now = processor(pid)?;
            samples.push(now.saturating_sub(used));
            used = now;
        }
        let (idle_share, audit) = judge(&samples);
        let (resident_kb, peak_kb) = (status_kb(pid, "VmRSS:")?, status_kb(pid, "VmHWM:")?);
        Ok(Self { resident_kb, peak_kb, idle_share, audit })
    }
}

/// Processor time of all threads that `pid` has now.
pub(crate) fn processor(pid: u32) -> Result<Duration> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).context("the process is gone")?;
    let times = threads.flatten().filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    });
    Ok(times.sum())
}

/// The share of a core in the usual samples, and what the dearest two neighbours have above them.
fn judge(samples: &[Duration]) -> (f64, Duration) {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let usual = &sorted[..sorted.len().saturating_sub(DEAREST)];
    let idle: Duration = usual.iter().sum();
    let count = u32::try_from(usual.len().max(1)).unwrap_or(u32::MAX);
    let share = idle.as_secs_f64() / (SAMPLE.as_secs_f64() * f64::from(count));
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
    let pairs = samples.windows(2).map(|pair| pair.iter().sum::<Duration>());
    (share, pairs.max().unwrap_or_default().saturating_sub(2 * median))
}

/// A figure of `/proc/PID/status`, in kB.
pub(crate) fn status_kb(pid: u32, field: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB"));
    value.and_then(|kb| kb.parse().ok()).with_context(|| format!("no {field} of process {pid}"))
}

/// What a process has of all memory, in kB: its own, and its part of what it shares.
pub(crate) fn share_kb(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("the process is gone")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB"));
    Ok(line.context("no Pss")?.parse()?)
}

/// What has gone over loopback since the machine's start, with all headers: of everybody.
pub(crate) fn loopback_bytes() -> Result<f64> {
    let text = fs::read_to_string("/proc/net/dev")?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("lo:")).context("no loopback")?;
    Ok(line.split_whitespace().next().context("no bytes of loopback")?.parse()?)
}

/// Sends the signal of this name to a process that is ours.
pub(crate) fn signal(pid: u32, name: &str) -> Result<()> {
    let signal = format!("SIG{name}").parse().with_context(|| format!("no signal {name}"))?;
    testkit::process::signal(pid, signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_is_what_stands_out() {
        let mut samples = vec![Duration::from_millis(1); 100];
        samples[40] = Duration::from_millis(11);
        samples[41] = Duration::from_millis(6);
        let (share, audit) = judge(&samples);
        assert!((share - 0.004).abs() < 1e-9);
        assert_eq!(audit, Duration::from_millis(15));
    }
}
