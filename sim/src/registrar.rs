//! A registrar with its app, as a value: the machine of `registrar`, its lease, and what it follows.

use std::net::SocketAddr;
use std::time::Duration;

use ::registrar::machine::{Action, Input, Registrar};
use ::registrar::probe::{Check, ProbeConfig, prober::Prober};
use ::registrar::supervise::Exit;
use ::registrar::supervise::program::{Policy, Program, Restart};
use ::registrar::supervise::supervisor::Supervisor;
use leasehold::member::machine as member;
use leasehold::member::{AddressChoice, MemberConfig, Report};
use leasehold::members::{self, Members};
use leasehold::{Naming, Status};
use registry::follow::Event;
use registry::key::Prefix;
use registry::lease::{Fence, machine as lease};
use registry::name::InstanceName;
use registry::record::{DrainTimes, InstanceRecord, InstanceState, to_value};
use registry::time::Tick;

use crate::draw::mix;
use crate::link::{Answer, Call, Link};
use crate::script::Options;

/// The followers of a registrar.
const OWN: usize = 0;
const PRESENCE: usize = 1;
/// The first of those of acks.
const ACKS: usize = 2;

/// Something that the world does for it.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Call etcd.
    Call(Call),
    /// Start the app.
    StartApp,
    /// The app gets TERM.
    StopApp,
    /// The app gets KILL.
    KillApp,
    /// Try the app at this address.
    Check(SocketAddr),
    /// The member says that it has left, and whether every balancer has said so (else the deadline passed).
    Left {
        /// Every awaited balancer has acked.
        acked: bool,
    },
    /// It stands down.
    StoodDown,
    /// It has its name back.
    Returned,
    /// It has said this.
    Said(Report),
    /// The process ends.
    End,
}

/// The process.
#[derive(Debug)]
pub struct RegistrarProcess {
    machine: Registrar,
    /// Its connection.
    pub link: Link,
    /// Its owner id.
    pub owner: String,
    /// Where its app is.
    pub addr: SocketAddr,
    service: String,
    record: InstanceRecord,
    puts: u64,
    /// The keys of acks, by the number of the follower.
    acks: Vec<String>,
    status: lease::LeaseStatus,
}

impl RegistrarProcess {
    /// Of an instance of `service` named `name`, whose app will be at `addr`.
    #[must_use]
    pub fn new(
        now: Tick,
        (service, name): (&str, Option<&str>),
        addr: SocketAddr,
        options: &Options,
        seed: u64,
    ) -> Option<Self> {
        let owner = format!("{:016x}", mix(seed));
        let naming = match name {
            Some(name) => Naming::Is(name.parse::<InstanceName>().ok()?),
            None => Naming::Auto,
        };
        let mut record = InstanceRecord::new(addr.ip(), addr.port().try_into().ok()?);
        record.drain = DrainTimes { sticky_s: options.sticky_s, inflight_s: options.inflight_s };
        let config = MemberConfig {
            service: service.parse().ok()?,
            naming,
            record: record.clone(),
            address: AddressChoice::Auto,
            leave_max: Duration::from_secs(options.leave_max_s),
            linger: Duration::from_secs(options.ttl_s) * 3 / 2,
        };
        let probe = ProbeConfig {
            check: Check::Tcp,
            expected: registrar::probe::Expected::default(),
            tls: None,
            start_grace: Duration::from_secs(30),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            rise: 1,
            fall: 2,
        };
        let restart = if options.restarts == 1 { Restart::OnFailure } else { Restart::No };
        let policy = Policy { restart, restarts_max: None, stop_grace: Duration::from_secs(2) };
        let supervisor = Supervisor::new(vec![Program::new(policy, seed)], Some(0));
        let prober = Prober::new(&probe, now, mix(seed ^ 2));
        let members = Members::new(&[config], &owner, &Prefix::default(), mix(seed ^ 3));
        Some(Self {
            machine: Registrar::new(supervisor, vec![prober], members, Some(0)),
            link: Link::new(now, Duration::from_secs(options.ttl_s), seed),
            owner,
            addr,
            service: service.to_owned(),
            record,
            puts: 0,
            acks: Vec::new(),
            status: lease::LeaseStatus::default(),
        })
    }

    /// The member's status.
    #[must_use]
    pub fn member(&self) -> Status {
        self.machine.statuses().into_iter().next().map(|(_, status)| status).unwrap_or_default()
    }

    /// When something is due.
    #[must_use]
    pub fn wake_at(&self) -> Option<Tick> {
        [self.machine.wake_at(), self.link.wake_at()].into_iter().flatten().min()
    }

    /// It begins.
    pub fn start(&mut self, now: Tick) -> Vec<Effect> {
        let mut effects = self.step(now, Input::Start);
        effects.extend(self.step(now, Input::Located(0, self.addr)));
        effects
    }

