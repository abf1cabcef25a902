//! Reads everything below a prefix, a page at a time, all pages at one revision.

use etcd_client::{GetOptions, KeyValue};

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

/// Lists `prefix` as it was at `revision`, or is now for 0. A page that is too large to decode (somebody's 1 MB
/// values) is asked for again by halves.
pub async fn list(session: &Session, prefix: &str, revision: i64) -> Result<Listed, EtcdError> {
    let mut listed = Listed { cluster: 0, revision, entries: vec![] };
    let mut from = prefix.as_bytes().to_vec();
    let mut limit = PAGE_LEN;
    loop {
        let options = GetOptions::new().with_range(after_all(prefix)).with_limit(limit);
        let options = options.with_revision(listed.revision);
        let start = from.clone();
        let page = session
            .call("list the registry in", |client| async move {
                let mut kv = client.kv_client().max_decoding_message_size(ANSWER_LEN_MAX);
                kv.get(start, Some(options)).await
            })
            .await;
        let mut page = match page {
            Err(error) if error.class == Class::TooLarge && limit > 1 => {
                limit = (limit / 2).max(1);
                continue;
            }
            page => page?,
        };
        if let (0, Some(header)) = (listed.cluster, page.header()) {
            listed.cluster = header.cluster_id();
            // Every later page is asked for as of the first.
            if listed.revision == 0 {
                listed.revision = header.revision();
            }
        }
        let more = page.more();
        listed.entries.extend(page.take_kvs().into_iter().map(entry));
        match listed.entries.last() {
            Some(last) if more && listed.entries.len() < ENTRIES_MAX => {
                from.clone_from(&last.key);
                from.push(0);
            }
            _ => {
                if more {
                    tracing::error!(prefix, "more than {ENTRIES_MAX} keys: the rest is ignored");
                }
                return Ok(listed);
            }
        }
    }
}

/// The end of the range that holds every key beginning with `prefix`. Our prefixes end with `/`, so the last
/// byte can always be raised.
pub(crate) fn after_all(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}

/// Ours from etcd's.
pub(super) fn entry(kv: KeyValue) -> Entry {
    let (lease, create_revision, mod_revision) = (kv.lease(), kv.create_revision(), kv.mod_revision());
    let (key, value) = kv.into_key_value();
    Entry { key, value, lease, create_revision, mod_revision }
}
