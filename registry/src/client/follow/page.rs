//! Reads everything below a prefix, a page at a time, all pages at one revision.

use etcd_client::{GetOptions, KeyValue, SortOrder, SortTarget};

use super::{Entry, Event};
use crate::session::{ANSWER_LEN_MAX, Class, EtcdError, Session};

/// Entries a page. 1,000 records of 400 bytes are well under what one answer may be.
const PAGE_LEN: i64 = 1_000;
/// Most entries that are kept; over this the registry is not what we are made for, and memory must end somewhere.
const ENTRIES_MAX: usize = 200_000;

/// Everything below a prefix at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The cluster's id.
    pub cluster: u64,
    /// The revision of the list.
    pub revision: i64,
    /// All of it.
    pub entries: Vec<Entry>,
}

impl From<Listed> for Event {
    fn from(Listed { cluster, revision, entries }: Listed) -> Self {
        Self::Listed { cluster, revision, entries }
    }
}

/// Lists `prefix` as it was at `revision`, or is now for 0.
pub async fn list(session: &Session, prefix: &str, revision: i64) -> Result<Listed, EtcdError> {
    let mut pager = Pager::new(prefix, revision);
    loop {
        let Ask { from, limit, revision } = pager.ask();
        let options =
            GetOptions::new().with_range(after_all(prefix)).with_limit(limit).with_revision(revision);
        let page = session
            .call("list the registry in", |client| async move {
                let mut kv = client.kv_client().max_decoding_message_size(ANSWER_LEN_MAX);
                kv.get(from, Some(options)).await
            })
            .await;
        match page {
            Err(error) if error.class == Class::TooLarge && pager.halve() => {}
            Err(error) => return Err(error),
            Ok(mut page) => {
                let header = page.header().map(|header| (header.cluster_id(), header.revision()));
                let (cluster, revision) = header.unwrap_or_default();
                let (more, entries) = (page.more(), page.take_kvs().into_iter().map(entry).collect());
                if let Some(listed) = pager.take(Page { cluster, revision, entries, more }) {
                    return Ok(listed);
                }
            }
        }
    }
}

/// What was written last below a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newer {
    /// The cluster's id.
    pub cluster: u64,
    /// etcd's revision at the answer.
    pub revision: i64,
    /// The revision of the key that was written last, if that was after the revision asked about.
    pub newer: Option<i64>,
}

/// Whether a key below `prefix` was written after `revision`. etcd looks at all of them; the answer is one key without its
/// value.
pub async fn newer(session: &Session, prefix: &str, revision: i64) -> Result<Newer, EtcdError> {
    let options = GetOptions::new()
        .with_range(after_all(prefix))
        .with_min_mod_revision(revision.saturating_add(1))
        .with_sort(SortTarget::Mod, SortOrder::Descend)
        .with_limit(1)
        .with_keys_only();
    let asking =
        |client: etcd_client::Client| async move { client.kv_client().get(prefix, Some(options)).await };
    let answer = session.call("read what is new in", asking).await?;
    let header = answer.header().map(|header| (header.cluster_id(), header.revision()));
    let (cluster, revision) = header.unwrap_or_default();
    Ok(Newer { cluster, revision, newer: answer.kvs().first().map(KeyValue::mod_revision) })
}

/// What is asked for next: keys from `from` on, at most `limit`, as of `revision` (0: now).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The first key.
    pub from: Vec<u8>,
    /// Most keys.
    pub limit: i64,
    /// etcd's revision.
    pub revision: i64,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The cluster's id.
    pub cluster: u64,
    /// etcd's revision at the answer.
    pub revision: i64,
    /// The keys and values.
    pub entries: Vec<Entry>,
    /// Whether there are more keys behind them.
    pub more: bool,
}

/// Reads a prefix page by page: every page as of the revision of the first, and smaller pages where one is too large to
/// decode (values of 1 MB). A machine without I/O.
#[derive(Clone, Debug)]
pub struct Pager {
    prefix: String,
    from: Vec<u8>,
    limit: i64,
    listed: Listed,
}

