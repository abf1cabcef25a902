//! The last good view on disk, so that an lb-sync that starts while etcd is away knows which instances to serve.
//!
//! It is a copy, never the truth: what comes from it may be added to HAProxy, and nothing is drained or deleted until
//! etcd has been heard. A file that cannot be read, is of another format, or of another prefix is put aside, not fatal.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon::log_once::LogOnce;
use registry::key::Prefix;
use registry::record::{InstanceRecord, OverrideRecord};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// The file within the state directory.
const FILE: &str = "snapshot.json";
/// The only format that is read.
const FORMAT: u32 = 1;
/// Largest file that is read: 10,000 instances are some 4 MB.
const LEN_MAX: u64 = 256 * 1024 * 1024;
/// Shortest time between two writes: under churn the disk is not to be kept busy.
pub const WRITE_EVERY: Duration = Duration::from_secs(2);

/// A view, as it stands on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    format: u32,
    /// Whose keys these are.
    pub prefix: String,
    /// The etcd they came from.
    pub cluster: u64,
    /// Its revision.
    pub revision: i64,
    /// By `service/instance`.
    pub instances: BTreeMap<String, SavedInstance>,
    /// By `service/instance`.
    pub overrides: BTreeMap<String, OverrideRecord>,
}

/// An instance in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedInstance {
    /// Its last good record.
    pub record: InstanceRecord,
    /// Who registered it.
    pub owner: String,
    /// etcd's revision when its key came to be.
    pub create_revision: i64,
    /// etcd's revision of the record.
    pub mod_revision: i64,
    /// etcd's revision of the first record by which its owner has its address; 0 where an earlier lb-sync has not told.
    #[serde(default)]
    pub since: i64,
    /// The lease it stood under; 0 for none.
    pub lease: i64,
}

/// A snapshot that cannot be used.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Unread(#[from] io::Error),
    #[error("it has {0} bytes; at most {LEN_MAX} are read")]
    TooLong(u64),
    #[error("it is not a snapshot: {0}")]
    Content(#[from] serde_json::Error),
    #[error("it is of format {0}, and this lb-sync reads format {FORMAT}")]
    Format(u32),
    #[error("it is of the registry at {0}, and this lb-sync follows the one at {1}")]
    Prefix(String, String),
}

impl Snapshot {
    /// Of the registry at `prefix`, with nothing in it yet.
    #[must_use]
    pub fn new(prefix: &Prefix, cluster: u64, revision: i64) -> Self {
        let (instances, overrides) = (BTreeMap::new(), BTreeMap::new());
        Self { format: FORMAT, prefix: prefix.to_string(), cluster, revision, instances, overrides }
    }

    /// The snapshot in `dir`, if there is one of the registry at `prefix`. Another one is put aside and logged.
    #[must_use]
    pub fn load(dir: &Path, prefix: &Prefix) -> Option<Self> {
        let path = dir.join(FILE);
        match read(&path, prefix) {
            Ok(snapshot) => Some(snapshot),
            Err(Refused::Unread(error)) if error.kind() == io::ErrorKind::NotFound => None,
            Err(refused) => {
                let aside = path.with_extension("json.bad");
                let put_aside = fs::rename(&path, &aside);
                tracing::error!(
                    path = %path.display(),
                    put_aside = put_aside.is_ok().then(|| aside.display().to_string()),
                    "the snapshot is not used: {refused}"
                );
                None
            }
        }
    }

    /// Writes it to `dir`, whole or not at all.
    pub fn save(&self, dir: &Path) -> io::Result<()> {
        daemon::file::replace(&dir.join(FILE), |file| Ok(serde_json::to_writer(file, self)?))
    }
}

fn read(path: &Path, prefix: &Prefix) -> Result<Snapshot, Refused> {
    /// Read first: what the rest means depends on it.
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let len = fs::metadata(path)?.len();
    if len > LEN_MAX {
        return Err(Refused::TooLong(len));
    }
    let text = fs::read(path)?;
    let Head { format } = serde_json::from_slice(&text)?;
    if format != FORMAT {
        return Err(Refused::Format(format));
    }
    let snapshot: Snapshot = serde_json::from_slice(&text)?;
    let ours = prefix.to_string();
    if snapshot.prefix == ours { Ok(snapshot) } else { Err(Refused::Prefix(snapshot.prefix, ours)) }
}

/// Writes each new snapshot to `dir`, the last one always, not more often than every 2 s. Ends when the sender does.
pub async fn save_each(dir: PathBuf, mut news: watch::Receiver<Option<Snapshot>>) {
    let mut log_once = LogOnce::default();
    while news.changed().await.is_ok() {
        let Some(snapshot) = news.borrow_and_update().clone() else { continue };
        let to = dir.clone();
        let saved = tokio::task::spawn_blocking(move || snapshot.save(&to)).await;
        match saved.map_err(io::Error::other).and_then(|saved| saved) {
            Ok(()) => log_once.settled("snapshot"),
            Err(error) => log_once.error("snapshot", || {
                format!(
                    "cannot write the snapshot to {}: {error}\n  a restart while etcd is away would know no instance; check --state-dir",
                    dir.display()
                )
            }),
        }
        tokio::time::sleep(WRITE_EVERY).await;
    }
}

/// Writes the snapshot that a next life begins with.
pub async fn save_last(dir: PathBuf, snapshot: Snapshot) {
    let to = dir.clone();
    let saved = tokio::task::spawn_blocking(move || snapshot.save(&to)).await;
    if let Err(error) = saved.map_err(io::Error::other).and_then(|saved| saved) {
        tracing::error!(
            "cannot write the snapshot to {}: {error}\n  the next start begins with an older one; check --state-dir",
            dir.display()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot::new(&Prefix::default(), 7, 42);
        let record = InstanceRecord::new("10.0.0.5".parse().unwrap(), 80.try_into().unwrap());
        let saved = SavedInstance {
            record,
            owner: "me".into(),
            create_revision: 5,
            mod_revision: 6,
            since: 6,
            lease: 1,
        };
        snapshot.instances.insert("web/web-1".into(), saved);
        snapshot.overrides.insert("web/web-1".into(), OverrideRecord::default());
        snapshot
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Snapshot::load(dir.path(), &Prefix::default()), None);
        snapshot().save(dir.path()).unwrap();
        assert_eq!(Snapshot::load(dir.path(), &Prefix::default()), Some(snapshot()));
    }

    #[test]
    fn a_corrupt_or_foreign_one_is_put_aside() {
        let mut foreign = snapshot();
        foreign.prefix = "/other".into();
        let foreign = serde_json::to_string(&foreign).unwrap();
        let text = serde_json::to_string(&snapshot()).unwrap();
        let newer = text.replacen("\"format\":1", "\"format\":2", 1);
        let illegal = text.replacen("10.0.0.5", "0.0.0.0", 1);
        let cut = &text[..text.len() / 2];
        for bad in [&foreign, &newer, &illegal, cut, "", "[]", "\0\u{1}"] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(FILE), bad).unwrap();
            assert_eq!(Snapshot::load(dir.path(), &Prefix::default()), None, "{bad}");
            assert!(!dir.path().join(FILE).exists() && dir.path().join("snapshot.json.bad").exists());
        }
    }
}
