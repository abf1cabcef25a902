//! Routes what happens to the member that it concerns, and decides when all have left and when the lease is released.

use fastrand::Rng;
use registry::key::Prefix;
use registry::lease::LeaseStatus;
use registry::name::{InstanceName, ServiceName};
use registry::time::Tick;

use crate::member::machine::{self, Bounds, Machine, RecordStatus};
use crate::member::{Identity, MemberConfig, Registrant, Report, Status};

/// What happened. Members are named by their index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A new status of the lease.
    Lease(LeaseStatus),
    /// The lease's task has been given the member's last [`Action::Member`] put, as its command of this number.
    Queued(usize, u64),
    /// Something about one member.
    Member(usize, machine::Input),
    /// All members are to leave.
    Leave,
    /// The lease is to be revoked.
    Release,
    /// The moment of [`Members::wake_at`] has come.
    Woke,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Perform this for one member. Reports come as [`Action::Report`].
    Member(usize, machine::Action),
    /// Log a member's change.
    Report {
        /// The service of the member.
        service: ServiceName,
        /// The name of the member, once it has one.
        instance: Option<InstanceName>,
        /// The change.
        report: Report,
    },
    /// Revoke the lease, with every record under it.
    Release,
}

#[derive(Debug)]
struct Member {
    service: ServiceName,
    machine: Machine,
    /// The lease's number of our last put. `None` before the first, and while one is being queued: what the lease says
    /// then is about an earlier command.
    put: Option<u64>,
}

/// The machine of all memberships of one process.
#[derive(Debug)]
pub struct Members {
    members: Vec<Member>,
    released: bool,
}

impl Members {
    /// Starts without any record. `owner` is the random id of this process. `seed` spreads the retries of many processes.
    #[must_use]
    pub fn new(configs: &[MemberConfig], owner: &str, prefix: &Prefix, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let members = configs.iter().map(|config| {
            let registrant = Registrant {
                service: config.service.clone(),
                naming: config.naming.clone(),
                owner: owner.to_owned(),
                prefix: prefix.clone(),
            };
            let bounds = Bounds {
                leave_max: config.leave_max,
                linger: config.linger,
                inflight: config.record.drain.inflight(),
            };
            let machine = Machine::new(registrant, bounds, rng.u64(..));
            Member { service: config.service.clone(), machine, put: None }
        });
        Self { members: members.collect(), released: false }
    }

    /// When [`Input::Woke`] is due.
    #[must_use]
    pub fn wake_at(&self) -> Option<Tick> {
        self.members.iter().filter_map(|member| member.machine.wake_at()).min()
    }

    /// The status of each member, with its service.
    #[must_use]
    pub fn statuses(&self) -> Vec<(ServiceName, Status)> {
        self.members.iter().map(|member| (member.service.clone(), member.machine.status())).collect()
    }

    /// Whether no balancer is awaited any more. `true` without members.
    #[must_use]
    pub fn have_left(&self) -> bool {
        self.members.iter().all(|member| member.machine.status().left)
    }

    /// Whether the lease is revoked, or given up.
    #[must_use]
    pub fn are_released(&self) -> bool {
        self.released
    }

    /// The next actions.
    pub fn step(&mut self, now: Tick, input: Input) -> Vec<Action> {
        match input {
            Input::Lease(lease) => {
                self.released |= lease.released;
                self.step_each(now, |member| machine::Input::Record(member.record(&lease)))
            }
            Input::Queued(index, number) => {
                if let Some(member) = self.members.get_mut(index) {
                    member.put = Some(number);
                }
                vec![]
            }
            Input::Member(index, input) => match self.members.get_mut(index) {
                Some(member) => member.step(now, index, input),
                None => vec![],
            },
            Input::Leave => self.step_each(now, |_| machine::Input::Leave),
            Input::Woke => self.step_each(now, |_| machine::Input::Woke),
            // Without members there is no lease.
            Input::Release if self.members.is_empty() => {
                self.released = true;
                vec![]
            }
            Input::Release => vec![Action::Release],
        }
    }

    fn step_each(&mut self, now: Tick, input: impl Fn(&Member) -> machine::Input) -> Vec<Action> {
        let mut actions = vec![];
        for (index, member) in self.members.iter_mut().enumerate() {
            let input = input(member);
            actions.extend(member.step(now, index, input));
        }
        actions
    }
}

impl Member {
    fn record(&self, lease: &LeaseStatus) -> RecordStatus {
        let key = self.machine.identity().map(Identity::key);
        RecordStatus::of(lease, key.as_deref(), self.put)
    }

