//! A balancer's lb-sync, as a value: its machine, its lease, what it follows, and its disk.

use std::sync::Arc;
use std::time::Duration;

use ::haproxy::{Check, CheckInterval, Command, ServerId};
use lb_sync::balancer::{Action, Balancer, BalancerConfig, Input, Life, PresenceStatus};
use lb_sync::files::{Desired, Files};
use lb_sync::plan::ids::{Ids, SavedIds};
use lb_sync::plan::{AckValue, FirstCheck, Policy};
use lb_sync::snapshot::Snapshot;
use lb_sync::view::GuardPolicy;
use registry::follow::Event;
use registry::key::{Key, Prefix};
use registry::lease::{Fence, machine as lease};
use registry::name::BalancerName;
use registry::record::{AckRecord, AckState, to_value};
use registry::time::Tick;

use crate::draw::mix;
use crate::link::{Answer, Call, Link};
use crate::script::Options;

/// The followers of a balancer.
const INSTANCES: usize = 0;
const OVERRIDES: usize = 1;
const BALANCERS: usize = 2;

/// How long clients of an instance that is away keep their cookie.
pub const RESTART_GAP: Duration = Duration::from_secs(30);

/// What outlives the process.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// The last view that was saved.
    pub snapshot: Option<Snapshot>,
    /// Which instance has which HAProxy id.
    pub ids: Option<Arc<SavedIds>>,
}

/// Something that the world does for it.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Call etcd.
    Call(Call),
    /// Begin a session with HAProxy.
    Connect,
    /// Give it up.
    Disconnect,
    /// Send these in one request.
    Ask(Vec<Command>),
    /// Ask HAProxy's master for old workers.
    CountOldWorkers,
    /// An ack was put: `service/instance`, the owner and the state.
    Acked(String, String, AckState),
    /// Write HAProxy's files.
    WriteFiles(Arc<Desired>),
    /// This stands in the journal, and what HAProxy said where it refused.
    Journal(String, Option<String>),
}

/// The process.
#[derive(Debug)]
pub struct BalancerProcess {
    machine: Balancer,
    /// Its connection.
    pub link: Link,
    /// Its name.
    pub name: BalancerName,
    prefix: Prefix,
    /// What it has saved.
    pub disk: Disk,
    /// The key of presence that was put last, the number of that command, and what was known of it last.
    presence: Option<(String, u64, Option<PresenceStatus>)>,
    /// The ids that were just reserved on disk.
    reserved: Option<u32>,
}

/// How servers are made in a simulation.
#[must_use]
pub fn policy(options: &Options) -> Option<Policy> {
    let check = Check {
        inter: CheckInterval::try_from(Duration::from_millis(options.check_ms)).ok()?,
        rise: 1.try_into().ok()?,
        fall: 2.try_into().ok()?,
        down_inter: None,
    };
    Some(Policy {
        check: (options.check_ms > 0).then_some(check),
        id_base: ServerId::try_from(10_000).ok()?,
        first_check: if options.first_check == 1 { FirstCheck::Wait } else { FirstCheck::Skip },
        init_state: false,
        restart_gap: RESTART_GAP,
    })
}

impl BalancerProcess {
    /// Named `name` on `host`, with what an earlier life left on disk.
    #[must_use]
    pub fn new(
        now: Tick,
        (name, host): (&str, String),
        disk: Disk,
        options: &Options,
        seed: u64,
    ) -> Option<Self> {
        let name: BalancerName = name.parse().ok()?;
        let policy = policy(options)?;
        let guard =
            GuardPolicy { suspect_max: Duration::from_secs(options.suspect_max_s), ..GuardPolicy::default() };
        let config = BalancerConfig {
            socket: "haproxy.sock".into(),
            prefix: Prefix::default(),
            policy,
            guard,
            backend_defaults: None,
            snapshot: disk.snapshot.clone(),
            has_master: options.noise % 2 == 1,
        };
        let life = Life {
            name: name.clone(),
            id: format!("{:016x}", mix(seed ^ 7)),
            host,
            boot: String::new(),
            socket: "haproxy.sock".to_owned(),
            status: "127.0.0.1:7100".to_owned(),
        };
        let files = if options.files == 1 { Files::kept(policy, false) } else { Files::default() };
        let restored = disk.ids.as_ref().and_then(|saved| Ids::restore(policy.id_base, saved).ok());
        let ids = restored.unwrap_or_else(|| Ids::new(policy.id_base));
        let files = files.with_ids(&ids);
        Some(Self {
            machine: Balancer::new(now, mix(seed), config, life, (files, Some(ids))),
            link: Link::new(now, Duration::from_secs(options.ttl_s), seed),
            name,
            prefix: Prefix::default(),
            disk,
            presence: None,
            reserved: None,
        })
    }

    /// What it knows.
    #[must_use]
    pub fn machine(&self) -> &Balancer {
        &self.machine
    }

    /// When something is due.
    #[must_use]
    pub fn wake_at(&self) -> Option<Tick> {
        [self.machine.wake_at(), self.link.wake_at()].into_iter().flatten().min()
    }

