//! Compare-and-swap of one key: read it, change it, and write it only if it has not changed in the meantime.

use std::time::Duration;

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};

use crate::lease::LeaseId;
use crate::session::{EtcdError, Session};

/// A key as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versioned {
    /// Its value; `None` if it is absent.
    pub value: Option<Vec<u8>>,
    /// The lease it stands under; 0 for none.
    pub lease: LeaseId,
    /// etcd's revision of the value; 0 if it is absent.
    pub mod_revision: i64,
}

/// Reads `key`.
pub async fn read(session: &Session, key: &str) -> Result<Versioned, EtcdError> {
    let asked = key.to_owned();
    let answer =
        session.call("read a key in", |mut client| async move { client.get(asked, None).await }).await?;
    let versioned = answer.kvs().first().map(|kv| Versioned {
        value: Some(kv.value().to_vec()),
        lease: kv.lease(),
        mod_revision: kv.mod_revision(),
    });
    Ok(versioned.unwrap_or_default())
}

/// Writes `value` to `key` under `lease` (0 for none), or deletes it for `None`, if it is still as it was read at
/// `mod_revision`. Returns whether it was.
pub async fn write(
    session: &Session,
    key: &str,
    value: Option<Vec<u8>>,
    lease: LeaseId,
    mod_revision: i64,
) -> Result<bool, EtcdError> {
    let unchanged = Compare::mod_revision(key, CompareOp::Equal, mod_revision);
    let op = match value {
        Some(value) => TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease))),
        None => TxnOp::delete(key, None),
    };
    let txn = Txn::new().when([unchanged]).and_then([op]);
    let answer = session.call("write a key to", |mut client| async move { client.txn(txn).await }).await?;
    Ok(answer.succeeded())
}

/// A lease that is never kept alive: it ends after `time` (at least a second), and with it the keys under it.
pub async fn grant(session: &Session, time: Duration) -> Result<LeaseId, EtcdError> {
    let seconds = i64::try_from(time.as_secs().max(1)).unwrap_or(i64::MAX);
    let granted = session
        .call("get a lease from", |mut client| async move { client.lease_grant(seconds, None).await })
        .await?;
    Ok(granted.id())
}
