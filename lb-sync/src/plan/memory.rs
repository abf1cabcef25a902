//! What must be remembered of a server from one pass to the next, since HAProxy cannot tell it.

use std::net::SocketAddr;
use std::time::Duration;

use registry::record::Intent;
use registry::time::Tick;

use super::observed::{Server, Sessions};
use super::target::Target;
use haproxy::answer::flags::{AdminState, OpState};

/// Waits after a refused command, doubling: a reference or a wrong balance algorithm is put right by people.
const REFUSED_FIRST: Duration = Duration::from_millis(10);
const REFUSED_MAX: Duration = Duration::from_secs(30);

/// How long requests in flight may take on a server of which no record was ever seen.
const INFLIGHT_DEFAULT: Duration = Duration::from_secs(30);

/// What is wanted of an instance: nothing, or this of it.
type Wanted = Option<(Intent, bool)>;

/// Of one server.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Since when it has been in DRAIN, as seen here.
    pub drain_since: Option<Tick>,
    /// Since when it has been in MAINT, as seen here.
    pub maint_since: Option<Tick>,
    /// Since when HAProxy's own check has found it down, as seen here.
    pub down_since: Option<Tick>,
    /// HAProxy has had this server ready and up, as seen here: it has been in the balancing tree.
    pub was_up: bool,
    /// HAProxy's check of it has passed since it was last made ready, or there is none.
    pub is_verified: bool,
    /// How long its requests in flight may take: of its last record, since the record may be gone.
    inflight: Option<Duration>,
    /// Where it sent requests before it was moved, and until when those may be in flight there: HAProxy counts them with those
    /// to its new address.
    moved_from: Option<(SocketAddr, Tick)>,
    /// Where it sends requests, as last seen; `None`: nowhere.
    sends_to: Option<SocketAddr>,
    /// When its streams were last shut down.
    pub shut_at: Option<Tick>,
    /// What was wanted of it when a command was last refused: a refusal says nothing about another wish.
    wanted: Option<Wanted>,
    /// Commands for it that HAProxy refused in a row, and until when it is left alone.
    pub refused: u32,
    pub(super) refused_until: Option<Tick>,
    /// What the last refusal said: logged when it changes.
    pub refusal: String,
}

impl Memory {
    /// Takes in what the server is now: since when it has been leaving, and how long it may take. `best_health` is that of a
    /// server whose check has passed; `None` without checks.
    pub fn record_state(
        &mut self,
        now: Tick,
        server: Option<&Server>,
        target: Option<&Target>,
        best_health: Option<u32>,
    ) {
        let is = |state: fn(AdminState) -> bool| server.is_some_and(|server| state(server.admin));
        if let Some(target) = target {
            self.inflight = Some(target.inflight);
        }
        let wanted = target.map(|target| (target.intent, target.suspect));
        if self.wanted.replace(wanted) != Some(wanted) {
            self.refused_until = None;
        }
        let sends_to = server.and_then(Server::sends_to);
        if let (Some(before), Some(to)) = (self.sends_to, sends_to)
            && before != to
        {
            self.moved_from = Some((before, now.plus(self.inflight())));
        }
        self.sends_to = sends_to;
        // In MAINT no check runs, and HAProxy says "stopped": that is no failed check.
        if server.is_some_and(|server| server.op == OpState::Stopped && !server.admin.is_maint()) {
            self.down_since.get_or_insert(now);
        } else {
            self.down_since = None;
        }
        let has_passed = |server: &Server| {
            let is_checked =
                server.check.is_enabled() && best_health.is_some_and(|best| server.health < best);
            server.op.is_up() && !is_checked
        };
        self.is_verified =
            server.is_some_and(|server| server.admin.is_ready() && (self.is_verified || has_passed(server)));
        self.was_up =
            server.is_some_and(|server| self.was_up || (server.admin.is_ready() && server.op.is_up()));
        if is(AdminState::is_maint) {
            self.maint_since.get_or_insert(now);
        } else {
            self.maint_since = None;
            self.shut_at = None;
            if is(AdminState::is_drain) {
                self.drain_since.get_or_insert(now);
            } else {
                self.drain_since = None;
            }
        }
    }

    /// How long its requests in flight may take.
    #[must_use]
    pub fn inflight(&self) -> Duration {
        self.inflight.unwrap_or(INFLIGHT_DEFAULT)
    }

    /// Whether it sent requests to `endpoint` when its state was last taken in, or was moved away from there and requests may be
    /// in flight there still. Of a server that was moved in the pass under way, only this memory knows where it was.
    #[must_use]
    pub fn may_have_sent_to(&self, now: Tick, endpoint: SocketAddr) -> bool {
        let was_moved = self.moved_from.is_some_and(|(addr, until)| addr == endpoint && now < until);
        was_moved || self.sends_to == Some(endpoint)
    }

    /// Whether `server`, which this is about, is in MAINT and may have requests in flight.
    #[must_use]
    pub fn is_finishing(&self, now: Tick, server: &Server) -> bool {
        let until = self.maint_since.map(|since| since.plus(self.inflight()));
        let is_idle = server.sessions.is_some_and(Sessions::is_idle);
        server.admin.is_maint() && !is_idle && until.is_some_and(|until| now < until)
    }

    /// HAProxy refused a command for this server. True if that is news.
    pub fn record_refusal(&mut self, now: Tick, said: &str) -> bool {
        let wait = REFUSED_FIRST.saturating_mul(1 << self.refused.min(16)).min(REFUSED_MAX);
        self.refused = self.refused.saturating_add(1);
        self.refused_until = Some(now.plus(wait));
        let news = self.refusal != said;
        said.clone_into(&mut self.refusal);
        news
    }

    /// A server of this name is there that lb-sync did not make. True if that is news.
    pub fn record_foreign(&mut self) -> bool {
        let said = "not ours";
        let news = self.refusal != said;
        said.clone_into(&mut self.refusal);
        news
    }

    /// HAProxy did what it was told.
    pub fn record_success(&mut self) {
        self.refused = 0;
        self.refused_until = None;
        self.refusal.clear();
    }

    /// Until when it is left alone, if it still is.
    #[must_use]
    pub fn left_alone_until(&self, now: Tick) -> Option<Tick> {
        self.refused_until.filter(|until| now < *until)
    }
}
