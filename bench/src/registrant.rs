//! A bare client of the registry, as any language can be one: a lease, a put, and the acks read.

use std::time::Duration;

use anyhow::{Context as _, Result};
use etcd_client::{Client, GetOptions, PutOptions, Txn, TxnOp};
use serde_json::Value;
use testkit::lb_sync::BALANCER;
use testkit::{PREFIX, Stack};

/// Longest that a call may take; it is a millisecond or two.
const CALL_MAX: Duration = Duration::from_secs(5);
/// For leases that are never kept alive: longer than any run.
const LEASE_TTL_S: i64 = 4 * 60 * 60;
/// Longest that an ack may take: above what an instance gives its requests in flight (30 s).
const ACK_MAX: Duration = Duration::from_mins(1);

/// The client of one service.
#[derive(Clone)]
pub(crate) struct Registrant {
    /// One connection for all calls: it is not what is measured.
    etcd: Client,
    prefix: &'static str,
    service: &'static str,
}

impl Registrant {
    pub(crate) async fn connect(stack: &Stack, service: &'static str) -> Result<Self> {
        let etcd = Box::pin(Client::connect([stack.etcd().endpoint()], None)).await?;
        Ok(Self { etcd, prefix: PREFIX, service })
    }

    /// Whose instances it registers.
    pub(crate) fn service(&self) -> &'static str {
        self.service
    }

    /// The same for a follower of another prefix.
    pub(crate) fn under(self, prefix: &'static str) -> Self {
        Self { prefix, ..self }
    }

    pub(crate) async fn lease(&self) -> Result<i64> {
        let mut etcd = self.etcd.clone();
        Ok(called("grant a lease", etcd.lease_grant(LEASE_TTL_S, None)).await?.id())
    }

    /// Ends a lease, and every key under it.
    pub(crate) async fn revoke(&self, lease: i64) -> Result<()> {
        let mut etcd = self.etcd.clone();
        called("revoke a lease", etcd.lease_revoke(lease)).await?;
        Ok(())
    }

    pub(crate) async fn put(&self, instance: &str, record: &Value, lease: i64) -> Result<()> {
        let mut etcd = self.etcd.clone();
        let options = PutOptions::new().with_lease(lease);
        called("put a record", etcd.put(self.key(instance), record.to_string(), Some(options))).await?;
        Ok(())
    }

    /// Puts all of `records`, by `SERVICE/INSTANCE`, in one transaction.
    pub(crate) async fn put_together(&self, records: &[(String, Value)], lease: i64) -> Result<()> {
        let put = |(id, record): &(String, Value)| {
            let options = PutOptions::new().with_lease(lease);
            TxnOp::put(format!("{PREFIX}/instances/{id}"), record.to_string(), Some(options))
        };
        let puts: Vec<TxnOp> = records.iter().map(put).collect();
        let mut etcd = self.etcd.clone();
        called("put records", etcd.txn(Txn::new().and_then(puts))).await?;
        Ok(())
    }

    /// Waits until the balancer has said `state` for `owner`.
    pub(crate) async fn acked(&self, instance: &str, owner: &str, state: &str) -> Result<()> {
        let said = |ack: Option<Value>| ack.is_some_and(|ack| ack["owner"] == owner && ack["state"] == state);
        self.until_ack(instance, said).await
    }

    /// Waits until the balancer says nothing of it any more.
    pub(crate) async fn unacked(&self, instance: &str) -> Result<()> {
        self.until_ack(instance, |ack| ack.is_none()).await
    }

    async fn until_ack(&self, instance: &str, wanted: impl Fn(Option<Value>) -> bool) -> Result<()> {
        // Watched before it is looked at: nothing falls between.
        let mut etcd = self.etcd.clone();
        let mut news = called("watch an ack", etcd.watch(self.ack_key(instance), None)).await?;
        let acked = async {
            while !wanted(self.ack(instance).await?) {
                news.message().await?.context("etcd has ended the watch")?;
            }
            anyhow::Ok(())
        };
        let acked = tokio::time::timeout(ACK_MAX, Box::pin(acked)).await;
        acked.with_context(|| format!("not acked within {ACK_MAX:?}: {instance}"))?
    }

    /// How many acks there are, of all services.
    pub(crate) async fn ack_count(&self) -> Result<u64> {
        let options = GetOptions::new().with_prefix().with_count_only();
        let mut etcd = self.etcd.clone();
        let key = format!("{PREFIX}/acks/");
        Ok(u64::try_from(called("count acks", etcd.get(key, Some(options))).await?.count())?)
    }

    async fn ack(&self, instance: &str) -> Result<Option<Value>> {
        let mut etcd = self.etcd.clone();
        let answer = called("get an ack", etcd.get(self.ack_key(instance), None)).await?;
        answer.kvs().first().map(|kv| serde_json::from_slice(kv.value()).context("not an ack")).transpose()
    }

    fn ack_key(&self, instance: &str) -> String {
        format!("{PREFIX}/acks/{BALANCER}/{}/{instance}", self.service)
    }

    fn key(&self, instance: &str) -> String {
        format!("{}/instances/{}/{instance}", self.prefix, self.service)
    }
}

async fn called<T>(what: &str, call: impl Future<Output = Result<T, etcd_client::Error>>) -> Result<T> {
    let answer = tokio::time::timeout(CALL_MAX, Box::pin(call)).await;
    let answer = answer.with_context(|| format!("cannot {what}: no answer within {CALL_MAX:?}"))?;
    answer.with_context(|| format!("cannot {what}"))
}
