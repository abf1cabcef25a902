//! The conversation with HAProxy: what is asked next, and what an answer leads to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU16;
use std::time::Duration;

use registry::name::{InstanceId, ServiceName};
use registry::record::{AckState, InstanceRecord, Weight};
use registry::time::Tick;

use super::reading::{Differences, Reading};
use super::round::{NewerWaits, Round};
use super::schedule::Due;
use super::{Action, Balancer, COMMANDS_MAX, PRESENCE_WAIT_MAX, PassError, events};
use crate::plan::observed::{Observed, Server};
use crate::plan::pending::PendingPlan;
use crate::plan::{Plan, Step, backends};
use crate::scope::Scope;
use haproxy::answer::AnswerError;
use haproxy::answer::excerpt::Excerpt;
use haproxy::answer::flags::OpState;
use haproxy::answer::info::Info;
use haproxy::answer::servers_state::ServersState;
use haproxy::{Command, Reply};

/// Activities that are gone through for one request. A plan that asks for what cannot be read must not keep the machine
/// from coming to an end: the rest is done after the next answer.
const TURNS_MAX: usize = 32;
/// Longest that commands wait for the disk: a member is worth more than an id that is never used twice.
const IDS_WAIT_MAX: Duration = Duration::from_secs(1);

/// The topic of the log's lines about the session.
const HAPROXY: &str = "haproxy";

/// How often HAProxy's master is asked for old workers after a reload.
const COUNT_EVERY: Duration = Duration::from_millis(250);
/// A HAProxy that has run for longer, in seconds, has no old worker with requests that are waited for (by default 30 s).
const YOUNG_S_MAX: u64 = 60;

/// Whether HAProxy can be asked.
#[derive(Debug)]
pub(super) enum Talk {
    /// There is no session.
    Away,
    /// A session is being begun.
    Connecting,
    /// There is a session, and nothing is under way.
    Idle,
    /// A request is under way.
    Asked { question: Question, sent: Tick },
}

impl Talk {
    pub(super) fn is_connected(&self) -> bool {
        matches!(self, Self::Idle | Self::Asked { .. })
    }
}

/// What is done in several requests, one after the other.
#[derive(Debug, Default)]
pub(super) enum Activity {
    #[default]
    None,
    /// Everything is read anew: after connecting, or by an audit.
    ReadEverything { reading: Reading, audit: bool },
    /// Commands are carried out.
    Round(Round),
    /// What was touched is read back; these are to be planned again then.
    ReadBack { reading: Reading, ids: BTreeSet<InstanceId> },
    /// The maps of routes are changed by these commands.
    Routes(VecDeque<Command>),
}

/// A request that is under way, as far as its answers need to know.
#[derive(Debug)]
pub(super) enum Question {
    /// Which process answers, and no more.
    Ping,
    /// The state of all servers.
    Glance,
    /// The next part of a reading.
    Read,
    /// Steps of a round.
    Steps(Vec<Step>),
    /// A backend is made.
    MakeBackend(ServiceName, Vec<Command>),
    /// The maps of routes are changed.
    Routes(Vec<Command>),
}

/// What comes next, with nothing under way.
enum Begun {
    Request(Question, Vec<Command>),
    /// An activity has begun, or there is more to look at.
    Activity,
    Nothing,
}

impl Balancer {
    /// Whether a session stands.
    pub(super) fn is_connected(&self) -> bool {
        self.talk.is_connected()
    }

    /// Whether the schedule and the planner may begin something: nothing is under way that they have to wait for.
    pub(super) fn is_waiting(&self) -> bool {
        match self.talk {
            Talk::Away => true,
            Talk::Idle => matches!(self.activity, Activity::None),
            Talk::Connecting | Talk::Asked { .. } => false,
        }
    }

    /// Nothing is planned that is not carried out and read back.
    pub(super) fn is_at_rest(&self) -> bool {
        self.is_between_rounds() && self.pending.is_empty() && self.replan.is_empty()
    }

