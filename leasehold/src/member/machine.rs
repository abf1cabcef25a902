//! Decides what the instance's record says, and when the instance has left.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use registry::follow::{Entry, Event, Update, updates};
use registry::key::Key;
use registry::lease::{LeaseId, LeaseStatus, TimeToLive};
use registry::name::{BalancerName, InstanceName};
use registry::record::{InstanceRecord, InstanceState, parse};
use registry::time::Tick;

use super::claim::{self, NameSearch, Wanted};
use super::leave::{Balancers, View};
use super::{AppHealth, Claim, Identity, Naming, Registrant, Report, Status};

/// What is known of the record in etcd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordStatus {
    /// A lease is held.
    pub held: bool,
    /// The last record that was put stands in etcd.
    pub settled: bool,
    /// A newer owner has the key.
    pub superseded: bool,
    /// etcd's revision of our last write of it.
    pub revision: Option<i64>,
}

impl RecordStatus {
    /// What `lease` says about `key`, if it had taken command number `put` by then. A status from before that command is
    /// about another key, or about an earlier claim of this one. `None`: nothing has been put.
    #[must_use]
    pub fn of(lease: &LeaseStatus, key: Option<&str>, put: Option<u64>) -> Self {
        let current = put.is_some_and(|put| lease.seq >= put);
        Self {
            held: lease.lease.is_some(),
            settled: current && lease.settled,
            superseded: current && key.is_some_and(|key| lease.superseded.contains(key)),
            revision: key.and_then(|key| lease.revisions.get(key)).copied().filter(|_| current),
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// What is known of the app.
    Health(AppHealth),
    /// What is known of the record.
    Record(RecordStatus),
    /// The answer to [`Action::ListNames`]: the instances of the service, or the error.
    Names(Result<Vec<Entry>, String>),
    /// The answer to [`Action::AskLease`]: how much time it has, `None` if it has ended; or the error.
    Lease(Result<Option<TimeToLive>, String>),
    /// An event about our own key, after [`Action::FollowOwn`].
    Own(Event),
    /// An event about the presence of balancers, after [`Action::FollowBalancers`].
    Presence(Event),
    /// An event about this key of an ack, after [`Action::FollowAck`].
    Acks(String, Event),
    /// The instance is to leave.
    Leave,
    /// The moment of [`Machine::wake_at`] has come.
    Woke,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Have `key` stand with a record of this content. Two puts never write the same value: the time in it differs.
    Put {
        /// The key of the record.
        key: String,
        /// The address and port of the app.
        at: SocketAddr,
        /// The state in the record.
        state: InstanceState,
        /// Write only if the key's `mod_revision` is this.
        expected: Option<i64>,
    },
    /// List the instances of the service, to find a free name. A list that is under way is given up, and the key of the
    /// old name is no longer followed.
    ListNames {
        /// The prefix of the service's records.
        prefix: String,
    },
    /// Ask how much time the lease has that another one's record of our name stands under.
    AskLease(LeaseId),
    /// Follow our own key.
    FollowOwn {
        /// The key of the record.
        key: String,
    },
    /// Follow our own key anew, and list it every few minutes: another one has it, and its end gives it back.
    FollowRival {
        /// The key of the record.
        key: String,
    },
    /// Follow the presence of balancers: one that vanishes may serve on when this instance leaves.
    FollowPresence {
        /// The prefix of the presence keys.
        presence: String,
    },
    /// Follow the presence of balancers anew: only a list that is asked for from now on counts.
    FollowBalancers {
        /// The prefix of the presence keys.
        presence: String,
    },
    /// Follow the ack of one balancer of this instance as well.
    FollowAck {
        /// Its key.
        key: String,
    },
    /// Log this change.
    Report(Report),
}

#[derive(Debug)]
enum State {
    /// Never healthy so far: there is no record.
    Starting,
    /// Healthy, and searching a name.
    Claiming(NameSearch),
    /// The record is to say `up` or `down`.
    Member { at: SocketAddr, up: bool },
    /// The record is to say `draining`. At `deadline` the wait for balancers ends.
    Draining {
        at: SocketAddr,
        deadline: Tick,
        view: Option<Box<View>>,
        reported: Option<BTreeSet<BalancerName>>,
    },
    /// The instance has left. The record stands until the lease is revoked.
    Left,
    /// A newer registrar has the name, until it ends. Traffic has moved to that one: requests in flight here have until
    /// `until`.
    StoodDown { at: Option<SocketAddr>, until: Tick, leaving: bool, left: bool },
}

/// Bounds of a membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Longest wait for balancers when leaving.
    pub leave_max: Duration,
    /// How long a balancer that has vanished is still waited for.
    pub linger: Duration,
    /// How long requests in flight may take once another one has our name.
    pub inflight: Duration,
}

/// The membership machine.
#[derive(Debug)]
pub struct Machine {
    registrant: Registrant,
    /// `None` before a name is claimed.
    identity: Option<Identity>,
    bounds: Bounds,
    balancers: Balancers,
    /// Seeds of name searches.
    rng: Rng,
    state: State,
    healthy: bool,
    record: RecordStatus,
    /// Our own key is followed, since the first record stood. A value of another owner seen there was written after ours.
    own_followed: bool,
    own: OwnKey,
}

/// What was last seen at our own key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OwnKey {
    /// What should be there, or what may be on its way out.
    AsKnown,
    /// Nothing: our record was deleted, and has not been written since.
    Gone,
    /// A list had another value of ours than should stand, while it was not known whether that stands.
    InDoubt,
}

