//! The host that this runs on.

/// The host's name; empty where it cannot be read.
#[must_use]
pub fn name() -> String {
    nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned()
}

/// The id that the kernel has drawn at its start; empty where there is none. Hosts that were cloned share their name and
/// often their machine id, but not this.
#[must_use]
pub fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}
