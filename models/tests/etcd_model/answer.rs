//! What both sides answer, in one form: the model's own types, with its revisions.

use models::etcd::{Etcd, KeepAlive, OpAnswer, TimeToLive};
use registry::follow::Entry;
use registry::session::Class;
use registry::time::Tick;

use crate::script::{Step, span};

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Txn {
        revision: i64,
        succeeded: bool,
        answers: Vec<OpAnswer>,
    },
    Range {
        revision: i64,
        entries: Vec<Entry>,
        more: bool,
    },
    /// The ttl, in seconds.
    Granted(u64),
    /// The ttl, in seconds; `None`: there is no such lease.
    KeptAlive(Option<u64>),
    Revoked {
        revision: i64,
    },
    /// The ttl that was granted, in seconds, and the keys; `None`: there is no such lease.
    TimeToLive(Option<(u64, Vec<Vec<u8>>)>),
    Done,
}

/// An error, in etcd's words, and what a caller makes of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) text: String,
    pub(crate) class: Class,
}

impl From<models::etcd::Error> for Refusal {
    fn from(error: models::etcd::Error) -> Self {
        Self { text: error.to_string(), class: error.class() }
    }
}

/// Does `step` to the model. Steps about watches are not for here.
pub(crate) fn ask_model(model: &mut Etcd, now: Tick, step: &Step) -> Result<Answer, Refusal> {
    Ok(match step {
        Step::Txn(txn) => {
            let answer = model.txn(now, 0, txn)?;
            let revision = answer.header.revision;
            Answer::Txn { revision, succeeded: answer.succeeded, answers: answer.answers }
        }
        Step::Range { from, end, limit, revision } => {
            let answer = model.range(0, span(from, end), *limit, *revision)?;
            Answer::Range { revision: answer.header.revision, entries: answer.entries, more: answer.more }
        }
        Step::Grant { lease, ttl_s } => Answer::Granted(model.grant(now, 0, *ttl_s, *lease)?.ttl.as_secs()),
        Step::KeepAlive(lease) => match model.keep_alive(now, 0, *lease)? {
            KeepAlive::Renewed { ttl } => Answer::KeptAlive(Some(ttl.as_secs())),
            KeepAlive::Gone => Answer::KeptAlive(None),
            KeepAlive::Waits { until } => panic!("lease {lease} ran out, and ends at {until:?}"),
        },
        Step::Revoke(lease) => Answer::Revoked { revision: model.revoke(now, 0, *lease)?.revision },
        Step::TimeToLive(lease) => {
            let left = model.time_to_live(now, 0, *lease)?;
            Answer::TimeToLive(left.map(|TimeToLive { granted_s, keys, .. }| (granted_s, keys)))
        }
        Step::Compact(revision) => {
            model.compact(now, 0, *revision)?;
            Answer::Done
        }
        Step::Full(full) => {
            model.quota_full(*full);
            Answer::Done
        }
        Step::Watch { .. } | Step::Close(_) | Step::Progress(_) => Answer::Done,
    })
}
