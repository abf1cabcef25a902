//! The one place where "what it should be" and "what it is" become commands, for one instance.

use std::time::Duration;

use registry::record::{AckState, Intent};
use registry::time::Tick;

use super::memory::Memory;
use super::observed::Server;
use super::policy::Policy;
use super::step::Cause;
use super::target::Target;
use crate::status::Reason;
use haproxy::answer::flags::OpState;
use haproxy::{Command, ServerAddr, ServerId, ServerOptions, ServerPath, ServerState};

/// How often a server that is leaving is asked what is in flight: often at first, since most leave within a second.
const POLL_FAST: Duration = Duration::from_millis(20);
const POLL_SLOW: Duration = Duration::from_millis(250);
const POLL_FAST_FOR: Duration = Duration::from_secs(2);
/// How often HAProxy is asked whether a suspect still passes its check; HAProxy checks every 2 s by default.
const SUSPECT_POLL: Duration = Duration::from_secs(1);
const SUSPECT_DOWN_POLL: Duration = Duration::from_millis(250);
/// How long a suspect may be down before that counts: two checks, since one that is put back starts down. HAProxy gives
/// it no traffic in the meantime.
const SUSPECT_DOWN_MAX: Duration = Duration::from_secs(5);
/// How often HAProxy is asked whether a server that begins down has passed its first check: rarely, the longer it has been.
const DOWN_POLL_MIN: Duration = Duration::from_millis(50);
const DOWN_POLL_MAX: Duration = Duration::from_millis(250);
/// How long a server that begins down may take to pass its first check, before that counts as failed.
const FIRST_CHECK_MAX: Duration = Duration::from_secs(2);
/// How often the streams of a server past its limit are shut down, should some survive it.
const SHUT_EVERY: Duration = Duration::from_secs(1);

/// What is published of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// What it was told stays.
    Keep,
    /// This, or nothing (any more).
    Tell(Option<AckState>),
}

/// What is known when one instance is decided upon.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// Now.
    pub now: Tick,
    /// While the view is not in sync nothing is drained or deleted.
    pub in_sync: bool,
    /// The view is from the disk, and may be older than what HAProxy has.
    pub from_disk: bool,
    /// The server's name.
    pub path: &'a ServerPath,
    /// What it should be.
    pub target: Option<&'a Target>,
    /// Why it should not be there, where there is no target.
    pub gone: Cause,
    /// What it is.
    pub server: Option<&'a Server>,
    /// Whether lb-sync made that server.
    pub ours: bool,
    /// The id it has or would be made with.
    pub id: ServerId,
    /// When HAProxy was last seen to have been reloaded: its old worker may still have requests in flight, which this one
    /// does not count.
    pub reloaded_at: Option<Tick>,
    /// What is remembered of it.
    pub memory: &'a Memory,
    /// How servers are made.
    pub policy: &'a Policy,
}

impl Case<'_> {
    /// Until when an old worker may have a request in flight that is let finish, if it may now.
    fn old_worker_until(&self, inflight: Duration) -> Option<Tick> {
        self.reloaded_at.map(|at| at.plus(inflight)).filter(|until| self.now < *until)
    }
}

/// What to do about one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// In this order; empty if it is as it should be, or there is something to wait for.
    pub commands: Vec<Command>,
    /// Why.
    pub why: Cause,
    /// What to tell the registry.
    pub ack: Ack,
    /// What is in flight must be read before more can be decided.
    pub read_sessions: bool,
    /// When to decide again, if nothing happens before.
    pub wake_at: Option<Tick>,
}

impl Decision {
    fn settled(why: Cause, ack: Ack) -> Self {
        Self { commands: vec![], why, ack, read_sessions: false, wake_at: None }
    }

    fn act(why: Cause, commands: Vec<Command>) -> Self {
        Self { commands, ..Self::settled(why, Ack::Keep) }
    }

    fn wait(why: Cause, ack: Ack, until: Tick) -> Self {
        Self { wake_at: Some(until), ..Self::settled(why, ack) }
    }
}

/// The registry wants it served.
const REGISTERED: Cause = Cause::Status(Reason::Wanted(Intent::Serve));
const SUSPECT: Cause = Cause::Status(Reason::Suspect);

/// Decides upon one instance.
#[must_use]
pub fn decide(case: &Case<'_>) -> Decision {
    if let Some(until) = case.memory.left_alone_until(case.now) {
        return Decision::wait(REGISTERED, Ack::Keep, until);
    }
    match (case.target, case.server) {
        (None, None) => Decision::settled(case.gone, Ack::Tell(None)),
        // Not lb-sync's server: not touched, and no instance is served in its place.
        (_, Some(_)) if !case.ours => Decision::settled(case.gone, Ack::Tell(None)),
        (_, Some(_)) if case.from_disk => Decision::settled(REGISTERED, Ack::Keep),
        (Some(target), None) if target.intent == Intent::Serve => add(case, target),
        (Some(target), None) => {
            let why = Cause::wanted(target.intent);
            match case.old_worker_until(target.inflight) {
                Some(until) => Decision::wait(why, Ack::Tell(Some(AckState::Draining)), until),
                None => Decision::settled(why, Ack::Tell(Some(AckState::Drained))),
            }
        }
        (Some(target), Some(server)) => match target.intent {
            Intent::Serve if target.suspect => suspect(case, target, server),
            Intent::Serve => serve(case, target, server),
            Intent::Unhealthy | Intent::OperatorOut => out(case, server, Cause::wanted(target.intent)),
            Intent::Leaving | Intent::OperatorDrains => leave(case, target, server),
        },
        (None, Some(server)) => remove(case, server),
    }
}

