//! The host that this runs on.

/// The host's name; empty where it cannot be read.
#[must_use]
pub fn name() -> String {
    nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned()
}
