//! Where the programs are: ours beside the running executable, the others where the system has them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// Looked through after `PATH`: `haproxy` stands in a folder that is seldom on a user's.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
/// Debian's package of each program that is not ours.
const PACKAGES: [(&str, &str); 4] =
    [("etcd", "etcd-server"), ("etcdctl", "etcd-client"), ("haproxy", "haproxy"), ("socat", "socat")];

/// One of this workspace's own binaries, of the same profile as the running executable.
pub fn ours(name: &str) -> Result<PathBuf> {
    let here = std::env::current_exe().context("cannot tell where this executable is")?;
    let folder = here.parent().unwrap_or(Path::new("/"));
    // Test executables stand one folder below the binaries.
    let folder = match folder.parent() {
        Some(above) if folder.ends_with("deps") => above,
        _ => folder,
    };
    let path = folder.join(name);
    if path.is_file() {
        return Ok(path);
    }
    let release = if folder.ends_with("release") { " --release" } else { "" };
    bail!("there is no `{name}` in {}\n  build it with: cargo build --workspace{release}", folder.display())
}

/// A program that the system has to bring.
pub fn system(name: &str) -> Result<PathBuf> {
    // Read as every shell does to find a program; nothing else is taken from the environment.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(SYSTEM_FOLDERS.map(PathBuf::from));
    for folder in folders {
        let program = folder.join(name);
        if program.is_file() {
            return Ok(program);
        }
    }
    let package =
        PACKAGES.iter().find_map(|(program, package)| (*program == name).then_some(*package)).unwrap_or(name);
    bail!("the program `{name}` is not installed\n  on Debian: sudo apt-get install {package}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let error = ours("no-such-binary").unwrap_err().to_string();
        assert!(error.contains("cargo build --workspace"), "{error}");
        let error = system("no-such-program").unwrap_err().to_string();
        assert!(error.contains("apt-get install no-such-program"), "{error}");
    }
}