fn add(case: &Case<'_>, target: &Target) -> Decision {
    let server = || case.path.clone();
    let suspect = target.suspect && case.policy.check.is_some();
    let waits = suspect || case.policy.waits_for_first_check();
    let options = ServerOptions {
        check: case.policy.check,
        init_down: waits && case.policy.init_state,
        slowstart_s: target.slowstart_s,
    };
    let (id, addr, weight) = (case.id, target.addr, target.weight);
    let mut commands = vec![Command::AddServer { server: server(), id, addr, weight, options }];
    if options.check.is_some() {
        commands.push(Command::EnableHealth { server: server() });
    }
    commands.push(Command::SetState { server: server(), state: ServerState::Ready });
    if waits && !options.init_down {
        commands.push(Command::HealthDown { server: server() });
    }
    Decision::act(if suspect { SUSPECT } else { REGISTERED }, commands)
}

fn serve(case: &Case<'_>, target: &Target, is: &Server) -> Decision {
    let server = || case.path.clone();
    let mut commands = vec![];
    if is.addr != Some(target.addr) {
        commands.push(Command::SetAddr { server: server(), addr: target.addr });
    }
    if is.weight != target.weight.into() {
        commands.push(Command::SetWeight { server: server(), weight: target.weight.into() });
    }
    if is.check.is_configured() && !is.check.is_enabled() {
        commands.push(Command::EnableHealth { server: server() });
    }
    // Last: it gets traffic only once everything else is right.
    if !is.admin.is_ready() {
        commands.push(Command::SetState { server: server(), state: ServerState::Ready });
        if case.policy.waits_for_first_check() && is.check.is_configured() {
            commands.push(Command::HealthDown { server: server() });
        }
    }
    if !commands.is_empty() {
        return Decision::act(REGISTERED, commands);
    }
    if is.op == OpState::Stopped && is.check.is_configured() {
        return await_check(case, is);
    }
    // HAProxy sends it traffic before its own first check of it. That it serves is said after it: who waits for that word wants
    // to know whether HAProxy will go on to.
    let said = case.memory.is_verified.then_some(AckState::Serving);
    Decision::settled(REGISTERED, Ack::Tell(said))
}

/// In rotation by our word, and HAProxy's own check finds it down: not said to be serving.
fn await_check(case: &Case<'_>, is: &Server) -> Decision {
    let since = case.memory.down_since.unwrap_or(case.now);
    let age = case.now.since(since);
    // One that was made ready may begin down. It has its time to pass its first check.
    let fails = case.memory.is_verified || age >= FIRST_CHECK_MAX;
    let ack = Ack::Tell(fails.then_some(AckState::Failing));
    let Some(read) = is.sessions else {
        return Decision { read_sessions: true, ..Decision::settled(REGISTERED, Ack::Keep) };
    };
    if fails {
        // A glance at all servers finds it up again.
        return Decision::settled(REGISTERED, ack);
    }
    let next = read.read_at.plus((age / 4).clamp(DOWN_POLL_MIN, DOWN_POLL_MAX));
    if case.now < next {
        return Decision::wait(REGISTERED, ack, next.min(since.plus(FIRST_CHECK_MAX)));
    }
    Decision { read_sessions: true, ..Decision::settled(REGISTERED, Ack::Keep) }
}

/// Sticky clients may stay for a time: DRAIN first, where that is safe.
///
/// A server that takes persistent requests and has never been in the balancing tree makes HAProxy crash when it is
/// deleted (`leastconn` and `first`, 2.6 to 3.4). So a server that is down, or that was never seen up, goes to MAINT at
/// once: no client can stick to it.
fn leave(case: &Case<'_>, target: &Target, is: &Server) -> Decision {
    let (sticky, why) = (target.sticky, Cause::wanted(target.intent));
    if sticky.is_zero() || is.admin.is_maint() || is.op == OpState::Stopped {
        return out(case, is, why);
    }
    if !is.admin.is_drain() {
        if !case.memory.was_up {
            return out(case, is, why);
        }
        return restrict(case, why, ServerState::Drain);
    }
    let end = case.memory.drain_since.unwrap_or(case.now).plus(sticky);
    if case.now < end {
        return Decision::wait(why, Ack::Tell(Some(AckState::Draining)), end);
    }
    out(case, is, why)
}

