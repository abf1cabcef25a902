//! Tries what a daemon will need of etcd before it does, and leaves nothing behind.

use etcd_client::{Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp};

use crate::follow::after_all;
use crate::session::{Class, EtcdError, Session};

/// Lease of what is written for a trial, in seconds: should revoking it fail, it ends by itself.
const TRIAL_TTL_S: i64 = 5;

/// Who answers as etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its version; empty where this user may not ask for it.
    pub version: String,
    /// The id of its cluster; 0 likewise.
    pub cluster: u64,
}

/// What came of a trial to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// The key was written, and is gone again.
    AndRevoked,
    /// Another client's value stands there and was left alone. etcd has said that it may be written.
    Occupied,
}

/// Connects, and logs in where that is asked for.
pub async fn reach(session: &Session) -> Result<Member, EtcdError> {
    let asked = session.call("ask", |mut client| async move { client.status().await }).await;
    match asked {
        Ok(status) => Ok(Member {
            version: status.version().into(),
            cluster: status.header().map_or(0, etcd_client::ResponseHeader::cluster_id),
        }),
        // It answers, but does not tell everybody how it is.
        Err(error) if error.class == Class::Refused && error.cause.contains("permission denied") => {
            Ok(Member { version: String::new(), cluster: 0 })
        }
        Err(error) => Err(error),
    }
}

/// Reads one key below `prefix`: etcd grants that only to who may read all of it.
pub async fn read(session: &Session, prefix: &str) -> Result<(), EtcdError> {
    let options = GetOptions::new().with_range(after_all(prefix)).with_limit(1).with_keys_only();
    let key = prefix.to_owned();
    session.call("read from", |mut client| async move { client.get(key, Some(options)).await }).await?;
    Ok(())
}

/// Writes `value` at `key` where nothing stands, under a lease that is revoked again at once.
pub async fn write(session: &Session, key: &str, value: Vec<u8>) -> Result<Written, EtcdError> {
    let granting =
        |mut client: etcd_client::Client| async move { client.lease_grant(TRIAL_TTL_S, None).await };
    let lease = session.call("get a lease from", granting).await?.id();
    let vacant = Compare::version(key, CompareOp::Equal, 0);
    let put = TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease)));
    let txn = Txn::new().when([vacant]).and_then([put]);
    let written = session.call("write to", |mut client| async move { client.txn(txn).await }).await;
    let revoking = |mut client: etcd_client::Client| async move { client.lease_revoke(lease).await };
    let revoked = session.call("revoke a lease in", revoking).await;
    let written = written?;
    revoked?;
    Ok(if written.succeeded() { Written::AndRevoked } else { Written::Occupied })
}

/// Whether `key` may be written, without writing it: etcd checks both branches of a transaction, whichever it takes.
pub async fn may_write(session: &Session, key: &str) -> Result<(), EtcdError> {
    let never = [Compare::version(key, CompareOp::Equal, 0), Compare::version(key, CompareOp::Greater, 0)];
    let txn = Txn::new().when(never).and_then([TxnOp::put(key, "", None)]);
    session.call("write to", |mut client| async move { client.txn(txn).await }).await?;
    Ok(())
}
