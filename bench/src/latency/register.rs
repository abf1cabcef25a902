//! Where an instance is registered, and what stands there.

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use etcd_client::{Client, PutOptions};
use serde_json::json;
use testkit::{Stack, http};

/// For a lease that is never kept alive: longer than a round.
const LEASE_TTL_S: i64 = 60;

/// How an instance leaves that was put by a bare client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Leave {
    /// Its lease is revoked, and the key goes with it.
    Revoke,
    /// Its key is deleted, and the lease lives on.
    Delete,
}

/// A register with room for one instance, `one`, on loopback.
pub(crate) struct Register {
    book: Book,
    format: Format,
}

enum Book {
    /// A key in etcd, under a lease that was granted beforehand.
    Etcd { etcd: Box<Client>, key: String, lease: i64 },
    /// A Consul agent, at this port.
    Consul { agent: u16 },
}

/// What stands in the key.
enum Format {
    Record,
    Url,
}

impl Register {
    /// A record of Leasehold's, which others read as well.
    pub(crate) async fn record(stack: &Stack, service: &str, prefix: &str) -> Result<Self> {
        let key = format!("{prefix}/instances/{service}/one");
        Ok(Self { book: Book::etcd(stack, key).await?, format: Format::Record })
    }

    /// A URL in this key.
    pub(crate) async fn url(stack: &Stack, key: &str) -> Result<Self> {
        Ok(Self { book: Book::etcd(stack, key.into()).await?, format: Format::Url })
    }

    /// A service of the Consul agent at this port of loopback.
    pub(crate) fn service(agent: u16) -> Self {
        Self { book: Book::Consul { agent }, format: Format::Record }
    }

    /// What can be done before it counts.
    pub(super) async fn prepare(&mut self) -> Result<()> {
        if let Book::Etcd { etcd, lease, .. } = &mut self.book {
            *lease = etcd.lease_grant(LEASE_TTL_S, None).await?.id();
        }
        Ok(())
    }

    /// The instance of `service` at `port` is written down.
    pub(super) async fn join(&mut self, service: &str, port: u16) -> Result<()> {
        let value = match self.format {
            Format::Record => json!({ "address": "127.0.0.1", "port": port }).to_string(),
            Format::Url => format!("http://127.0.0.1:{port}"),
        };
        match &mut self.book {
            Book::Etcd { etcd, key, lease } => {
                etcd.put(&**key, value, Some(PutOptions::new().with_lease(*lease))).await?;
            }
            Book::Consul { agent } => {
                let one = json!({ "ID": "one", "Name": service, "Address": "127.0.0.1", "Port": port });
                done(http::put(*agent, "/v1/agent/service/register", &one.to_string()).await?)?;
            }
        }
        Ok(())
    }

    /// It is struck out.
    pub(super) async fn leave(&mut self, how: Leave) -> Result<()> {
        match (&mut self.book, how) {
            (Book::Etcd { etcd, lease, .. }, Leave::Revoke) => {
                etcd.lease_revoke(*lease).await?;
            }
            (Book::Etcd { etcd, key, .. }, Leave::Delete) => {
                etcd.delete(&**key, None).await?;
            }
            (Book::Consul { agent }, _) => {
                done(http::put(*agent, "/v1/agent/service/deregister/one", "").await?)?;
            }
        }
        Ok(())
    }

    /// What is left over goes, too.
    pub(super) async fn tidy(&mut self, how: Leave) -> Result<()> {
        if let (Book::Etcd { etcd, lease, .. }, Leave::Delete) = (&mut self.book, how) {
            etcd.lease_revoke(*lease).await?;
        }
        Ok(())
    }
}

impl Book {
    async fn etcd(stack: &Stack, key: String) -> Result<Self> {
        // One connection for all rounds: it is not what is measured.
        let etcd = Box::pin(Client::connect([stack.etcd().endpoint()], None)).await;
        Ok(Self::Etcd { etcd: Box::new(etcd.context("cannot reach etcd")?), key, lease: 0 })
    }
}

fn done((status, text): (u16, String)) -> Result<()> {
    ensure!(status == 200, "Consul says {status}: {text}");
    Ok(())
}
