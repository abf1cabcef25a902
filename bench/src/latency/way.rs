//! One of the ways from a register to traffic, as its users see it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use testkit::port::loopback;
use testkit::{Clock, Stack, wait};

use super::register::{Leave, Register};
use crate::app::App;
use crate::poller::{Poller, Question};

/// Longest that a server may take to be deleted after it got its last request.
const DELETED_MAX: Duration = Duration::from_secs(30);
/// Answers in a row after which a state is taken for settled.
const SETTLED: u64 = 5;

/// A way from a register to traffic.
pub(crate) struct Way<'s> {
    stack: &'s Stack,
    service: &'static str,
    /// Where traffic comes in.
    port: u16,
    /// Its servers are deleted from the stack's HAProxy at run time, which the next round waits for.
    deletes: bool,
    app: App,
    register: Register,
}

impl<'s> Way<'s> {
    /// The way of the backend `service`, whose one instance stands in `register`.
    pub(crate) async fn new(stack: &'s Stack, service: &'static str, register: Register) -> Result<Self> {
        Ok(Self {
            stack,
            service,
            port: stack.haproxy().layout().traffic_port,
            deletes: true,
            app: App::start(loopback(stack.ports().free()?), "one").await?,
            register,
        })
    }

    /// The same through another balancer, at `port`.
    pub(crate) fn at(self, port: u16) -> Self {
        Self { port, deletes: false, ..self }
    }

    /// An instance joins and leaves, each `rest` after the last change: how long until its first request was answered, and
    /// until its last came.
    pub(crate) async fn round(&mut self, how: Leave, rest: Duration) -> Result<(Duration, Duration)> {
        let mut poller = Poller::start(Question::of(self.port, self.service));
        self.register.prepare().await?;
        poller.until("no server", |sample| sample.refused >= SETTLED).await?;

        Clock.until(Some(Clock.now().plus(rest))).await;
        let put = Clock.now();
        self.register.join(self.service, self.app.port()).await?;
        let sample = poller.until("a request served", |sample| sample.first_served.is_some()).await?;
        let join = sample.first_served.context("no request served")?.since(put);
        poller.until("requests served", |sample| sample.served >= SETTLED).await?;

        Clock.until(Some(Clock.now().plus(rest))).await;
        let ended = Clock.now();
        self.register.leave(how).await?;
        poller.until("no server any more", |sample| sample.refused >= SETTLED).await?;
        if self.deletes {
            self.until_deleted().await?;
        }
        drop(poller);
        self.register.tidy(how).await?;
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