    fn step(&mut self, now: Tick, index: usize, input: machine::Input) -> Vec<Action> {
        let actions = self.machine.step(now, input);
        let name = self.machine.identity().map(|identity| identity.id.instance.clone());
        actions
            .into_iter()
            .map(|action| match action {
                machine::Action::Report(report) => {
                    Action::Report { service: self.service.clone(), instance: name.clone(), report }
                }
                action => {
                    if matches!(action, machine::Action::Put { .. }) {
                        self.put = None;
                    }
                    Action::Member(index, action)
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use registry::record::{InstanceRecord, InstanceState};

    use super::*;
    use crate::member::{AddressChoice, AppHealth, Naming};

    const NOW: Tick = Tick::from_ms(1_000);

    fn at() -> SocketAddr {
        "10.0.0.5:3000".parse().unwrap()
    }

    fn members(services: &[&str]) -> Members {
        let config = |service: &&str| MemberConfig {
            service: service.parse().unwrap(),
            naming: Naming::Is("a".parse().unwrap()),
            record: InstanceRecord::new(at().ip(), 3_000.try_into().unwrap()),
            address: AddressChoice::Auto,
            leave_max: Duration::from_mins(1),
            linger: Duration::from_secs(15),
        };
        let configs: Vec<_> = services.iter().map(config).collect();
        Members::new(&configs, "me", &Prefix::default(), 1)
    }

    fn up(index: usize) -> Input {
        Input::Member(index, machine::Input::Health(AppHealth::Up(at())))
    }

    fn lease(seq: u64) -> LeaseStatus {
        LeaseStatus { lease: Some(1), settled: true, seq, ..LeaseStatus::default() }
    }

    fn registered(members: &Members) -> Vec<bool> {
        members.statuses().iter().map(|(_, status)| status.registered).collect()
    }

    /// The member and the state of each record that is put.
    fn puts(actions: &[Action]) -> Vec<(usize, InstanceState)> {
        let put = |action: &Action| match action {
            Action::Member(index, machine::Action::Put { state, .. }) => Some((*index, *state)),
            _ => None,
        };
        actions.iter().filter_map(put).collect()
    }

    #[test]
    fn each_member_believes_the_lease_from_its_own_put_on() {
        let mut members = members(&["web", "admin"]);
        assert_eq!(puts(&members.step(NOW, up(0))), [(0, InstanceState::Up)]);
        members.step(NOW, Input::Lease(lease(9)));
        assert_eq!(registered(&members), [false, false], "the put has no number yet");
        members.step(NOW, Input::Queued(0, 10));
        members.step(NOW, Input::Lease(lease(9)));
        assert_eq!(registered(&members), [false, false], "the lease has not taken it");
        assert_eq!(puts(&members.step(NOW, up(1))), [(1, InstanceState::Up)]);
        members.step(NOW, Input::Queued(1, 11));
        members.step(NOW, Input::Lease(lease(10)));
        assert_eq!(registered(&members), [true, false]);
        members.step(NOW, Input::Lease(lease(11)));
        assert_eq!(registered(&members), [true, true]);

        let down = machine::Input::Health(AppHealth::Down("refused".into()));
        assert_eq!(puts(&members.step(NOW, Input::Member(0, down))), [(0, InstanceState::Down)]);
        members.step(NOW, Input::Lease(lease(11)));
        assert_eq!(registered(&members), [false, true], "the new put has no number yet");
    }

    #[test]
    fn a_name_that_is_taken_over_stands_only_its_own_member_down() {
        let mut members = members(&["web", "admin"]);
        for index in [0, 1] {
            members.step(NOW, up(index));
            members.step(NOW, Input::Queued(index, 2));
        }
        let superseded = ["/leasehold/v1/instances/admin/a".to_owned()].into();
        let actions = members.step(NOW, Input::Lease(LeaseStatus { superseded, ..lease(2) }));
        let report = Action::Report {
            service: "admin".parse().unwrap(),
            instance: Some("a".parse().unwrap()),
            report: Report::Superseded,
        };
        assert!(actions.contains(&report), "{actions:?}");
        let down: Vec<bool> = members.statuses().iter().map(|(_, status)| status.stood_down).collect();
        assert_eq!(down, [false, true]);
    }

    #[test]
    fn all_have_left_when_the_last_has() {
        let mut members = members(&["web", "admin"]);
        members.step(NOW, up(0));
        assert!(!members.have_left());
        assert_eq!(puts(&members.step(NOW, Input::Leave)), [(0, InstanceState::Draining)]);
        assert!(!members.have_left(), "one waits for balancers");
        members.step(members.wake_at().unwrap(), Input::Woke);
        assert!(members.have_left());
    }

    #[test]
    fn a_release_is_the_lease_s_to_confirm_and_needs_none_without_members() {
        let mut some = members(&["web"]);
        assert_eq!(some.step(NOW, Input::Release), [Action::Release]);
        assert!(!some.are_released());
        some.step(NOW, Input::Lease(LeaseStatus { released: true, ..LeaseStatus::default() }));
        some.step(NOW, Input::Lease(LeaseStatus::default()));
        assert!(some.are_released(), "nothing comes after a release");
        let mut none = members(&[]);
        assert!(none.have_left());
        assert_eq!(none.step(NOW, Input::Release), []);
        assert!(none.are_released());
    }
}
