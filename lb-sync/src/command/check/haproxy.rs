//! Whether HAProxy's socket can be used, and what is behind it.

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use nix::unistd::{Gid, Group, Uid, User};

use super::super::read::{self, ANSWER_MAX};
use super::finding::Finding;
use super::{backends, version};
use crate::balancer::PassError;
use crate::config::RunConfig;
use haproxy::{Dialogue, DialogueError};

const CHECK: &str = "HAProxy socket";
/// Write permission for everybody on this host.
const MODE_WORLD_WRITES: u32 = 0o002;

/// Connects; what there is to say of the socket itself.
pub(super) async fn socket(path: &Path) -> (Option<Dialogue>, Finding) {
    let meta = fs::metadata(path).ok();
    let connected = Dialogue::connect(path, ANSWER_MAX).await;
    let finding = match (&connected, &meta) {
        (Ok(_), Some(meta)) => usable(path, meta),
        (Ok(_), None) => Finding::ok(CHECK, format!("{}: level admin", path.display())),
        (Err(_), Some(meta)) if !meta.file_type().is_socket() => {
            let advice = "give the path that `stats socket` names, with --haproxy-socket";
            Finding::failed(CHECK, format!("{} is not a socket", path.display()), advice)
        }
        (Err(DialogueError::PermissionDenied(_)), Some(meta)) => denied(path, meta),
        (Err(error), _) => Finding::by_error(CHECK, error),
    };
    (connected.ok(), finding)
}

/// What is behind the socket: the version, what it supports, the backends.
pub(super) async fn inside(
    dialogue: Dialogue,
    config: &RunConfig,
    registry: Option<&read::Registry>,
) -> Vec<Finding> {
    let mut haproxy = match read::Haproxy::read_all(dialogue).await {
        Ok(haproxy) => haproxy,
        Err(error @ PassError::TooOld(_)) => return vec![Finding::by_error("HAProxy version", &error)],
        Err(error) => return vec![Finding::by_error("HAProxy", &error)],
    };
    let mut findings = version::findings(&haproxy.info.version);
    match backends::findings(&mut haproxy, config, registry).await {
        Ok(more) => findings.extend(more),
        Err(error) => findings.push(Finding::by_error("backends", &error)),
    }
    findings
}

fn usable(path: &Path, meta: &Metadata) -> Finding {
    let seen = format!("{}: level admin, {}", path.display(), belongs(meta));
    if meta.mode() & MODE_WORLD_WRITES == 0 {
        return Finding::ok(CHECK, seen);
    }
    let advice = "everybody on this host may command HAProxy: set `mode 660 group haproxy` on `stats socket`";
    Finding::warning(CHECK, seen, advice)
}

fn denied(path: &Path, meta: &Metadata) -> Finding {
    let seen = format!("cannot reach HAProxy at {}: permission denied: {}", path.display(), belongs(meta));
    let advice = "run lb-sync in the socket's group (SupplementaryGroups= in its unit), or set `mode` and `group` on `stats socket`";
    Finding::failed(CHECK, seen, advice)
}

/// `mode 660, of root:haproxy`
fn belongs(meta: &Metadata) -> String {
    let user = User::from_uid(Uid::from_raw(meta.uid())).ok().flatten();
    let group = Group::from_gid(Gid::from_raw(meta.gid())).ok().flatten();
    let user = user.map_or_else(|| meta.uid().to_string(), |user| user.name);
    let group = group.map_or_else(|| meta.gid().to_string(), |group| group.name);
    format!("mode {:o}, of {user}:{group}", meta.mode() & 0o7777)
}
