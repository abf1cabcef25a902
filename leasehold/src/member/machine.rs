//! What an instance's record says, and when it has left.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use registry::follow::{Event, Update, updates};
use registry::key::Key;
use registry::name::{BalancerName, InstanceName};
use registry::record::{InstanceRecord, InstanceState, parse};
use registry::time::Tick;

use super::leave::View;
use super::{Claim, Identity, Naming, Registrant, Report, Status};
use crate::health::AppHealth;

/// How the record stands in etcd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordStatus {
    /// A lease is held.
    pub held: bool,
    /// The last record put stands.
    pub settled: bool,
    /// Somebody newer has the key.
    pub superseded: bool,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// What is known of the app.
    Health(AppHealth),
    /// How the record stands.
    RecordStatus(RecordStatus),
    /// What came of [`Action::Claim`]; `None`: no name is left.
    Claimed(Option<Claim>),
    /// Something about our own key, after [`Action::FollowOwn`].
    Own(Event),
    /// Something about balancers' presence, after [`Action::FollowBalancers`].
    Presence(Event),
    /// Something about their acks, after [`Action::FollowBalancers`].
    Acks(Event),
    /// It is to leave.
    Leave,
    /// The moment of [`Machine::wake_at`] has come.
    Woke,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The record is to say this from now on; never equal to the one before, the time in it differs.
    Put {
        /// Where the app is.
        at: SocketAddr,
        /// What it says of itself.
        state: InstanceState,
        /// Only if the key's `mod_revision` is this.
        expected: Option<i64>,
    },
    /// Find a name for who listens there; asked again, only the last counts.
    Claim {
        /// Where the app is.
        at: SocketAddr,
        /// A name that is registered at this address was ours.
        returns: bool,
    },
    /// Follow our own key.
    FollowOwn,
    /// Follow the balancers' presence, and their acks of us.
    FollowBalancers,
    /// Tell people.
    Report(Report),
}

#[derive(Debug)]
enum State {
    /// Never healthy so far: there is no record.
    Starting,
    /// Healthy, and looking for a name.
    Claiming { at: SocketAddr, returns: bool },
    /// The record is to say `up` or `down`.
    Member { at: SocketAddr, up: bool },
    /// The record is to say `draining`; at `deadline` nobody is waited for any more.
    Draining { at: SocketAddr, deadline: Tick, view: Option<Box<View>>, told: Option<BTreeSet<BalancerName>> },
    /// It has left. The record stands until the lease is revoked.
    Left,
    /// A newer registrar has the name. There is no way back: the two would fight.
    StoodDown { left: bool },
}

/// The membership machine.
#[derive(Debug)]
pub struct Machine {
    registrant: Registrant,
    /// Who it is; `None` before a name is claimed.
    identity: Option<Identity>,
    leave_max: Duration,
    state: State,
    healthy: bool,
    standing: RecordStatus,
    /// Our own key is followed; asked for once, when the first record stands. What stands there from then on and is
    /// not ours was written after ours.
    own_followed: bool,
    /// Our record was deleted, and has not been written since.
    gone: bool,
}

impl Machine {
    /// Starts without a record. Leaving takes `leave_max` at most.
    #[must_use]
    pub fn new(registrant: Registrant, leave_max: Duration) -> Self {
        let identity = match &registrant.naming {
            Naming::Is(name) => Some(registrant.named(name.clone())),
            Naming::Auto => None,
        };
        Self {
            registrant,
            identity,
            leave_max,
            state: State::Starting,
            healthy: false,
            standing: RecordStatus::default(),
            own_followed: false,
            gone: false,
        }
    }

    /// When [`Input::Woke`] is due.
    #[must_use]
    pub fn wake_at(&self) -> Option<Tick> {
        match self.state {
            State::Draining { deadline, .. } => Some(deadline),
            State::Starting
            | State::Claiming { .. }
            | State::Member { .. }
            | State::Left
            | State::StoodDown { .. } => None,
        }
    }