    /// A session stands: whatever is there is new.
    pub(super) fn connected(&mut self) -> Scope {
        self.talk = Talk::Idle;
        self.activity = Activity::ReadEverything { reading: Reading::everything(), audit: false };
        Scope::none()
    }

    /// Begins what is to be done next, if HAProxy can be asked.
    pub(super) fn proceed(&mut self, now: Tick) {
        match self.talk {
            Talk::Away if self.schedule.due(now) == Some(Due::Connect) => {
                self.talk = Talk::Connecting;
                self.actions.push(Action::Connect);
            }
            Talk::Idle => {
                if let Some((question, commands)) = self.next_request(now) {
                    self.talk = Talk::Asked { question, sent: now };
                    // Last: what takes traffic away or brings it need not wait for it, and a worker that began to stop while
                    // the others were carried out says so.
                    let commands = commands.into_iter().chain([Command::ShowInfo]).collect();
                    self.actions.push(Action::Ask(commands));
                }
            }
            Talk::Away | Talk::Connecting | Talk::Asked { .. } => {}
        }
    }

    /// What is asked next; `None` while there is nothing to ask, or something to wait for.
    fn next_request(&mut self, now: Tick) -> Option<(Question, Vec<Command>)> {
        for _ in 0..TURNS_MAX {
            match std::mem::take(&mut self.activity) {
                Activity::None => match self.begin(now) {
                    Begun::Request(question, commands) => return Some((question, commands)),
                    Begun::Activity => {}
                    Begun::Nothing => return None,
                },
                Activity::ReadEverything { mut reading, audit } => {
                    let commands = reading.request();
                    self.activity = Activity::ReadEverything { reading, audit };
                    return Some((Question::Read, commands));
                }
                Activity::Round(round) => {
                    if !self.ids_are_reserved(now) {
                        self.activity = Activity::Round(round);
                        return None;
                    }
                    let newer = if self.dirty.is_empty() { NewerWaits::No } else { NewerWaits::Yes };
                    let steps = round.batch(now, &mut self.pending, newer);
                    if !steps.is_empty() {
                        self.activity = Activity::Round(round);
                        let commands = steps.iter().flat_map(|step| step.commands.clone()).collect();
                        return Some((Question::Steps(steps), commands));
                    }
                    let (reading, ids) = round.read_back(&self.observed);
                    self.activity = Activity::ReadBack { reading, ids };
                }
                Activity::ReadBack { reading, ids } if reading.is_done() => self.read_back(reading, ids),
                Activity::ReadBack { mut reading, ids } => {
                    let commands = reading.request();
                    self.activity = Activity::ReadBack { reading, ids };
                    return Some((Question::Read, commands));
                }
                Activity::Routes(mut queue) if !queue.is_empty() => {
                    let batch: Vec<Command> = queue.drain(..queue.len().min(COMMANDS_MAX)).collect();
                    self.activity = Activity::Routes(queue);
                    return Some((Question::Routes(batch.clone()), batch));
                }
                Activity::Routes(_) => {
                    let mut reading = Reading::default();
                    reading.add_routes(&self.observed);
                    self.activity = Activity::ReadBack { reading, ids: BTreeSet::new() };
                }
            }
        }
        Some((Question::Ping, vec![]))
    }

