//! The name of the host, as the kernel has it: in a container, the container's.

use std::fs;

/// What the kernel says first, for each container has its own; the file is for systems without procfs.
const SOURCES: [&str; 2] = ["/proc/sys/kernel/hostname", "/etc/hostname"];

/// The host's name, or `unknown` where neither source has one: the demo is no less of use without it.
pub(crate) fn name() -> String {
    let mut names = SOURCES.iter().filter_map(|path| fs::read_to_string(path).ok());
    names
        .find_map(|name| Some(name.trim().to_owned()).filter(|name| !name.is_empty()))
        .unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_host_has_a_name() {
        let name = super::name();
        assert!(!name.is_empty() && !name.contains(char::is_whitespace), "{name:?}");
    }
}