impl Machine {
    /// Starts without a record. `seed` spreads the retries of many registrars.
    #[must_use]
    pub fn new(registrant: Registrant, bounds: Bounds, seed: u64) -> Self {
        let (prefix, service) = (registrant.prefix.clone(), registrant.service.clone());
        let identity = match &registrant.naming {
            Naming::Is(name) => Some(registrant.named(name.clone())),
            Naming::Host(_) | Naming::Auto => None,
        };
        Self {
            registrant,
            identity,
            bounds,
            balancers: Balancers::new(prefix, service, bounds.linger),
            rng: Rng::with_seed(seed),
            state: State::Starting,
            healthy: false,
            record: RecordStatus::default(),
            own_followed: false,
            own: OwnKey::AsKnown,
        }
    }

    /// When [`Input::Woke`] is due.
    #[must_use]
    pub fn wake_at(&self) -> Option<Tick> {
        match &self.state {
            State::Draining { deadline, view, .. } => {
                let vanished = view.as_ref().and_then(|_| self.balancers.wake_at());
                Some(vanished.map_or(*deadline, |until| until.min(*deadline)))
            }
            State::Claiming(search) => search.wake_at(),
            State::StoodDown { until, leaving: true, left: false, .. } => Some(*until),
            State::Starting | State::Member { .. } | State::Left | State::StoodDown { .. } => None,
        }
    }