    /// With nothing under way: begins an activity, or returns a request that is one by itself. In this order: what is due,
    /// what servers are made in, the servers, and the routes that lead to them.
    fn begin(&mut self, now: Tick) -> Begun {
        match self.schedule.due(now) {
            Some(Due::Audit) => {
                self.activity = Activity::ReadEverything { reading: Reading::everything(), audit: true };
                return Begun::Activity;
            }
            Some(Due::Glance) => {
                return Begun::Request(Question::Glance, vec![Command::ShowServersState(None)]);
            }
            Some(Due::Ping) => return Begun::Request(Question::Ping, vec![]),
            Some(Due::Connect) | None => {}
        }
        if let Some(worker) = &self.worker {
            let next = self.backends.next(&worker.version, &self.view, &self.observed, &self.dirty);
            if let Some((service, defaults)) = next {
                let commands = backends::make(&service, defaults).to_vec();
                return Begun::Request(Question::MakeBackend(service, commands.clone()), commands);
            }
        }
        if self.plan(now) {
            return Begun::Activity;
        }
        if self.waits_for_presence {
            return Begun::Nothing;
        }
        let commands = self.routes.commands(&self.view, &self.observed);
        if commands.is_empty() {
            return Begun::Nothing;
        }
        self.activity = Activity::Routes(commands.into());
        Begun::Activity
    }

    /// Plans for what may have changed. Returns whether a round has begun, or a look at once is wanted.
    fn plan(&mut self, now: Tick) -> bool {
        if self.waits_for_presence(now) {
            return false;
        }
        self.judge_unexplained(now);
        let mut scope = std::mem::replace(&mut self.dirty, Scope::none());
        scope.extend(self.planner.due(now));
        self.files.mark_dirty(&scope);
        if scope == Scope::All && (self.waits_for_cold_start(now) || self.waits_for_etcd(now)) {
            self.dirty = scope;
            return false;
        }
        if !scope.is_empty() {
            self.metrics.passes += 1;
            self.passed = Some(now);
            self.actions.push(Action::StatusChanged);
        }
        let replan = Scope::Only(std::mem::take(&mut self.replan));
        self.files.mark_dirty(&replan);
        scope.extend(replan);
        if !scope.is_empty() {
            let mut plan = self.planner.plan(now, &self.view, &self.observed, &scope);
            self.pending.replace(&scope, std::mem::take(&mut plan.steps));
            let reads = std::mem::take(&mut plan.reads);
            self.settle(now, &plan);
            if !reads.is_empty() || !self.pending.is_empty() {
                self.activity = Activity::Round(Round::new(now, reads));
            }
        } else if !self.pending.is_empty() {
            self.activity = Activity::Round(Round::new(now, vec![]));
        }
        !matches!(self.activity, Activity::None) || !self.dirty.is_empty()
    }

    /// Once in this life, as soon as etcd and HAProxy are both known: servers of ours that are in rotation, and that neither etcd
    /// nor the disk explains.
    fn judge_unexplained(&mut self, now: Tick) {
        if !self.view.in_sync() || self.worker.is_none() {
            return;
        }
        let Some(known_on_disk) = self.known_on_disk.take() else { return };
        let mut found = BTreeMap::new();
        for (service, backend) in &self.observed.backends {
            for (instance, server) in &backend.servers {
                let id = InstanceId { service: service.clone(), instance: instance.clone() };
                let is_ours = self.planner.ids().is_ours(server.id);
                let is_known = self.view.instances().contains_key(&id) || known_on_disk.contains(&id);
                let serves =
                    server.admin.is_ready() && server.op == OpState::Running && server.check.is_enabled();
                if let Some(addr) = server.addr.filter(|_| is_ours && !is_known && serves)
                    && let Ok(port) = NonZeroU16::try_from(addr.port())
                {
                    let mut record = InstanceRecord::new(addr.ip(), port);
                    record.weight = Weight::try_from(u32::from(server.weight.get())).unwrap_or_default();
                    found.insert(id, record);
                }
            }
        }
        if !found.is_empty() {
            let changed = self.view.judge_unexplained(now, found);
            self.mark_dirty(changed);
        }
    }

