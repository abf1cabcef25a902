//! Applies the decision to every instance that may have changed, and keeps what must be kept between passes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use registry::name::{InstanceId, InstanceName, ServiceName};
use registry::record::{AckState, Intent};
use registry::time::Tick;

use super::decide::{Ack, Case, Decision, decide};
use super::ids::Ids;
use super::memory::Memory;
use super::names::server_path;
use super::observed::{Observed, Server};
use super::policy::{FirstCheck, Policy};
use super::restarting::{AffinityPhase, Restarting};
use super::step::{AckValue, Cause, Plan, Step};
use super::target::{Target, target};
use crate::scope::Scope;
use crate::status::Reason;
use crate::view::{Registered, View};
use haproxy::answer::flags::OpState;
use haproxy::answer::info::Version;
use haproxy::{Command, ServerState};

/// How often a drained instance is looked at whose address another instance's server has as well.
const SHARED_POLL: Duration = Duration::from_millis(250);

/// The planner, with what it remembers of each server.
#[derive(Debug)]
pub struct Planner {
    policy: Policy,
    ids: Ids,
    memories: BTreeMap<InstanceId, Memory>,
    restarting: Restarting,
    /// When HAProxy was last seen to have been reloaded.
    reloaded_at: Option<Tick>,
    /// When each instance that is waited for is to be decided again.
    agenda: BTreeSet<(Tick, InstanceId)>,
}