impl Pager {
    /// Begins with the first key of `prefix`, as of `revision` (0: now).
    #[must_use]
    pub fn new(prefix: &str, revision: i64) -> Self {
        let listed = Listed { cluster: 0, revision, entries: vec![] };
        Self { prefix: prefix.to_owned(), from: prefix.as_bytes().to_vec(), limit: PAGE_LEN, listed }
    }

    /// What to ask for next.
    #[must_use]
    pub fn ask(&self) -> Ask {
        Ask { from: self.from.clone(), limit: self.limit, revision: self.listed.revision }
    }

    /// The page was too large to decode: asks for half as many keys from now on. False if it was one key already.
    pub fn halve(&mut self) -> bool {
        let can = self.limit > 1;
        self.limit = (self.limit / 2).max(1);
        can
    }

    /// Takes a page in; returns all of it once that was the last.
    pub fn take(&mut self, page: Page) -> Option<Listed> {
        if self.listed.cluster == 0 {
            self.listed.cluster = page.cluster;
            if self.listed.revision == 0 {
                self.listed.revision = page.revision;
            }
        }
        self.listed.entries.extend(page.entries);
        match self.listed.entries.last() {
            Some(last) if page.more && self.listed.entries.len() < ENTRIES_MAX => {
                self.from.clone_from(&last.key);
                self.from.push(0);
                None
            }
            _ => {
                if page.more {
                    let prefix = &self.prefix;
                    tracing::error!(prefix, "more than {ENTRIES_MAX} keys: the rest is ignored");
                }
                let rest = Listed { cluster: 0, revision: 0, entries: vec![] };
                Some(std::mem::replace(&mut self.listed, rest))
            }
        }
    }
}

/// The end of the range that holds every key beginning with `prefix`, if that ends with `/`; otherwise it is one key, and
/// the range holds no other: `web-1` is not `web-10`.
pub(crate) fn after_all(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    match end.last_mut() {
        Some(last) if *last == b'/' => *last += 1,
        _ => end.push(0),
    }
    end
}

/// Ours from etcd's.
pub(super) fn entry(kv: KeyValue) -> Entry {
    let (lease, create_revision, mod_revision) = (kv.lease(), kv.create_revision(), kv.mod_revision());
    let (key, value) = kv.into_key_value();
    Entry { key, value, lease, create_revision, mod_revision }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_holds_what_is_below_it_and_a_key_only_itself() {
        assert_eq!(after_all("/p/"), b"/p0");
        assert_eq!(after_all("/p/web-1"), b"/p/web-1\0");
    }

    fn page(keys: &[&str], revision: i64, more: bool) -> Page {
        let entry = |key: &&str| Entry {
            key: key.as_bytes().to_vec(),
            value: vec![],
            lease: 0,
            create_revision: 1,
            mod_revision: 1,
        };
        Page { cluster: 7, revision, entries: keys.iter().map(entry).collect(), more }
    }

    #[test]
    fn every_page_is_as_of_the_first() {
        let mut pager = Pager::new("/p/", 0);
        assert_eq!(pager.ask(), Ask { from: b"/p/".to_vec(), limit: PAGE_LEN, revision: 0 });
        assert_eq!(pager.take(page(&["/p/a", "/p/b"], 12, true)), None);
        assert_eq!(pager.ask(), Ask { from: b"/p/b\0".to_vec(), limit: PAGE_LEN, revision: 12 });
        let listed = pager.take(page(&["/p/c"], 15, false)).unwrap();
        assert_eq!((listed.cluster, listed.revision, listed.entries.len()), (7, 12, 3));
    }

    #[test]
    fn a_page_that_is_too_large_is_asked_for_by_halves_down_to_one_key() {
        let mut pager = Pager::new("/p/", 3);
        let halves = std::iter::from_fn(|| pager.halve().then(|| pager.ask().limit)).collect::<Vec<_>>();
        assert_eq!(halves.first(), Some(&500));
        assert_eq!(halves.last(), Some(&1));
        assert_eq!(pager.ask().from, b"/p/", "from the same key");
    }

    #[test]
    fn an_empty_prefix_is_one_page() {
        let listed = Pager::new("/p/", 0).take(page(&[], 4, false)).unwrap();
        assert_eq!((listed.revision, listed.entries), (4, vec![]));
    }
}