    /// Publishes what a plan has found out.
    fn settle(&mut self, now: Tick, plan: &Plan) {
        for id in &plan.foreign {
            tracing::error!(
                instance = %id,
                "not served: HAProxy has a server of that name that lb-sync did not make\n  remove it from the configuration, or give the instance another name"
            );
        }
        self.record_checks(plan);
        self.publisher.publish_acks(now, &plan.acks, &self.files, &mut self.actions);
        for id in &plan.failed {
            tracing::warn!(instance = %id, "a suspect fails HAProxy's check: removed");
            let changed = self.view.check_failed(id);
            self.mark_dirty(changed);
            self.record_of(id, "no longer kept as a suspect", "HAProxy's own check of it fails");
        }
    }

    /// HAProxy's check of an instance has begun to fail, or passes again.
    fn record_checks(&mut self, plan: &Plan) {
        for (id, ack) in &plan.acks {
            let before = self.publisher.state_of(id);
            match ack.as_ref().map(|ack| ack.state) {
                Some(AckState::Failing) if before != Some(AckState::Failing) => {
                    let said = self.observed.server(id).and_then(|server| server.check_said.as_deref());
                    let said = said.unwrap_or_default().to_owned();
                    tracing::warn!(instance = %id, said, "HAProxy's check fails: it gets no traffic here");
                    self.metrics.checks_failed += 1;
                    self.record_of(id, "HAProxy's check fails", &said);
                }
                Some(AckState::Serving) if before == Some(AckState::Failing) => {
                    tracing::info!(instance = %id, "HAProxy's check passes again");
                    self.record_of(id, "HAProxy's check passes", "it gets traffic again");
                }
                _ => {}
            }
        }
    }

    /// Whether a reload on the files brings in what is missing.
    fn waits_for_cold_start(&mut self, now: Tick) -> bool {
        let Some(worker) = &self.worker else { return false };
        self.files.cold_start(now, &self.view, &self.observed, worker, self.planner.ids_mut())
    }

    /// Whether nothing is planned yet, since no leave would wait for what is served. Without etcd nothing waits: an outage stops
    /// no instance from being served.
    fn waits_for_presence(&mut self, now: Tick) -> bool {
        self.waits_for_presence = !self.publisher.presence.has_stood() && self.view.in_sync() && {
            let until = *self.presence_until.get_or_insert(now.plus(PRESENCE_WAIT_MAX));
            now < until
        };
        self.waits_for_presence
    }

    /// Whether what is known from the disk is not acted on: etcd may answer in a moment; and a HAProxy that has servers of ours
    /// is younger news than the disk.
    fn waits_for_etcd(&self, now: Tick) -> bool {
        self.view.is_from_disk() && (now < self.disk_from || self.has_own_servers())
    }

    /// Whether HAProxy has any server of ours, as last read.
    pub(super) fn has_own_servers(&self) -> bool {
        let ours = |server: &Server| self.planner.ids().is_ours(server.id);
        let mut servers = self.observed.backends.values().flat_map(|backend| backend.servers.values());
        servers.any(ours)
    }

    /// Whether every id that was given out is reserved on disk, or has been waited for long enough.
    fn ids_are_reserved(&mut self, now: Tick) -> bool {
        let ids = self.planner.ids();
        self.actions.extend(self.files.reserve_ids(ids).map(Action::SaveIds));
        let until = *self.ids_wait_until.get_or_insert(now.plus(IDS_WAIT_MAX));
        let reserved = self.files.are_ids_reserved(ids) || now >= until;
        if reserved {
            self.ids_wait_until = None;
        }
        reserved
    }

    /// Takes HAProxy's answers in.
    pub(super) fn answers(&mut self, now: Tick, answers: &[String]) -> Scope {
        match std::mem::replace(&mut self.talk, Talk::Idle) {
            Talk::Asked { question, sent } => {
                self.reads += 1;
                if let Err(error) = self.answered(now, question, sent, answers) {
                    return self.lost(now, &error);
                }
            }
            // Of a session that was given up.
            other => self.talk = other,
        }
        Scope::none()
    }