    /// The identity of the instance, once it has a name.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    fn name(&self) -> Option<InstanceName> {
        self.identity.as_ref().map(|identity| identity.id.instance.clone())
    }

    /// The status of the member.
    #[must_use]
    pub fn status(&self) -> Status {
        let has_record = matches!(self.state, State::Member { .. } | State::Draining { .. } | State::Left);
        Status {
            name: self.name(),
            wants_traffic: matches!(self.state, State::Member { up: true, .. } | State::Claiming(_)),
            healthy: self.healthy,
            registered: has_record && self.record.held && self.record.settled && self.own != OwnKey::Gone,
            stood_down: matches!(self.state, State::StoodDown { .. }),
            left: matches!(self.state, State::Left | State::StoodDown { left: true, .. }),
        }
    }

    /// The next actions.
    pub fn step(&mut self, now: Tick, input: Input) -> Vec<Action> {
        match input {
            Input::Health(health) => self.health(health),
            Input::Record(record) => self.record(now, record),
            Input::Names(names) => self.search(now, claim::Input::Listed(names)),
            Input::Lease(ttl) => self.search(now, claim::Input::Lease(ttl)),
            Input::Own(event) => self.own(event),
            Input::Presence(event) => {
                self.balancers.fold(now, event);
                let mut actions = self.follow_acks();
                actions.extend(self.check_acks(now));
                actions
            }
            Input::Acks(key, event) => {
                if let State::Draining { view: Some(view), .. } = &mut self.state {
                    view.acks(&key, event);
                }
                self.check_acks(now)
            }
            Input::Leave => self.leave(now),
            Input::Woke => self.woke(now),
        }
    }

    fn health(&mut self, health: AppHealth) -> Vec<Action> {
        self.healthy = matches!(health, AppHealth::Up(_));
        match (&mut self.state, health) {
            (State::Starting, AppHealth::NotYet(cause)) => vec![Action::Report(Report::NotYet { cause })],
            (State::Starting, AppHealth::Up(at)) if self.identity.is_none() => {
                let wanted = self.wanted(true);
                self.claim(at, wanted)
            }
            (State::Starting, AppHealth::Up(at)) => {
                self.state = State::Member { at, up: true };
                self.put(at, InstanceState::Up, Report::Up { at })
            }
            (State::Claiming(search), AppHealth::Up(now_at)) if search.at() != now_at => {
                let wanted = search.wanted();
                self.claim(now_at, wanted)
            }
            (State::Claiming(_), AppHealth::Down(cause) | AppHealth::NotYet(cause)) => {
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
            // No change, or the instance is leaving or has stood down: its health decides nothing.
            _ => vec![],
        }
    }

    /// What name is searched. With `returns`, a numbered one that is registered at our address was an earlier life's.
    fn wanted(&self, returns: bool) -> Wanted {
        match &self.registrant.naming {
            Naming::Host(name) => Wanted::Host(name.clone()),
            Naming::Is(_) | Naming::Auto => Wanted::Number { returns },
        }
    }

    fn claim(&mut self, at: SocketAddr, wanted: Wanted) -> Vec<Action> {
        vec![Action::Report(Report::Up { at }), self.search_name(at, wanted)]
    }

    /// Begins a search.
    fn search_name(&mut self, at: SocketAddr, wanted: Wanted) -> Action {
        let Registrant { service, prefix, .. } = self.registrant.clone();
        let search = NameSearch::new(prefix, service, at, wanted, self.rng.u64(..));
        let list = Action::ListNames { prefix: search.prefix() };
        self.state = State::Claiming(search);
        list
    }

    /// An answer that comes after the app has failed, or on the way out, changes nothing.
    fn search(&mut self, now: Tick, input: claim::Input) -> Vec<Action> {
        let State::Claiming(search) = &mut self.state else { return vec![] };
        let (mut actions, prefix) = (vec![], search.prefix());
        for action in search.step(now, input) {
            match action {
                claim::Action::List => actions.push(Action::ListNames { prefix: prefix.clone() }),
                claim::Action::AskLease(lease) => actions.push(Action::AskLease(lease)),
                claim::Action::ReportHeld { name, by } => {
                    actions.push(Action::Report(Report::NameHeld { name, by }));
                }
                claim::Action::ReportRetry { cause } => {
                    actions.push(Action::Report(Report::NamesUnknown { cause }));
                }
                claim::Action::Choose(claim) => return self.claimed(claim),
            }
        }
        actions
    }

    fn claimed(&mut self, claim: Option<Claim>) -> Vec<Action> {
        let State::Claiming(search) = &self.state else { return vec![] };
        let at = search.at();
        let Some(Claim { name, expected }) = claim else {
            self.state = State::StoodDown { at: None, until: Tick::default(), leaving: false, left: false };
            return vec![Action::Report(Report::NoName)];
        };
        let identity = self.registrant.named(name.clone());
        let key = identity.key();
        self.identity = Some(identity);
        self.record = RecordStatus::default();
        self.own_followed = false;
        self.own = OwnKey::AsKnown;
        self.state = State::Member { at, up: true };
        vec![
            Action::Report(Report::Claiming(name)),
            Action::Put { key, at, state: InstanceState::Up, expected: Some(expected) },
        ]
    }

    fn record(&mut self, now: Tick, record: RecordStatus) -> Vec<Action> {
        let was = std::mem::replace(&mut self.record, record);
        if record.superseded {
            return self.stand_down(now);
        }
        let Some(identity) = self.identity.clone().filter(|_| record.settled && !was.settled) else {
            return vec![];
        };
        let mut actions = vec![];
        let key = identity.key();
        match &mut self.state {
            State::Member { .. } => actions.push(Action::Report(Report::Registered)),
            State::Draining { view: view @ None, .. } => {
                *view = Some(Box::new(View::new(identity.clone())));
                self.balancers.let_go(now);
                actions.extend(self.list_balancers());
                actions.extend(self.follow_acks());
            }
            _ => {}
        }
        if std::mem::replace(&mut self.own, OwnKey::AsKnown) == OwnKey::InDoubt
            && let Some((at, state)) = self.should_stand()
        {
            actions.extend(self.put(at, state, Report::WrittenOver));
        }
        if !self.own_followed {
            self.own_followed = true;
            actions.push(Action::FollowOwn { key });
            if matches!(self.state, State::Member { .. }) {
                actions.push(Action::FollowPresence { presence: identity.prefix.balancers() });
            }
        }
        actions
    }

    fn own(&mut self, event: Event) -> Vec<Action> {
        let Some(Identity { id, prefix, .. }) = self.identity.clone() else { return vec![] };
        // The prefix of the key `web-1` is that of `web-10` too.
        let ours = |key| if let Key::Instance(other) = key { (other == id).then_some(other) } else { None };
        let is_list = matches!(event, Event::Listed { .. });
        let updates = updates(&prefix, ours, event, || [id.clone()].into());
        match updates.into_iter().next_back() {
            Some(Update::Put(_, entry)) => self.own_seen(&entry, is_list),
            Some(Update::Gone(_)) => self.own_gone(),
            Some(Update::Illegal(..)) | None => vec![],
        }
    }

    /// Our key is gone: its lease ended, or it was deleted. What should stand is written again. While another registrar had
    /// our name, its end gives it back.
    fn own_gone(&mut self) -> Vec<Action> {
        if let State::StoodDown { at: Some(at), leaving: false, .. } = self.state {
            return self.return_from_standing_down(at, 0);
        }
        match self.should_stand().filter(|_| self.own != OwnKey::Gone) {
            Some((at, state)) => {
                self.own = OwnKey::Gone;
                self.put(at, state, Report::Gone)
            }
            None => vec![],
        }
    }

    /// The other registrar of our name has ended, or a restored backup has our record again, at this revision: the name is
    /// claimed again, unless a third one is quicker.
    fn return_from_standing_down(&mut self, at: SocketAddr, expected: i64) -> Vec<Action> {
        let Some(key) = self.identity.as_ref().map(Identity::key) else { return vec![] };
        self.record = RecordStatus::default();
        self.own = OwnKey::AsKnown;
        self.state = State::Member { at, up: self.healthy };
        let state = if self.healthy { InstanceState::Up } else { InstanceState::Down };
        vec![Action::Report(Report::NameReturned), Action::Put { key, at, state, expected: Some(expected) }]
    }

    /// Another value than ours was written after ours: by another owner, or by a restored backup. Our record is put again,
    /// fenced: the transaction that writes it also tells whether a newer owner has the name.
    fn own_seen(&mut self, entry: &Entry, is_list: bool) -> Vec<Action> {
        let record = parse::<InstanceRecord>(&entry.value).ok();
        let ours =
            record.as_ref().is_some_and(|record| record.owner.as_ref() == Some(&self.registrant.owner));
        if let State::StoodDown { at: Some(at), leaving: false, .. } = self.state
            && (ours && is_list)
        {
            return self.return_from_standing_down(at, entry.mod_revision);
        }
        let wanted = self.should_stand();
        // A change may tell of our own earlier value; a list tells what stands, also where a restored backup brought it back.
        let is_earlier = !is_list && self.record.revision > Some(entry.mod_revision);
        let is_wanted = record.as_ref().is_some_and(|record| {
            wanted.is_some_and(|(at, state)| record.endpoint() == at && record.state == state)
        });
        // It says what it should, and a restored backup has it at a revision that acks answer, while a later one is waited for.
        let is_set_back = is_list && self.record.revision > Some(entry.mod_revision);
        // While a write or the lease is in doubt, so is whether this is the past.
        let settled = self.record.settled;
        let in_doubt = is_list && !settled && (!is_wanted || is_set_back);
        if ours && (!settled || !is_set_back) && (is_wanted || !settled || is_earlier) {
            self.own = if in_doubt { OwnKey::InDoubt } else { OwnKey::AsKnown };
            return vec![];
        }
        match wanted {
            Some((at, state)) => self.put(at, state, Report::WrittenOver),
            None => vec![],
        }
    }

    /// Where and how our record should stand.
    fn should_stand(&self) -> Option<(SocketAddr, InstanceState)> {
        match self.state {
            State::Member { at, up: true } => Some((at, InstanceState::Up)),
            State::Member { at, up: false } => Some((at, InstanceState::Down)),
            State::Draining { at, .. } => Some((at, InstanceState::Draining)),
            State::Starting | State::Claiming(_) | State::Left | State::StoodDown { .. } => None,
        }
    }

    fn leave(&mut self, now: Tick) -> Vec<Action> {
        match &mut self.state {
            State::Starting | State::Claiming(_) => {
                self.state = State::Left;
                vec![]
            }
            State::Member { at, .. } => {
                let (at, deadline) = (*at, now.plus(self.bounds.leave_max));
                let answers = self.record.held && self.record.settled;
                self.state = State::Draining { at, deadline, view: None, reported: None };
                let report = if answers { Report::Leaving } else { Report::LeavingBlind };
                self.put(at, InstanceState::Draining, report)
            }
            State::StoodDown { until, leaving, left, .. } => {
                *leaving = true;
                *left = now >= *until;
                vec![]
            }
            State::Draining { .. } | State::Left => vec![],
        }
    }

    /// Follows the acks of the balancers that have become known.
    fn follow_acks(&mut self) -> Vec<Action> {
        let State::Draining { view: Some(view), .. } = &mut self.state else { return vec![] };
        let keys = view.follow(&self.balancers);
        keys.into_iter().map(|key| Action::FollowAck { key }).collect()
    }

    /// Only a list that is asked for from now on may end the leave.
    fn list_balancers(&mut self) -> Vec<Action> {
        self.balancers.doubt();
        let presence = self.registrant.prefix.balancers();
        vec![Action::FollowBalancers { presence }]
    }

    fn check_acks(&mut self, now: Tick) -> Vec<Action> {
        let revision = self.record.revision;
        let State::Draining { view: Some(view), reported, .. } = &mut self.state else {
            return vec![];
        };
        if self.balancers.let_go(now) {
            return self.list_balancers();
        }
        let Some(awaited) = view.awaited(&self.balancers, revision) else {
            return vec![];
        };
        if awaited.is_empty() {
            // While our record is written again, as after a restore, a balancer may have the instance in rotation again: it has to
            // answer that record.
            if !self.record.settled {
                return vec![];
            }
            self.state = State::Left;
            return vec![Action::Report(Report::Left)];
        }
        if reported.as_ref() == Some(&awaited) {
            return vec![];
        }
        *reported = Some(awaited.clone());
        vec![Action::Report(Report::Awaiting(awaited))]
    }

    fn woke(&mut self, now: Tick) -> Vec<Action> {
        match &self.state {
            State::Draining { deadline, view, .. } if now >= *deadline => {
                let revision = self.record.revision;
                let awaited = view.as_ref().and_then(|view| view.awaited(&self.balancers, revision));
                self.state = State::Left;
                vec![Action::Report(Report::TimedOut(awaited))]
            }
            // One that has vanished may no longer count.
            State::Draining { .. } => self.check_acks(now),
            State::StoodDown { at, until, leaving: true, left: false } if now >= *until => {
                self.state = State::StoodDown { at: *at, until: *until, leaving: true, left: true };
                vec![]
            }
            State::Claiming(_) => self.search(now, claim::Input::Woke),
            _ => vec![],
        }
    }

    fn stand_down(&mut self, now: Tick) -> Vec<Action> {
        let is_chosen = match self.registrant.naming {
            Naming::Is(_) => true,
            // One that stood is taken over on purpose, by an instance that was given this name.
            Naming::Host(_) => self.own_followed,
            Naming::Auto => false,
        };
        if !is_chosen && let State::Member { at, up } = self.state {
            return self.take_another(at, up);
        }
        let (at, leaving, left) = match self.state {
            State::StoodDown { .. } => return vec![],
            State::Member { at, .. } => (Some(at), false, false),
            // Balancers have moved to the newer one; requests in flight here are let finish.
            State::Draining { at, .. } => (Some(at), true, false),
            State::Left => (None, true, true),
            State::Starting | State::Claiming(_) => (None, false, false),
        };
        self.state = State::StoodDown { at, until: now.plus(self.bounds.inflight), leaving, left };
        let mut actions = vec![Action::Report(Report::Superseded)];
        if let Some(identity) = &self.identity {
            self.own_followed = true;
            actions.push(Action::FollowRival { key: identity.key() });
        }
        actions
    }

    /// Searches a name again: another one was quicker, and no name was asked for.
    fn take_another(&mut self, at: SocketAddr, up: bool) -> Vec<Action> {
        let lost = self.name().map(|name| Action::Report(Report::NameLost(name)));
        self.identity = None;
        self.record = RecordStatus::default();
        let mut actions: Vec<Action> = lost.into_iter().collect();
        if up {
            let wanted = self.wanted(false);
            actions.push(self.search_name(at, wanted));
        } else {
            self.state = State::Starting;
        }
        actions
    }

    fn put(&mut self, at: SocketAddr, state: InstanceState, report: Report) -> Vec<Action> {
        self.record.settled = false;
        let mut actions = vec![Action::Report(report)];
        let key = self.identity.as_ref().map(Identity::key);
        actions.extend(key.map(|key| Action::Put { key, at, state, expected: None }));
        actions
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