    /// It begins.
    pub fn start(&mut self, now: Tick) -> Vec<Effect> {
        let mut calls = self.link.follow(now, INSTANCES, self.prefix.instances());
        calls.extend(self.link.follow(now, OVERRIDES, self.prefix.overrides()));
        calls.extend(self.link.follow_quietly(now, BALANCERS, self.prefix.balancers()));
        let mut effects: Vec<Effect> = calls.into_iter().map(Effect::Call).collect();
        effects.extend(self.woke(now));
        effects
    }

    /// Time has passed.
    pub fn woke(&mut self, now: Tick) -> Vec<Effect> {
        let mut calls = Vec::new();
        let events = self.link.woke(now, &mut calls);
        let mut effects: Vec<Effect> = calls.into_iter().map(Effect::Call).collect();
        let mut inputs = events_as_inputs(events);
        inputs.push(Input::Woke);
        effects.extend(self.step(now, inputs));
        effects
    }

    /// What came of a call.
    pub fn answer(&mut self, now: Tick, answer: Answer) -> Vec<Effect> {
        if let Answer::Alive(alive) = answer {
            return self.step(now, vec![Input::LeasesAlive(alive)]);
        }
        let mut calls = Vec::new();
        let events = self.link.answer(now, answer, &mut calls);
        let mut effects: Vec<Effect> = calls.into_iter().map(Effect::Call).collect();
        effects.extend(self.step(now, events_as_inputs(events)));
        effects
    }

    /// Inputs of the machine.
    pub fn step(&mut self, now: Tick, inputs: Vec<Input>) -> Vec<Effect> {
        let mut effects = self.step_machine(now, inputs);
        loop {
            let presence = self.presence_changed().map(Input::Presence);
            let Some(input) = presence.or(self.reserved.take().map(Input::IdsReserved)) else { break };
            effects.extend(self.step_machine(now, vec![input]));
        }
        effects
    }

    /// What is known of the presence record, if that is new.
    fn presence_changed(&mut self) -> Option<PresenceStatus> {
        let (key, put, known) = self.presence.as_mut()?;
        let status = PresenceStatus::of(self.link.lease.status(), key, *put);
        let status = status.filter(|status| *known != Some(*status))?;
        *known = Some(status);
        Some(status)
    }

    fn step_machine(&mut self, now: Tick, inputs: Vec<Input>) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut calls = Vec::new();
        for action in self.machine.step(now, inputs) {
            match action {
                Action::Connect => effects.push(Effect::Connect),
                Action::Disconnect => effects.push(Effect::Disconnect),
                Action::Ask(commands) => effects.push(Effect::Ask(commands)),
                Action::PutAck(key, AckValue { owner, revision, state }) => {
                    effects.push(Effect::Acked(key.id.to_string(), owner.clone(), state));
                    let key = self.prefix.text(&Key::Ack(key));
                    let ack = AckRecord {
                        owner,
                        revision: Some(revision),
                        state,
                        at: now.since(Tick::default()).as_millis().to_string(),
                    };
                    let value = to_value(&ack);
                    self.link.command(now, lease::Input::Put { key, value, fence: Fence::None }, &mut calls);
                }
                Action::RemoveAck(key) => {
                    let key = self.prefix.text(&Key::Ack(key));
                    self.link.command(now, lease::Input::Remove { key }, &mut calls);
                }
                Action::PutPresence { name, record, expected } => {
                    let (value, covers) = (to_value(&record), self.prefix.acks_by(&name));
                    let fence = Fence::Presence { id: record.id.unwrap_or_default(), covers, expected };
                    let key = self.prefix.text(&Key::Balancer(name));
                    let put = lease::Input::Put { key: key.clone(), value, fence };
                    let number = self.link.command(now, put, &mut calls);
                    self.presence = Some((key, number, None));
                }
                Action::DoubtKeys => {
                    self.link.command(now, lease::Input::Doubt, &mut calls);
                }
                Action::CountOldWorkers => effects.push(Effect::CountOldWorkers),
                Action::CheckLeases(queries) => calls.push(Call::Alive(queries)),
                Action::Record(event) => effects.push(Effect::Journal(event.what, event.refused)),
                Action::SaveIds(saved) => {
                    self.reserved = Some(saved.reserved);
                    self.disk.ids = Some(saved);
                }
                Action::SaveSnapshot(snapshot) => self.disk.snapshot = Some(snapshot),
                Action::WriteFiles(desired) => effects.push(Effect::WriteFiles(desired)),
                Action::PutHealth(_) | Action::StatusChanged => {}
            }
        }
        effects.extend(calls.into_iter().map(Effect::Call));
        effects
    }

    /// It is told to stop: its last view goes to disk.
    pub fn stop(&mut self) {
        if let Some(view) = self.machine.last_view() {
            self.disk.snapshot = Some(view);
        }
    }
}

fn events_as_inputs(events: Vec<(usize, Event)>) -> Vec<Input> {
    let input = |(follower, event)| match follower {
        INSTANCES => Input::Instances(event),
        OVERRIDES => Input::Overrides(event),
        _ => Input::Balancers(event),
    };
    events.into_iter().map(input).collect()
}