    fn answered(
        &mut self,
        now: Tick,
        question: Question,
        sent: Tick,
        answers: &[String],
    ) -> Result<(), PassError> {
        let Some((info, answers)) = answers.split_last() else {
            return Err(AnswerError::Unexpected { asked: "show info", said: Excerpt::of("") }.into());
        };
        let info = Info::parse(info)?;
        self.check_process(&info)?;
        self.schedule.answered(now);
        match (question, std::mem::take(&mut self.activity)) {
            (Question::Read, Activity::ReadEverything { mut reading, audit }) => {
                reading.answers(&mut self.observed, answers, sent)?;
                if reading.is_done() {
                    self.everything_read(now, info, reading.into_everything().unwrap_or_default(), audit);
                } else {
                    self.activity = Activity::ReadEverything { reading, audit };
                }
            }
            (Question::Read, Activity::ReadBack { mut reading, ids }) => {
                reading.answers(&mut self.observed, answers, sent)?;
                // What a round has done is seen only now.
                self.actions.push(Action::StatusChanged);
                self.activity = Activity::ReadBack { reading, ids };
            }
            (Question::Steps(steps), Activity::Round(mut round)) => {
                let outcomes = round.answers(now, (steps, sent), answers, &self.observed, &mut self.planner);
                let known = (&self.view, &self.arrived);
                events::of_steps(now, &outcomes, known, &mut self.metrics, &mut self.actions);
                self.activity = Activity::Round(round);
            }
            (Question::MakeBackend(service, commands), _) => {
                let made = self.record_replies(&commands, answers);
                self.backends.record(service.clone(), made);
                let mut reading = Reading::default();
                reading.add_backends([service]);
                self.activity = Activity::ReadBack { reading, ids: BTreeSet::new() };
            }
            (Question::Routes(commands), activity) => {
                self.record_replies(&commands, answers);
                self.activity = activity;
            }
            (Question::Glance, activity) => {
                self.activity = activity;
                let state = answers.first().map_or("", String::as_str);
                self.glanced(now, sent, ServersState::parse(state)?);
            }
            (Question::Ping | Question::Read | Question::Steps(_), activity) => self.activity = activity,
        }
        Ok(())
    }

    /// An answer of a worker on its way out, or of another one than before, is none: everything is read anew.
    fn check_process(&self, info: &Info) -> Result<(), PassError> {
        if !info.version.at_least(2, 6) {
            return Err(PassError::TooOld(info.version.clone()));
        }
        let begins = matches!(self.activity, Activity::ReadEverything { audit: false, .. });
        let known = self.worker.as_ref().is_some_and(|worker| worker.is_same_process(info));
        if info.stopping || !(begins || known) {
            return Err(PassError::Replaced);
        }
        Ok(())
    }

    /// Logs and counts what came of commands that concern no single server. Returns whether HAProxy took all of them.
    fn record_replies(&mut self, commands: &[Command], answers: &[String]) -> bool {
        let mut all = true;
        for (command, answer) in commands.iter().zip(answers) {
            let reply = Reply::read(command, answer);
            all &= reply == Reply::Ok;
            events::of_command(command, &reply, &mut self.metrics, &mut self.actions);
        }
        all
    }

