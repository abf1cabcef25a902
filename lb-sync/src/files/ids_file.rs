//! HAProxy ids on disk: `ids.json` in the state directory.
//!
//! Ids are reserved ahead, a block at a time: the file says that none at or above a mark was ever given out, and it
//! says so before one above the last mark reaches HAProxy. Who has which id is written when there is time.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use daemon::log_once::LogOnce;
use registry::time::Tick;
use tokio::sync::watch;

use super::debounce::Debounce;
use crate::plan::ids::{Ids, SavedIds, SavedIdsError};
use haproxy::ServerId;

/// The file within the state directory.
const FILE: &str = "ids.json";
/// Largest file that is read: 10,000 instances are some 300 kB.
const LEN_MAX: u64 = 64 * 1024 * 1024;
/// How many files are kept aside before the last is replaced.
const BAD_MAX: u32 = 9;
/// Ids reserved ahead. A join waits for the disk only when more than this many are new within one write.
const BLOCK: u32 = 1_000;
/// Shortest time between two writes of who has which.
const WRITE_EVERY: Duration = Duration::from_secs(2);

/// The balancer's side: when what is to be written.
#[derive(Debug)]
pub(super) struct IdsKeeper {
    /// Below this, ids may be given out.
    written: u32,
    /// What was asked to be reserved last; nothing yet before the first request.
    asked: Option<u32>,
    /// Which state of the ids was handed over last.
    saved: u64,
    debounce: Debounce,
}

impl IdsKeeper {
    /// Goes on from `ids`.
    pub(super) fn new(ids: &Ids) -> Self {
        Self { written: ids.top(), asked: None, saved: ids.changes(), debounce: Debounce::new(WRITE_EVERY) }
    }

    /// What to write before more ids are given out, where fewer than half a block are left.
    pub(super) fn reserve(&mut self, ids: &Ids) -> Option<Arc<SavedIds>> {
        self.is_short(ids).then(|| self.hand_over(ids))
    }

    /// Whether every id that was given out is reserved; at once, but for bursts of new instances.
    pub(super) fn is_reserved(&self, ids: &Ids) -> bool {
        ids.top() <= self.written
    }

    /// The disk has reserved the ids below `below`.
    pub(super) fn reserved(&mut self, below: u32) {
        self.written = self.written.max(below);
    }

    /// Which instance has which id, if that has changed and it is time.
    pub(super) fn save(&mut self, now: Tick, ids: &Ids) -> Option<Arc<SavedIds>> {
        if ids.changes() != self.saved {
            self.debounce.mark();
        }
        (self.debounce.take(now) || self.is_short(ids)).then(|| self.hand_over(ids))
    }

    /// When [`Self::save`] has something to do.
    pub(super) fn wake_at(&self) -> Option<Tick> {
        self.debounce.due_at()
    }

    fn is_short(&self, ids: &Ids) -> bool {
        self.asked.is_none_or(|asked| ids.top().saturating_add(BLOCK / 2) > asked)
    }

    fn hand_over(&mut self, ids: &Ids) -> Arc<SavedIds> {
        let asked = self.asked.unwrap_or(0).max(ids.top().saturating_add(BLOCK));
        self.asked = Some(asked);
        self.saved = ids.changes();
        Arc::new(ids.saved(asked))
    }
}

/// Writes what it is told, the last always.
pub(super) async fn write(
    dir: PathBuf,
    mut told: watch::Receiver<Option<Arc<SavedIds>>>,
    wrote: watch::Sender<u32>,
) {
    let mut log_once = LogOnce::default();
    while told.changed().await.is_ok() {
        let Some(ids) = told.borrow_and_update().clone() else { continue };
        let (to, saving) = (dir.clone(), Arc::clone(&ids));
        let saved = tokio::task::spawn_blocking(move || save(&to, &saving)).await;
        if let Err(error) = saved.unwrap_or_else(|error| Err(io::Error::other(error))) {
            let path = dir.join(FILE);
            log_once.error("ids", || {
                format!(
                    "cannot write HAProxy's ids to {}: {error}\n  after a restart of both, instances may get other ids; \
                     check --state-dir",
                    path.display()
                )
            });
        } else {
            log_once.settled("ids");
        }
        // Also after a failure: no member waits for a disk.
        wrote.send_replace(ids.reserved);
    }
}