    /// One input of the machine.
    pub fn step(&mut self, now: Tick, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut inputs = std::collections::VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for action in self.machine.step(now, input) {
                self.perform(now, action, &mut inputs, &mut effects);
            }
            inputs.extend(self.lease_changed());
        }
        effects
    }

    /// The lease's new status, as an input.
    fn lease_changed(&mut self) -> Option<Input> {
        let status = self.link.lease.status();
        if *status == self.status {
            return None;
        }
        self.status.clone_from(status);
        Some(Input::Members(members::Input::Lease(self.status.clone())))
    }

    /// Time has passed.
    pub fn woke(&mut self, now: Tick) -> Vec<Effect> {
        let mut calls = Vec::new();
        let events = self.link.woke(now, &mut calls);
        let mut effects: Vec<Effect> = calls.into_iter().map(Effect::Call).collect();
        effects.extend(self.events(now, events));
        effects.extend(self.step(now, Input::Woke));
        effects
    }

    /// What came of a call.
    pub fn answer(&mut self, now: Tick, answer: Answer) -> Vec<Effect> {
        let of_member = match &answer {
            Answer::Names(names) => Some(member::Input::Names(names.clone())),
            Answer::TimeToLive(ttl) => Some(member::Input::Lease(ttl.clone())),
            _ => None,
        };
        if let Some(input) = of_member {
            return self.step(now, Input::Members(members::Input::Member(0, input)));
        }
        let mut calls = Vec::new();
        let events = self.link.answer(now, answer, &mut calls);
        let mut effects: Vec<Effect> = calls.into_iter().map(Effect::Call).collect();
        if let Some(input) = self.lease_changed() {
            effects.extend(self.step(now, input));
        }
        effects.extend(self.events(now, events));
        effects
    }

    fn events(&mut self, now: Tick, events: Vec<(usize, Event)>) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (follower, event) in events {
            let input = match follower {
                OWN => member::Input::Own(event),
                PRESENCE => member::Input::Presence(event),
                ack => member::Input::Acks(self.acks[ack - ACKS].clone(), event),
            };
            effects.extend(self.step(now, Input::Members(members::Input::Member(0, input))));
        }
        effects
    }

    fn perform(
        &mut self,
        now: Tick,
        action: Action,
        inputs: &mut std::collections::VecDeque<Input>,
        effects: &mut Vec<Effect>,
    ) {
        let mut calls = Vec::new();
        match action {
            Action::Spawn(_) => effects.push(Effect::StartApp),
            Action::Term(_) => effects.push(Effect::StopApp),
            Action::Kill(_) => effects.push(Effect::KillApp),
            Action::Check(_, at) => effects.push(Effect::Check(at)),
            Action::End(_) => effects.push(Effect::End),
            Action::Members(members::Action::Release) => {
                self.link.command(now, lease::Input::Release, &mut calls);
            }
            Action::Members(members::Action::Report { report, .. }) => {
                effects.push(Effect::Said(report.clone()));
                match report {
                    Report::Left => effects.push(Effect::Left { acked: true }),
                    Report::TimedOut(_) => effects.push(Effect::Left { acked: false }),
                    Report::Superseded | Report::NoName => effects.push(Effect::StoodDown),
                    Report::NameReturned => effects.push(Effect::Returned),
                    _ => {}
                }
            }
            Action::Members(members::Action::Member(_, action)) => match action {
                member::Action::Put { key, at, state, expected } => {
                    let value = self.value(at, state);
                    let owner = self.owner.clone();
                    let fence = match expected {
                        Some(expected) => Fence::Claim { owner, expected },
                        None => Fence::Owner(owner),
                    };
                    let number = self.link.command(now, lease::Input::Put { key, value, fence }, &mut calls);
                    inputs.push_back(Input::Members(members::Input::Queued(0, number)));
                }
                member::Action::ListNames { prefix } => {
                    calls.extend(self.link.unfollow(OWN));
                    calls.push(Call::Names(prefix));
                }
                member::Action::AskLease(lease) => calls.push(Call::TimeToLive(lease)),
                member::Action::FollowOwn { key } => calls.extend(self.link.follow_quietly(now, OWN, key)),
                member::Action::FollowRival { key } => calls.extend(self.link.follow(now, OWN, key)),
                member::Action::FollowPresence { presence } => {
                    calls.extend(self.link.follow_quietly(now, PRESENCE, presence));
                }
                member::Action::FollowBalancers { presence } => {
                    calls.extend(self.link.follow_while_leaving(now, PRESENCE, presence));
                }
                member::Action::FollowAck { key } => {
                    calls.extend(self.link.follow_while_leaving(now, ACKS + self.acks.len(), key.clone()));
                    self.acks.push(key);
                }
                member::Action::Report(_) => {}
            },
            Action::Forward(..)
            | Action::ReportRestart(..)
            | Action::ReportGaveUp(_)
            | Action::ReportBroken => {}
        }
        effects.extend(calls.into_iter().map(Effect::Call));
    }

    fn value(&mut self, at: SocketAddr, state: InstanceState) -> Vec<u8> {
        self.puts += 1;
        let mut record = self.record.clone();
        (record.address, record.state) = (at.ip(), state);
        record.owner = Some(self.owner.clone());
        record.registered_at = Some(format!("put {}", self.puts));
        to_value(&record)
    }

    /// Its service.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The app has ended: by itself if nothing told it to.
    pub fn app_ended(&mut self, now: Tick) -> Vec<Effect> {
        self.step(now, Input::Exited(0, Exit::Code(1)))
    }
}
