//! HAProxy ids on disk: `ids.json` in the state directory.
//!
//! Ids are reserved ahead, a block at a time: the file says that none at or above a mark was ever given out, and it
//! says so before one above the last mark reaches HAProxy. Who has which id is written when there is time.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use registry::time::Tick;
use tokio::sync::watch;
use tokio::time::timeout;

use super::news::News;
use super::pace::Pace;
use crate::haproxy::ServerId;
use crate::plan::ids::{Ids, SavedIds, SavedIdsError};

/// The file within the state directory.
const FILE: &str = "ids.json";
/// Largest file that is read: 10,000 instances are some 300 kB.
const LEN_MAX: u64 = 64 * 1024 * 1024;
/// How many files are kept aside before the last is replaced.
const BAD_MAX: u32 = 9;
/// Ids reserved ahead. A join waits for the disk only when more than this many are new within one write.
const BLOCK: u32 = 1_000;
/// Longest that a pass waits for the disk: a member is worth more than an id that is never used twice.
const COVER_MAX: Duration = Duration::from_secs(1);
/// Shortest time between two writes of who has which.
const WRITE_EVERY: Duration = Duration::from_secs(2);

/// The pass's side.
#[derive(Debug)]
pub(super) struct IdsKeeper {
    tell: watch::Sender<Option<Arc<SavedIds>>>,
    /// Below this, ids may be given out.
    written: watch::Receiver<u32>,
    /// What was asked to be reserved last.
    asked: u32,
    /// Which state of the ids was handed over last.
    kept: u64,
    pace: Pace,
}

impl IdsKeeper {
    /// Goes on from `ids`; the future writes what it is told until the keeper is dropped.
    pub(super) fn start(dir: PathBuf, ids: &Ids) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let tell = watch::Sender::new(None);
        let (wrote, written) = watch::channel(ids.top());
        let writing = write(dir, tell.subscribe(), wrote);
        let pace = Pace::new(WRITE_EVERY);
        let mut keeper = Self { tell, written, asked: ids.top(), kept: ids.changes(), pace };
        keeper.ask(ids);
        (keeper, writing)
    }

    /// Returns once every id that was given out is reserved; at once, but for bursts of new instances.
    pub(super) async fn cover(&mut self, ids: &Ids) {
        let top = ids.top();
        if self.is_short(ids) {
            self.ask(ids);
        }
        if top > *self.written.borrow() {
            let _ = timeout(COVER_MAX, self.written.wait_for(|written| *written >= top)).await;
        }
    }

    /// Hands over who has which id, if that has changed and it is time.
    pub(super) fn keep(&mut self, now: Tick, ids: &Ids) {
        if ids.changes() != self.kept {
            self.pace.note();
        }
        if self.pace.take(now) || self.is_short(ids) {
            self.ask(ids);
        }
    }

    /// When [`Self::keep`] has something to do.
    pub(super) fn wake_at(&self) -> Option<Tick> {
        self.pace.due_at()
    }

    fn is_short(&self, ids: &Ids) -> bool {
        ids.top().saturating_add(BLOCK / 2) > self.asked
    }

    fn ask(&mut self, ids: &Ids) {
        self.asked = self.asked.max(ids.top().saturating_add(BLOCK));
        self.kept = ids.changes();
        self.tell.send_replace(Some(Arc::new(ids.saved(self.asked))));
    }
}

/// Writes what it is told, the last always.
async fn write(dir: PathBuf, mut told: watch::Receiver<Option<Arc<SavedIds>>>, wrote: watch::Sender<u32>) {
    let mut news = News::default();
    while told.changed().await.is_ok() {
        let Some(ids) = told.borrow_and_update().clone() else { continue };
        let (to, saving) = (dir.clone(), Arc::clone(&ids));
        let saved = tokio::task::spawn_blocking(move || save(&to, &saving)).await;
        if let Err(error) = saved.unwrap_or_else(|error| Err(io::Error::other(error))) {
            let path = dir.join(FILE);
            news.error("ids", || {
                format!(
                    "cannot write HAProxy's ids to {}: {error}\n  after a restart of both, instances may get other ids; \
                     check --state-dir",
                    path.display()
                )
            });
        } else {
            news.settled("ids");
        }
        // Also after a failure: no member waits for a disk.
        wrote.send_replace(ids.reserved);
    }
}

fn save(dir: &Path, ids: &SavedIds) -> io::Result<()> {
    let (path, new) = (dir.join(FILE), dir.join("ids.json.new"));
    let mut file = io::BufWriter::new(File::create(&new)?);
    serde_json::to_writer(&mut file, ids)?;
    file.flush()?;
    file.get_ref().sync_all()?;
    fs::rename(&new, &path)?;
    // The name too: an older mark that comes back would have ids given out twice.
    File::open(dir)?.sync_all()
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
    async fn ids_outlive_a_restart_and_nothing_reaches_haproxy_that_is_not_reserved() {
        let dir = tempfile::tempdir().unwrap();
        let mut ids = load(dir.path(), base());
        let (mut keeper, writing) = IdsKeeper::start(dir.path().into(), &ids);
        let writing = tokio::spawn(writing);
        for n in 0..3_000 {
            ids.id_of(&format!("web/i{n}").parse().unwrap()).unwrap();
        }
        keeper.cover(&ids).await;
        // As after a crash at this point.
        let mut later = load(dir.path(), base());
        assert_eq!(later.id_of(&"web/i7".parse().unwrap()).unwrap().get(), 10_007);
        assert!(later.id_of(&"web/new".parse().unwrap()).unwrap().get() >= 13_000);
        drop(keeper);
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