fn save(dir: &Path, ids: &SavedIds) -> io::Result<()> {
    daemon::file::replace(&dir.join(FILE), |file| Ok(serde_json::to_writer(file, ids)?))
}

/// Ids that are not used.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Unread(#[from] io::Error),
    #[error("it has {0} bytes; at most {LEN_MAX} are read")]
    TooLong(u64),
    #[error("it holds no ids: {0}")]
    Content(#[from] serde_json::Error),
    #[error(transparent)]
    Ids(#[from] SavedIdsError),
}

/// The ids kept in `dir`. A file that cannot be used is kept aside and logged: ids are learnt from HAProxy then.
pub(super) fn load(dir: &Path, base: ServerId) -> Ids {
    let path = dir.join(FILE);
    match read(&path, base) {
        Ok(ids) => ids,
        Err(Refused::Unread(error)) if error.kind() == io::ErrorKind::NotFound => Ids::new(base),
        Err(refused) => {
            let aside = aside(dir);
            let kept_aside = fs::rename(&path, &aside).is_ok().then(|| aside.display().to_string());
            tracing::error!(
                path = %path.display(),
                kept_aside,
                "HAProxy's ids are not used: {refused}\n  they are learnt from HAProxy; an instance it does not have gets a new one"
            );
            Ids::new(base)
        }
    }
}

/// The ids kept in `dir`, for who only looks: nothing is kept aside or logged. `None` if there are none to be used.
pub(crate) fn peek(dir: &Path, base: ServerId) -> Option<Ids> {
    read(&dir.join(FILE), base).ok()
}

/// The first free name for a file that is kept aside.
fn aside(dir: &Path) -> PathBuf {
    let name = |n: u32| dir.join(format!("{FILE}.bad-{n}"));
    (1..=BAD_MAX).map(name).find(|path| !path.exists()).unwrap_or_else(|| name(BAD_MAX))
}

fn read(path: &Path, base: ServerId) -> Result<Ids, Refused> {
    let len = fs::metadata(path)?.len();
    if len > LEN_MAX {
        return Err(Refused::TooLong(len));
    }
    let saved: SavedIds = serde_json::from_slice(&fs::read(path)?)?;
    Ok(Ids::restore(base, &saved)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> ServerId {
        ServerId::try_from(10_000).unwrap()
    }

    #[tokio::test]
    async fn ids_outlive_a_restart_and_none_reaches_haproxy_that_is_not_reserved() {
        let dir = tempfile::tempdir().unwrap();
        let mut ids = load(dir.path(), base());
        let mut keeper = IdsKeeper::new(&ids);
        let (save, saves) = watch::channel(None);
        let (wrote, mut written) = watch::channel(0);
        let writing = tokio::spawn(write(dir.path().into(), saves, wrote));
        for n in 0..3_000 {
            ids.id_of(&format!("web/i{n}").parse().unwrap()).unwrap();
        }
        assert!(!keeper.is_reserved(&ids));
        save.send_replace(keeper.reserve(&ids));
        assert!(keeper.reserve(&ids).is_none(), "it is asked for once");
        let below = *written.wait_for(|below| *below > 0).await.unwrap();
        keeper.reserved(below);
        assert!(keeper.is_reserved(&ids));
        // As after a crash at this point.
        let mut later = load(dir.path(), base());
        assert_eq!(later.id_of(&"web/i7".parse().unwrap()).unwrap().get(), 10_007);
        assert!(later.id_of(&"web/new".parse().unwrap()).unwrap().get() >= 13_000);
        drop(save);
        writing.await.unwrap();
    }

    #[test]
    fn what_cannot_be_used_is_kept_aside() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["", "{", "[1]", r#"{"format":9,"reserved":1,"services":{}}"#] {
            fs::write(dir.path().join(FILE), bad).unwrap();
            assert_eq!(load(dir.path(), base()).top(), 10_000);
        }
        assert!(!dir.path().join(FILE).exists());
        assert!((1..=4).all(|n| dir.path().join(format!("ids.json.bad-{n}")).exists()));
    }
}
