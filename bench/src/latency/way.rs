//! One of the two ways, as its users see it: a key under its prefix, and a backend of its name.

use std::time::Duration;

use anyhow::{Context as _, Result};
use etcd_client::{Client, PutOptions};
use stack::port::loopback;
use stack::{Clock, Stack, wait};

use super::Leave;
use crate::app::App;
use crate::poller::{Poller, Question};

/// For a lease that is never kept alive: longer than a round.
const LEASE_TTL_S: i64 = 60;
/// Longest that a server may take to be deleted after it got its last request.
const DELETED_MAX: Duration = Duration::from_secs(30);
/// Answers in a row after which a state is taken for settled.
const SETTLED: u64 = 5;

/// A way from a key to traffic.
pub(crate) struct Way<'s> {
    stack: &'s Stack,
    service: &'static str,
    /// Where traffic comes in.
    port: u16,
    /// Its servers are deleted from the stack's HAProxy at run time, which the next round waits for.
    deletes: bool,
    key: String,
    app: App,
    etcd: Client,
}

impl<'s> Way<'s> {
    /// The way of the backend `service`, whose instances stand in etcd below `prefix`.
    pub(crate) async fn new(stack: &'s Stack, service: &'static str, prefix: &str) -> Result<Self> {
        Ok(Self {
            stack,
            service,
            port: stack.haproxy().layout().traffic_port,
            deletes: true,
            key: format!("{prefix}/instances/{service}/one"),
            app: App::start(loopback(stack.ports().free()?), "one").await?,
            // One connection for all rounds: it is not what is measured.
            etcd: Box::pin(Client::connect([stack.etcd().endpoint()], None)).await?,
        })
    }

    /// The same through another HAProxy, at `port`.
    pub(crate) fn at(self, port: u16) -> Self {
        Self { port, deletes: false, ..self }
    }

    /// An instance joins and leaves: how long until its first request was answered, and until its last came.
    pub(crate) async fn round(&mut self, how: Leave) -> Result<(Duration, Duration)> {
        let mut poller = Poller::start(Question::of(self.port, self.service));
        let lease = self.etcd.lease_grant(LEASE_TTL_S, None).await?.id();
        let record = serde_json::json!({ "address": "127.0.0.1", "port": self.app.port() }).to_string();
        poller.until("nobody served", |met| met.refused >= SETTLED).await?;

        let put = Clock.now();
        self.etcd.put(&*self.key, record, Some(PutOptions::new().with_lease(lease))).await?;
        let met = poller.until("a request served", |met| met.first_served.is_some()).await?;
        let join = met.first_served.context("no request served")?.since(put);
        poller.until("requests served", |met| met.served >= SETTLED).await?;

        let ended = Clock.now();
        match how {
            Leave::Revoke => {
                self.etcd.lease_revoke(lease).await?;
            }
            Leave::Delete => {
                self.etcd.delete(&*self.key, None).await?;
            }
        }
        poller.until("nobody served any more", |met| met.refused >= SETTLED).await?;
        if self.deletes {
            self.until_deleted().await?;
        }
        drop(poller);
        if how == Leave::Delete {
            self.etcd.lease_revoke(lease).await?;
        }
        Ok((join, self.app.last_hit().since(ended)))
    }

    async fn until_deleted(&self) -> Result<()> {
        let what = format!("the server of {} deleted", self.service);
        let gone = async || {
            let seen = self.stack.haproxy().seen().await?;
            Ok(seen.servers(self.service).is_empty().then_some(()))
        };
        wait::until(DELETED_MAX, what, gone).await?;
        Ok(())
    }
}
