//! Decides the life of a registration: what the app says becomes the member's health, and a leave ends in a release.

use std::net::SocketAddr;

use registry::time::Tick;

use crate::member::{AppHealth, Status, machine};
use crate::members::{Action, Input as MembersInput, Members};

/// What happened.
#[derive(Debug)]
pub(super) enum Input {
    /// An input of the members.
    Members(MembersInput),
    /// The address of the app was found.
    Located(SocketAddr),
    /// The app says that it is healthy, or why it is not.
    App(Result<(), String>),
    /// The app wants to leave in order.
    Leave,
    /// The app gives the registration up.
    GiveUp,
}

/// The machine of one registration: the only member of [`Members`].
pub(super) struct Machine {
    members: Members,
    /// `None` until the address is found.
    at: Option<SocketAddr>,
    app: Result<(), String>,
    leaving: bool,
    releasing: bool,
}

impl Machine {
    /// Starts with an app that is healthy.
    pub(super) fn new(members: Members) -> Self {
        Self { members, at: None, app: Ok(()), leaving: false, releasing: false }
    }

    /// When an input of [`MembersInput::Woke`] is due.
    pub(super) fn wake_at(&self) -> Option<Tick> {
        self.members.wake_at()
    }

    /// The status of the member.
    pub(super) fn status(&self) -> Option<Status> {
        self.members.statuses().pop().map(|(_, status)| status)
    }

    /// Whether the registration has ended.
    pub(super) fn is_over(&self) -> bool {
        self.members.are_released()
    }

    /// The next actions.
    pub(super) fn step(&mut self, now: Tick, input: Input) -> Vec<Action> {
        let mut actions = match input {
            Input::Members(input) => self.members.step(now, input),
            Input::Located(at) => {
                self.at = Some(at);
                self.update_health(now)
            }
            Input::App(app) => {
                self.app = app;
                self.update_health(now)
            }
            Input::Leave => {
                self.leaving = true;
                self.members.step(now, MembersInput::Leave)
            }
            Input::GiveUp => self.release(now),
        };
        if self.leaving && self.members.have_left() {
            actions.extend(self.release(now));
        }
        actions
    }

    fn update_health(&mut self, now: Tick) -> Vec<Action> {
        let Some(at) = self.at else { return vec![] };
        let health = match &self.app {
            Ok(()) => AppHealth::Up(at),
            Err(why) => AppHealth::Down(why.clone()),
        };
        self.members.step(now, MembersInput::Member(0, machine::Input::Health(health)))
    }

    fn release(&mut self, now: Tick) -> Vec<Action> {
        if std::mem::replace(&mut self.releasing, true) {
            return vec![];
        }
        self.members.step(now, MembersInput::Release)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use registry::key::Prefix;
    use registry::lease::LeaseStatus;
    use registry::record::{InstanceRecord, InstanceState};

    use super::*;
    use crate::member::{AddressChoice, MemberConfig, Naming};

    const NOW: Tick = Tick::from_ms(1_000);
    const LEAVE_MAX: Duration = Duration::from_mins(1);

    fn at() -> SocketAddr {
        "10.0.0.5:3000".parse().unwrap()
    }

    fn machine() -> Machine {
        let config = MemberConfig {
            service: "web".parse().unwrap(),
            naming: Naming::Is("web-1".parse().unwrap()),
            record: InstanceRecord::new(at().ip(), 3_000.try_into().unwrap()),
            address: AddressChoice::Auto,
            leave_max: LEAVE_MAX,
            linger: Duration::from_secs(15),
        };
        Machine::new(Members::new(&[config], "me", &Prefix::default(), 1))
    }

    /// The states of the records that are put.
    fn puts(actions: &[Action]) -> Vec<InstanceState> {
        let put = |action: &Action| match action {
            Action::Member(0, machine::Action::Put { state, .. }) => Some(*state),
            _ => None,
        };
        actions.iter().filter_map(put).collect()
    }

    fn releases(actions: &[Action]) -> usize {
        actions.iter().filter(|action| **action == Action::Release).count()
    }

    fn woke() -> Input {
        Input::Members(MembersInput::Woke)
    }

    #[test]
    fn what_the_app_says_counts_once_its_address_is_known() {
        let mut machine = machine();
        assert_eq!(machine.step(NOW, Input::App(Err("warming up".into()))), []);
        assert_eq!(puts(&machine.step(NOW, Input::Located(at()))), [], "it is not healthy");
        assert_eq!(puts(&machine.step(NOW, Input::App(Ok(())))), [InstanceState::Up]);
        assert_eq!(puts(&machine.step(NOW, Input::App(Err("full".into())))), [InstanceState::Down]);
    }

    #[test]
    fn a_leave_ends_in_one_release_at_its_deadline_at_the_latest() {
        let mut machine = machine();
        machine.step(NOW, Input::Located(at()));
        let actions = machine.step(NOW, Input::Leave);
        assert_eq!((puts(&actions), releases(&actions)), (vec![InstanceState::Draining], 0));
        let due = machine.wake_at().unwrap();
        assert_eq!(due, NOW.plus(LEAVE_MAX));
        assert_eq!(releases(&machine.step(due, woke())), 1);
        assert_eq!(releases(&machine.step(due, woke())), 0);
        assert!(!machine.is_over());
        let released = LeaseStatus { released: true, ..LeaseStatus::default() };
        machine.step(due, Input::Members(MembersInput::Lease(released)));
        assert!(machine.is_over());
    }

    #[test]
    fn a_registration_that_never_stood_is_released_at_once() {
        assert_eq!(machine().step(NOW, Input::Leave), [Action::Release]);
    }

    #[test]
    fn giving_up_releases_without_a_wait_also_during_a_leave() {
        let mut machine = machine();
        machine.step(NOW, Input::Located(at()));
        machine.step(NOW, Input::Leave);
        assert_eq!(machine.step(NOW, Input::GiveUp), [Action::Release]);
        assert_eq!(machine.step(NOW, Input::GiveUp), []);
    }
}