    /// Everything was read anew. Where nothing is other than it was known to be, there is nothing to plan.
    fn everything_read(&mut self, now: Tick, info: Info, observed: Observed, audit: bool) {
        let before = std::mem::replace(&mut self.observed, observed);
        self.observed.keep_sessions(&before);
        if self.worker.as_ref().is_none_or(|worker| !worker.is_same_process(&info)) {
            let backends = self.observed.backends.len();
            tracing::info!(version = %info.version, pid = info.pid, backends, "HAProxy answers");
            self.record("HAProxy answers", format!("{}, process {}", info.version, info.pid));
            // The first HAProxy of this life: an earlier life may have served by a worker that it replaced. Without files the new
            // one has none of its servers.
            let is_young = info.uptime_s < YOUNG_S_MAX;
            let has_earlier_life = self.known_on_disk.as_ref().is_some_and(|known| !known.is_empty());
            if self.worker.is_none() && is_young && (has_earlier_life || self.has_own_servers()) {
                self.record_reload(now);
            }
            self.planner.start_anew(&info.version);
            self.publisher.start_anew();
            self.backends.forget_process();
        }
        self.worker = Some(info);
        self.metrics.resyncs += 1;
        self.read_at = now;
        self.actions.push(Action::StatusChanged);
        self.routes.invalidate();
        let retries = self.backends.retry_refused();
        let changed = if audit { self.observed.news_since(&before) } else { Scope::All };
        self.planner.read_state(now, &self.observed, &changed);
        self.log_once.settled(HAPROXY);
        self.schedule.read_all(now);
        self.dirty.extend(if retries { Scope::All } else { changed });
        if audit {
            // The files may have been changed by hand as well.
            self.files.mark_dirty(&Scope::All);
            self.record_edits(&before);
        }
    }

    /// The state of all servers was read. What a check has found is news; what was changed by order is repaired as well.
    fn glanced(&mut self, now: Tick, sent: Tick, state: ServersState) {
        self.schedule.glanced(now, now.since(sent));
        let (changed, edited) = self.observed.read_states(state);
        for id in &edited {
            self.record_edit(id);
        }
        if !changed.is_empty() {
            self.actions.push(Action::StatusChanged);
        }
        self.replan.extend(changed);
    }

    /// What was `touched` is read back, and is planned again. Where a whole backend was read, so is everything else in it that
    /// is not as it was known to be: the next audit compares with what is known now.
    fn read_back(&mut self, reading: Reading, touched: BTreeSet<InstanceId>) {
        let Differences { changed, edited } = reading.into_differences();
        for id in edited.difference(&touched) {
            self.record_edit(id);
        }
        self.replan.extend(touched);
        self.replan.extend(changed);
    }

    /// Logs what was changed by hand; the next plan repairs it where it is ours.
    fn record_edits(&mut self, before: &Observed) {
        for id in self.observed.edited_since(before) {
            self.record_edit(&id);
        }
    }

    fn record_edit(&mut self, id: &InstanceId) {
        tracing::warn!(instance = %id, "a server was changed by hand");
        self.metrics.audit_findings += 1;
        self.record_of(id, "changed by hand", "found when HAProxy's servers were read");
    }

    /// HAProxy was reloaded: no ack says `drained` until its old workers have ended, or had their time.
    fn record_reload(&mut self, now: Tick) {
        self.planner.record_reload(now);
        self.count_at = self.has_master.then_some(now);
        self.count_until = now.plus(Duration::from_secs(YOUNG_S_MAX));
    }

    /// HAProxy's master says how many old workers there are.
    pub(super) fn old_workers(&mut self, now: Tick, count: Option<usize>) -> Scope {
        if count == Some(0) {
            return if self.planner.record_no_old_workers() { Scope::All } else { Scope::none() };
        }
        let next = now.plus(COUNT_EVERY);
        self.count_at = (next < self.count_until).then_some(next);
        Scope::none()
    }

    /// The session is over. What HAProxy has is read anew when there is another.
    pub(super) fn lost(&mut self, now: Tick, error: &PassError) -> Scope {
        if self.is_connected() {
            self.metrics.haproxy_lost += 1;
            self.actions.push(Action::StatusChanged);
            self.record("HAProxy is lost", error.to_string());
            self.actions.push(Action::Disconnect);
        }
        if matches!(error, PassError::Replaced) {
            self.record_reload(now);
        }
        self.talk = Talk::Away;
        // Planned for what is there no more; all is planned anew once it is read.
        self.activity = Activity::None;
        self.pending = PendingPlan::default();
        self.replan.clear();
        self.ids_wait_until = None;
        self.reads += 1;
        self.schedule.lost(now);
        self.log_once.warn(HAPROXY, || error.to_string());
        Scope::none()
    }
}