impl Planner {
    /// Remembers nothing yet.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            ids: Ids::new(policy.id_base),
            memories: BTreeMap::new(),
            restarting: Restarting::new(policy.restart_gap),
            reloaded_at: None,
            agenda: BTreeSet::new(),
        }
    }

    /// Another HAProxy process answers: what the last one refused, and since when its servers were leaving, is history.
    pub fn start_anew(&mut self, version: &Version) {
        self.policy.init_state = version.at_least(3, 1);
        self.memories.clear();
    }

    /// Whether HAProxy checks the servers.
    #[must_use]
    pub fn has_checks(&self) -> bool {
        self.policy.check.is_some()
    }

    /// HAProxy sends an instance with this server nothing until its check passes, without any order to that effect.
    #[must_use]
    pub fn is_down(&self, server: Option<&Server>) -> bool {
        let begins_down = self.has_checks() && self.policy.first_check == FirstCheck::Wait;
        match server {
            None => begins_down,
            Some(server) => server.op == OpState::Stopped && (server.admin.is_ready() || begins_down),
        }
    }

    /// HAProxy has been reloaded: its old worker may have requests in flight for as long as they may take.
    pub fn record_reload(&mut self, now: Tick) {
        self.reloaded_at = Some(now);
    }

    /// No old worker of it is left. Returns whether that is news.
    pub fn record_no_old_workers(&mut self) -> bool {
        self.reloaded_at.take().is_some()
    }

    /// Learns what HAProxy knows from an earlier lb-sync: the ids in use, and who is away. To be called after everything
    /// was read anew, with what is news of it.
    pub fn read_state(&mut self, now: Tick, observed: &Observed, news: &Scope) {
        self.ids.read_state(observed, news);
        self.restarting.read_state(now, observed);
    }

    /// Which instance has which id.
    pub fn ids_mut(&mut self) -> &mut Ids {
        &mut self.ids
    }

    /// Which instance has which id.
    #[must_use]
    pub fn ids(&self) -> &Ids {
        &self.ids
    }

    /// What HAProxy said when it last refused a command for `id`, if it has taken none since.
    #[must_use]
    pub fn refusal_of(&self, id: &InstanceId) -> Option<&str> {
        let memory = self.memories.get(id).filter(|memory| memory.refused > 0)?;
        Some(memory.refusal.as_str())
    }

    /// When [`Self::due`] has something.
    #[must_use]
    pub fn wake_at(&self) -> Option<Tick> {
        self.agenda.first().map(|(at, _)| *at)
    }

    /// The instances that were waited for and whose time has come.
    pub fn due(&mut self, now: Tick) -> Scope {
        let mut due = BTreeSet::new();
        while let Some((at, _)) = self.agenda.first()
            && *at <= now
        {
            due.extend(self.agenda.pop_first().map(|(_, id)| id));
        }
        Scope::Only(due)
    }

    /// What to do now about the instances in `scope`.
    pub fn plan(&mut self, now: Tick, view: &View, observed: &Observed, scope: &Scope) -> Plan {
        let mut plan = Plan::default();
        match scope {
            Scope::All => {
                self.agenda.clear();
                for id in self.everything(view, observed) {
                    self.plan_one(now, view, observed, id, &mut plan);
                }
            }
            Scope::Only(ids) => {
                self.agenda.retain(|(_, id)| !ids.contains(id));
                for id in ids {
                    self.plan_one(now, view, observed, id.clone(), &mut plan);
                }
            }
        }
        // Stable: those of a turn stay in the order of their names.
        plan.steps.sort_by_key(Step::order);
        plan
    }

    /// HAProxy refused a command for `id`, saying `said`. True if that is news.
    pub fn record_refusal(&mut self, now: Tick, id: &InstanceId, said: &str) -> bool {
        self.memories.entry(id.clone()).or_default().record_refusal(now, said)
    }

    /// HAProxy took all commands for `id`.
    pub fn record_success(&mut self, id: &InstanceId) {
        if let Some(memory) = self.memories.get_mut(id) {
            memory.record_success();
        }
    }

    fn everything(&self, view: &View, observed: &Observed) -> BTreeSet<InstanceId> {
        let served = |service: &ServiceName| observed.backends.contains_key(service);
        let registered = view.instances().keys().filter(|id| served(&id.service)).cloned();
        let existing = observed.backends.iter().flat_map(|(service, backend)| {
            backend
                .servers
                .keys()
                .map(|instance| InstanceId { service: service.clone(), instance: instance.clone() })
        });
        let away = self.restarting.ids().cloned();
        registered.chain(existing).chain(self.memories.keys().cloned()).chain(away).collect()
    }

    fn plan_one(&mut self, now: Tick, view: &View, observed: &Observed, id: InstanceId, plan: &mut Plan) {
        let target = target(view, &id);
        if !observed.backends.contains_key(&id.service) {
            // Not served here: nothing to do, and nothing to say.
            self.restarting.step(now, &id, AffinityPhase::Ended, false);
            self.forget(&id);
            plan.acks.push((id, None));
            return;
        }
        let server = observed.server(&id);
        let ours = server.is_some_and(|server| self.ids.is_ours(server.id));
        if target.is_none() && !ours {
            let stand = if server.is_some() { AffinityPhase::Ended } else { AffinityPhase::Away };
            match self.sync_restarting_map(now, observed, &id, stand) {
                Some(command) => {
                    plan.steps.push(Step { id: id.clone(), why: gone(view, &id), commands: vec![command] });
                }
                None => self.forget(&id),
            }
            let ack = self.ack_without_server(now, view, observed, &id);
            plan.acks.extend(view.in_sync().then_some((id, ack)));
            return;
        }
        let Some(wanted) = server.map(|server| server.id).or_else(|| self.ids.id_of(&id)) else {
            return; // Two thousand million ids are used up.
        };
        let memory = self.memories.entry(id.clone()).or_default();
        memory.record_state(now, server, target.as_ref(), self.policy.best_health());
        if server.is_some() && !ours && memory.record_foreign() {
            plan.foreign.push(id.clone());
        }
        let path = server_path(&id);
        let case = Case {
            now,
            in_sync: view.in_sync(),
            from_disk: view.is_from_disk(),
            path: &path,
            target: target.as_ref(),
            gone: gone(view, &id),
            server,
            ours,
            id: wanted,
            reloaded_at: self.reloaded_at,
            memory,
            policy: &self.policy,
        };
        let Decision { mut commands, why, mut ack, read_sessions, mut wake_at } = decide(&case);
        if why == Cause::TimeUp {
            memory.shut_at = Some(now);
        }
        if ack == Ack::Tell(Some(AckState::Drained)) && self.is_served_as_another(now, view, observed, &id) {
            ack = Ack::Tell(Some(AckState::Draining));
            wake_at = Some(now.plus(SHARED_POLL));
        }
        if why == Cause::SuspectFails {
            plan.failed.push(id.clone());
        }
        self.agenda.extend(wake_at.map(|at| (at, id.clone())));
        let is_foreign = server.is_some() && !ours;
        if let Ack::Tell(state) = ack
            && view.in_sync()
            && !is_foreign
        {
            let ack = target.as_ref().zip(state).map(|(target, state)| AckValue {
                owner: target.owner.clone(),
                revision: target.revision,
                state,
            });
            plan.acks.push((id.clone(), ack));
        }
        if is_foreign && view.in_sync() {
            let ack = self.ack_without_server(now, view, observed, &id);
            plan.acks.push((id.clone(), ack));
        }
        let stand = match server {
            Some(_) if !ours => AffinityPhase::Ended,
            server => stand(view, &id, target.as_ref(), server, &commands),
        };
        if let Some(command) = self.sync_restarting_map(now, observed, &id, stand) {
            // First: the client that asks right after the server is out keeps its cookie.
            commands.insert(0, command);
        }
        if read_sessions {
            plan.reads.push(id.clone());
        }
        if !commands.is_empty() {
            plan.steps.push(Step { id, why, commands });
        }
    }

    /// What is said of an instance that has no server of ours, since another one has its address or its name: if it is to get
    /// no traffic, that it gets none.
    fn ack_without_server(
        &mut self,
        now: Tick,
        view: &View,
        observed: &Observed,
        id: &InstanceId,
    ) -> Option<AckValue> {
        let Registered { record, owner, mod_revision, .. } = view.instances().get(id)?;
        if view.intent_of(id) == Some(Intent::Serve) {
            return None;
        }
        let old_worker = self.reloaded_at.map(|at| at.plus(record.drain.inflight())).filter(|end| now < *end);
        let is_sent_to = observed.server(id).and_then(Server::sends_to) == Some(record.endpoint())
            || self.is_served_as_another(now, view, observed, id);
        let wait = old_worker.or_else(|| is_sent_to.then(|| now.plus(SHARED_POLL)));
        self.agenda.extend(wait.map(|at| (at, id.clone())));
        let state = if wait.is_some() { AckState::Draining } else { AckState::Drained };
        Some(AckValue { owner: owner.clone(), revision: *mod_revision, state })
    }

    /// The command that puts the name of `id` on its service's restarting map, or takes it off, where that is due.
    fn sync_restarting_map(
        &mut self,
        now: Tick,
        observed: &Observed,
        id: &InstanceId,
        stand: AffinityPhase,
    ) -> Option<Command> {
        let map = observed.restarting.get(&id.service);
        let listed = map.is_some_and(|map| map.names.contains(&id.instance));
        let wanted = self.restarting.step(now, id, stand, listed);
        let alone = self.memories.get(id).and_then(|memory| memory.left_alone_until(now));
        let until = self.restarting.until(now, id);
        self.agenda.extend([until, alone].into_iter().flatten().map(|at| (at, id.clone())));
        let map = map.filter(|_| alone.is_none())?;
        let server = || server_path(id);
        match (wanted, listed) {
            (true, false) => Some(Command::AddToMap { map: map.id, server: server() }),
            (false, true) => Some(Command::DelFromMap { map: map.id, server: server() }),
            (true, true) | (false, false) => None,
        }
    }

    /// Whether a server of ours for another instance sends requests to the address of `id`, or has some in flight there: to the
    /// app that is about to be stopped. It may be one that is about to get another address, or has just got one.
    fn is_served_as_another(&self, now: Tick, view: &View, observed: &Observed, id: &InstanceId) -> bool {
        let Some(endpoint) = view.instances().get(id).map(|registered| registered.record.endpoint()) else {
            return false;
        };
        let is_registered_there = |other: &InstanceId| view.sharers(id).any(|sharer| sharer == other);
        let counts =
            |other: &InstanceId| other != id && (!is_registered_there(other) || view.may_send_for(other, id));
        let sent =
            |(other, memory): (&InstanceId, &Memory)| memory.may_have_sent_to(now, endpoint) && counts(other);
        let sends = |service: &ServiceName, instance: &InstanceName, server: &Server| {
            let other = InstanceId { service: service.clone(), instance: instance.clone() };
            let memory = self.memories.get(&other);
            let uses =
                server.sends_to().is_some() || memory.is_some_and(|memory| memory.is_finishing(now, server));
            uses && self.ids.is_ours(server.id) && counts(&other)
        };
        let is_there = |server: &Server| server.addr.map(SocketAddr::from) == Some(endpoint);
        self.memories.iter().any(sent)
            || observed.backends.iter().any(|(service, backend)| {
                let mut servers = backend.servers.iter().filter(|(_, server)| is_there(server));
                servers.any(|(instance, server)| sends(service, instance, server))
            })
    }

    fn forget(&mut self, id: &InstanceId) {
        self.memories.remove(id);
        self.ids.forget(id);
    }
}

/// Why an instance without a target has none.
fn gone(view: &View, id: &InstanceId) -> Cause {
    let registered = view.instances().contains_key(id);
    Cause::Status(if registered { Reason::Shadowed } else { Reason::NotRegistered })
}

/// How an instance stands, once `commands` are carried out.
fn stand(
    view: &View,
    id: &InstanceId,
    target: Option<&Target>,
    server: Option<&Server>,
    commands: &[Command],
) -> AffinityPhase {
    // Who leaves in order hands its clients over: they move once, and stay there.
    let leaves = target.is_some_and(|target| target.intent == Intent::Leaving);
    let goes = |command: &Command| matches!(command, Command::SetState { state: ServerState::Maint, .. });
    let ordered = view.override_of(id).is_some_and(|overriding| overriding.mode.is_some());
    if leaves || ordered || view.shadowed_by(id).is_some() {
        AffinityPhase::Ended
    } else if commands.iter().any(goes) {
        AffinityPhase::Goes
    } else if server.is_some_and(|server| !server.admin.is_maint() && server.op != OpState::Stopped) {
        AffinityPhase::Serves
    } else {
        AffinityPhase::Away
    }
}