/// No traffic: MAINT, and then what is in flight finishes.
fn out(case: &Case<'_>, is: &Server, why: Cause) -> Decision {
    if !is.admin.is_maint() {
        return restrict(case, why, ServerState::Maint);
    }
    finish(case, is, why, |case| match case.old_worker_until(case.memory.inflight()) {
        Some(until) => Decision::wait(why, Ack::Tell(Some(AckState::Draining)), until),
        None => Decision::settled(why, Ack::Tell(Some(AckState::Drained))),
    })
}

/// Stays, or is put back, for as long as HAProxy's own check passes. What is put back starts down: the check decides.
fn suspect(case: &Case<'_>, target: &Target, is: &Server) -> Decision {
    let server = || case.path.clone();
    if !is.admin.is_ready() {
        let mut commands = vec![];
        if is.addr != Some(target.addr) {
            commands.push(Command::SetAddr { server: server(), addr: target.addr });
        }
        if is.weight.get() == 0 {
            // Weight 0 and ready, without ever having been up, crashes HAProxy: see `leave`.
            commands.push(Command::SetWeight { server: server(), weight: target.weight.into() });
        }
        commands.push(Command::SetState { server: server(), state: ServerState::Ready });
        if is.check.is_enabled() {
            commands.push(Command::HealthDown { server: server() });
        }
        return Decision::act(SUSPECT, commands);
    }
    // It had another address when it was heard of last: what listens at this one may be another app by now.
    if is.addr != Some(target.addr) {
        return Decision::act(SUSPECT, vec![Command::SetAddr { server: server(), addr: target.addr }]);
    }
    let poll = if is.op == OpState::Stopped { SUSPECT_DOWN_POLL } else { SUSPECT_POLL };
    let Some(read) = is.sessions.filter(|read| case.now.since(read.read_at) < poll) else {
        return Decision { read_sessions: true, ..Decision::settled(SUSPECT, Ack::Keep) };
    };
    let failed_at = case.memory.down_since.map(|since| since.plus(SUSPECT_DOWN_MAX));
    if failed_at.is_some_and(|at| case.now >= at) {
        return Decision::settled(Cause::SuspectFails, Ack::Keep);
    }
    let ack = match is.op {
        _ if !case.memory.is_verified => Ack::Keep,
        OpState::Stopped => Ack::Tell(Some(AckState::Failing)),
        _ => Ack::Tell(Some(AckState::Serving)),
    };
    Decision::wait(SUSPECT, ack, read.read_at.plus(poll))
}

/// Not registered: MAINT, what is in flight finishes, and then it is deleted.
fn remove(case: &Case<'_>, is: &Server) -> Decision {
    if !is.admin.is_maint() {
        return restrict(case, case.gone, ServerState::Maint);
    }
    finish(case, is, case.gone, |case| {
        if !case.in_sync {
            return Decision::settled(case.gone, Ack::Keep);
        }
        let mut commands = vec![];
        if case.memory.refused > 0 {
            // An idle pooled connection holds the server (2.6); a new address drops those at once.
            commands.extend(nowhere(case.memory.refused).map(|addr| {
                let server = case.path.clone();
                Command::SetAddr { server, addr }
            }));
        }
        commands.push(Command::DelServer { server: case.path.clone() });
        Decision::act(case.gone, commands)
    })
}

/// Waits until nothing is in flight or time is up; what comes `then` is decided once either is so.
fn finish(case: &Case<'_>, is: &Server, why: Cause, then: impl FnOnce(&Case<'_>) -> Decision) -> Decision {
    let since = case.memory.maint_since.unwrap_or(case.now);
    let end = since.plus(case.memory.inflight());
    let poll = if case.now.since(since) < POLL_FAST_FOR { POLL_FAST } else { POLL_SLOW };
    let Some(sessions) = is.sessions.filter(|read| case.now.since(read.read_at) < poll) else {
        return Decision { read_sessions: true, ..Decision::settled(why, Ack::Keep) };
    };
    if sessions.is_idle() {
        return then(case);
    }
    let draining = if case.memory.shut_at.is_some() { AckState::Drained } else { AckState::Draining };
    let ack = Ack::Tell(Some(draining));
    if case.now < end {
        return Decision::wait(why, ack, sessions.read_at.plus(poll).min(end));
    }
    match case.memory.shut_at.map(|at| at.plus(SHUT_EVERY)) {
        Some(next) if case.now < next => Decision::wait(why, ack, sessions.read_at.plus(poll).min(next)),
        _ if !case.in_sync => Decision::settled(why, Ack::Keep),
        _ => Decision::act(Cause::TimeUp, vec![Command::ShutdownSessions { server: case.path.clone() }]),
    }
}

/// Takes traffic away, if the view is current.
fn restrict(case: &Case<'_>, why: Cause, state: ServerState) -> Decision {
    if !case.in_sync {
        return Decision::settled(why, Ack::Keep);
    }
    Decision::act(why, vec![Command::SetState { server: case.path.clone(), state }])
}

/// An address where nothing listens, another one at each try.
fn nowhere(attempt: u32) -> Option<ServerAddr> {
    let port = 1 + u16::try_from(attempt % 1_000).unwrap_or(0);
    ServerAddr::new([127, 0, 0, 9].into(), port).ok()
}