    /// Who it is, once it has a name.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    fn name(&self) -> Option<InstanceName> {
        self.identity.as_ref().map(|identity| identity.id.instance.clone())
    }

    /// How it is.
    #[must_use]
    pub fn status(&self) -> Status {
        let has_record = matches!(self.state, State::Member { .. } | State::Draining { .. } | State::Left);
        Status {
            name: self.name(),
            wants_traffic: matches!(self.state, State::Member { up: true, .. } | State::Claiming { .. }),
            healthy: self.healthy,
            registered: has_record && self.standing.held && self.standing.settled && !self.gone,
            stood_down: matches!(self.state, State::StoodDown { .. }),
            left: matches!(self.state, State::Left | State::StoodDown { left: true }),
        }
    }

    /// The next actions.
    pub fn step(&mut self, now: Tick, input: Input) -> Vec<Action> {
        match input {
            Input::Health(health) => self.health(health),
            Input::RecordStatus(standing) => self.standing(standing),
            Input::Claimed(claim) => self.claimed(claim),
            Input::Own(event) => self.own(event),
            Input::Presence(event) => {
                if let State::Draining { view: Some(view), .. } = &mut self.state {
                    view.presence(event);
                }
                self.look_who_is_awaited()
            }
            Input::Acks(event) => {
                if let State::Draining { view: Some(view), .. } = &mut self.state {
                    view.acks(event);
                }
                self.look_who_is_awaited()
            }
            Input::Leave => self.leave(now),
            Input::Woke => self.woke(now),
        }
    }

    fn health(&mut self, health: AppHealth) -> Vec<Action> {
        self.healthy = matches!(health, AppHealth::Up(_));
        match (&mut self.state, health) {
            (State::Starting, AppHealth::NotYet(cause)) => vec![Action::Report(Report::NotYet { cause })],
            (State::Starting, AppHealth::Up(at)) if self.identity.is_none() => self.claim(at, true),
            (State::Starting, AppHealth::Up(at)) => {
                self.state = State::Member { at, up: true };
                self.put(at, InstanceState::Up, Report::Up { at })
            }
            (State::Claiming { at, returns }, AppHealth::Up(now_at)) if *at != now_at => {
                let returns = *returns;
                self.claim(now_at, returns)
            }
            (State::Claiming { .. }, AppHealth::Down(cause) | AppHealth::NotYet(cause)) => {
                self.state = State::Starting;
                vec![Action::Report(Report::Down { cause })]
            }
            (State::Member { at, up }, AppHealth::Up(now_at)) if !*up || *at != now_at => {
                (*at, *up) = (now_at, true);
                self.put(now_at, InstanceState::Up, Report::Up { at: now_at })
            }
            (State::Member { at, up }, AppHealth::Down(cause) | AppHealth::NotYet(cause)) if *up => {
                *up = false;
                let at = *at;
                self.put(at, InstanceState::Down, Report::Down { cause })
            }
            // Nothing new; or it is leaving or has stood down, and its health decides nothing any more.
            _ => vec![],
        }
    }

    fn claim(&mut self, at: SocketAddr, returns: bool) -> Vec<Action> {
        self.state = State::Claiming { at, returns };
        vec![Action::Report(Report::Up { at }), Action::Claim { at, returns }]
    }

    fn claimed(&mut self, claim: Option<Claim>) -> Vec<Action> {
        let State::Claiming { at, .. } = self.state else {
            return vec![]; // It is ill by now, or on its way out.
        };
        let Some(Claim { name, expected }) = claim else {
            self.state = State::StoodDown { left: false };
            return vec![Action::Report(Report::NoName)];
        };
        self.identity = Some(self.registrant.named(name.clone()));
        self.standing = RecordStatus::default();
        self.own_followed = false;
        self.gone = false;
        self.state = State::Member { at, up: true };
        vec![
            Action::Report(Report::Claiming(name)),
            Action::Put { at, state: InstanceState::Up, expected: Some(expected) },
        ]
    }

    fn standing(&mut self, standing: RecordStatus) -> Vec<Action> {
        let was = std::mem::replace(&mut self.standing, standing);
        if standing.superseded {
            return self.stand_down();
        }
        let newly_settled = standing.settled && !was.settled;
        let mut actions = vec![];
        match &mut self.state {
            State::Member { .. } if newly_settled => actions.push(Action::Report(Report::Registered)),
            State::Draining { view: view @ None, .. } if newly_settled => {
                *view = self.identity.clone().map(|identity| Box::new(View::new(identity)));
                actions.push(Action::FollowBalancers);
            }
            _ => {}
        }
        if newly_settled {
            self.gone = false;
            if !self.own_followed {
                self.own_followed = true;
                actions.push(Action::FollowOwn);
            }
        }
        actions
    }

    fn own(&mut self, event: Event) -> Vec<Action> {
        let Some(Identity { id, prefix, .. }) = self.identity.clone() else { return vec![] };
        // The prefix of the key `web-1` is that of `web-10` too.
        let ours = |key| if let Key::Instance(other) = key { (other == id).then_some(other) } else { None };
        let updates = updates(&prefix, ours, event, || [id.clone()].into());
        match updates.into_iter().next_back() {
            Some(Update::Put(_, entry)) => self.own_seen(&entry.value),
            Some(Update::Gone(_)) => self.own_gone(),
            Some(Update::Illegal(..)) | None => vec![],
        }
    }

    fn own_gone(&mut self) -> Vec<Action> {
        if self.gone || !matches!(self.state, State::Member { .. } | State::Draining { .. }) {
            return vec![];
        }
        self.gone = true;
        vec![Action::Report(Report::Gone)]
    }

    /// A value that is not ours was written after ours. Our record is put again, fenced: etcd then says whether
    /// somebody newer has the name, in one transaction with the writing.
    fn own_seen(&mut self, value: &[u8]) -> Vec<Action> {
        let ours = parse::<InstanceRecord>(value)
            .is_ok_and(|record| record.owner.as_ref() == Some(&self.registrant.owner));
        if ours {
            self.gone = false;
            return vec![];
        }
        match self.state {
            State::Member { at, up: true } => self.put(at, InstanceState::Up, Report::WrittenOver),
            State::Member { at, up: false } => self.put(at, InstanceState::Down, Report::WrittenOver),
            State::Draining { at, .. } => self.put(at, InstanceState::Draining, Report::WrittenOver),
            State::Starting | State::Claiming { .. } | State::Left | State::StoodDown { .. } => vec![],
        }
    }

    fn leave(&mut self, now: Tick) -> Vec<Action> {
        match &mut self.state {
            State::Starting | State::Claiming { .. } => {
                self.state = State::Left;
                vec![]
            }
            State::Member { at, .. } => {
                let (at, deadline) = (*at, now.plus(self.leave_max));
                let answers = self.standing.held && self.standing.settled;
                self.state = State::Draining { at, deadline, view: None, told: None };
                let report = if answers { Report::Leaving } else { Report::LeavingBlind };
                self.put(at, InstanceState::Draining, report)
            }
            State::StoodDown { left } => {
                *left = true;
                vec![]
            }
            State::Draining { .. } | State::Left => vec![],
        }
    }

    fn look_who_is_awaited(&mut self) -> Vec<Action> {
        let State::Draining { view: Some(view), told, .. } = &mut self.state else {
            return vec![];
        };
        let Some(awaited) = view.awaited() else {
            return vec![];
        };
        if awaited.is_empty() {
            self.state = State::Left;
            return vec![Action::Report(Report::Left)];
        }
        if told.as_ref() == Some(&awaited) {
            return vec![];
        }
        *told = Some(awaited.clone());
        vec![Action::Report(Report::Awaiting(awaited))]
    }

    fn woke(&mut self, now: Tick) -> Vec<Action> {
        match &self.state {
            State::Draining { deadline, view, .. } if now >= *deadline => {
                let awaited = view.as_ref().and_then(|view| view.awaited());
                self.state = State::Left;
                vec![Action::Report(Report::TimedOut(awaited))]
            }
            _ => vec![],
        }
    }

    fn stand_down(&mut self) -> Vec<Action> {
        if self.registrant.naming == Naming::Auto
            && let State::Member { at, up } = self.state
        {
            return self.take_another(at, up);
        }
        let left = match self.state {
            State::StoodDown { .. } => return vec![],
            // Its record is not there any more to be drained.
            State::Draining { .. } | State::Left => true,
            State::Starting | State::Claiming { .. } | State::Member { .. } => false,
        };
        self.state = State::StoodDown { left };
        vec![Action::Report(Report::Superseded)]
    }

    /// The name is somebody else's by now, and none of ours was asked for: another does as well.
    fn take_another(&mut self, at: SocketAddr, up: bool) -> Vec<Action> {
        let lost = self.name().map(|name| Action::Report(Report::NameLost(name)));
        self.identity = None;
        self.standing = RecordStatus::default();
        let mut actions: Vec<Action> = lost.into_iter().collect();
        if up {
            self.state = State::Claiming { at, returns: false };
            actions.push(Action::Claim { at, returns: false });
        } else {
            self.state = State::Starting;
        }
        actions
    }

    fn put(&mut self, at: SocketAddr, state: InstanceState, report: Report) -> Vec<Action> {
        self.standing.settled = false;
        vec![Action::Report(report), Action::Put { at, state, expected: None }]
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
