//! Steps that are planned and not carried out yet: thousands take seconds, and what is new in the meantime is planned alone.
//!
//! A step follows from what its instance should be and what its server is. While neither changes it stays right, so what
//! happens to others does not have it planned again: planning thousands at each of a hundred events would take longer
//! than carrying them out.

use std::collections::{BTreeMap, BTreeSet};

use registry::name::{InstanceName, ServiceName};

use super::{Order, Step};
use crate::scope::Scope;

/// The steps, in the order in which they are to be carried out: those of the service that has the fewest first, since
/// no service waits for thousands of steps of another; in a service, additions before removals.
#[derive(Debug, Default)]
pub struct PendingPlan {
    services: BTreeMap<ServiceName, Steps>,
    /// The services by how many steps they have.
    fewest_first: BTreeSet<(usize, ServiceName)>,
}

/// The steps of one service.
type Steps = BTreeMap<(Order, InstanceName), Step>;

impl PendingPlan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// Takes in what was planned for `scope`; what was in hand for it is out of date.
    pub fn replace(&mut self, scope: &Scope, steps: Vec<Step>) {
        match scope {
            Scope::All => *self = Self::default(),
            Scope::Only(_) if self.is_empty() => {}
            Scope::Only(ids) => {
                for id in ids {
                    self.change(&id.service, |steps| {
                        for order in Order::ALL {
                            steps.remove(&(order, id.instance.clone()));
                        }
                    });
                }
            }
        }
        for step in steps {
            let service = step.id.service.clone();
            self.change(&service, |steps| steps.insert((step.order(), step.id.instance.clone()), step));
        }
    }

    /// Takes the next steps out: as many as have at most `commands_max` commands together, but at least one.
    pub fn take(&mut self, commands_max: usize) -> Vec<Step> {
        let (mut taken, mut commands) = (Vec::new(), 0);
        while let Some((_, service)) = self.fewest_first.first().cloned() {
            let full = self.change(&service, |steps| {
                while let Some(next) = steps.first_entry() {
                    commands += next.get().commands.len();
                    if commands > commands_max && !taken.is_empty() {
                        return true;
                    }
                    taken.push(next.remove());
                }
                false
            });
            if full {
                break;
            }
        }
        taken
    }

    /// Changes the steps of `service`, and puts it where it belongs by their number.
    fn change<T>(&mut self, service: &ServiceName, change: impl FnOnce(&mut Steps) -> T) -> T {
        let mut steps = self.services.remove(service).unwrap_or_default();
        let before = steps.len();
        let changed = change(&mut steps);
        if steps.len() != before {
            self.fewest_first.remove(&(before, service.clone()));
        }
        if !steps.is_empty() {
            self.fewest_first.insert((steps.len(), service.clone()));
            self.services.insert(service.clone(), steps);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use registry::name::InstanceId;

    use super::*;
    use registry::record::Intent;

    use crate::plan::Cause;
    use crate::plan::names::server_path;
    use crate::status::Reason;
    use haproxy::{Command, ServerState};

    const UP: Cause = Cause::Status(Reason::Wanted(Intent::Serve));
    const LEAVING: Cause = Cause::Status(Reason::Wanted(Intent::Leaving));

    fn id(name: &str) -> InstanceId {
        format!("web/{name}").parse().unwrap()
    }

    fn step(name: &str, why: Cause, commands: usize) -> Step {
        let command = || Command::SetState { server: server_path(&id(name)), state: ServerState::Maint };
        Step { id: id(name), why, commands: std::iter::repeat_with(command).take(commands).collect() }
    }

    fn only(names: &[&str]) -> Scope {
        Scope::Only(names.iter().map(|name| id(name)).collect())
    }

    fn names(steps: &[Step]) -> Vec<&str> {
        steps.iter().map(|step| step.id.instance.as_str()).collect()
    }

    #[test]
    fn additions_go_first_in_bounded_requests() {
        let mut pending = PendingPlan::default();
        let steps = [("leaves", LEAVING, 1), ("b", UP, 3), ("a", UP, 3), ("c", UP, 9)];
        let steps = steps.map(|(name, why, commands)| step(name, why, commands));
        pending.replace(&only(&["a", "b", "c", "leaves"]), steps.to_vec());
        assert_eq!(names(&pending.take(6)), ["a", "b"]);
        assert_eq!(names(&pending.take(6)), ["c"], "one at least, however long");
        assert!(!pending.is_empty());
        assert_eq!(names(&pending.take(6)), ["leaves"]);
        assert!(pending.is_empty());
        assert!(pending.take(6).is_empty());
    }

    #[test]
    fn few_of_one_service_do_not_wait_for_many_of_another() {
        let mut pending = PendingPlan::default();
        let many: Vec<Step> = (0..100).map(|n| step(&format!("i-{n}"), UP, 3)).collect();
        pending.replace(&Scope::All, many);
        assert_eq!(pending.take(6).len(), 2);
        let of_another = |why| Step { id: "zebra/a".parse().unwrap(), ..step("a", why, 1) };
        pending.replace(&Scope::none(), vec![of_another(LEAVING)]);
        let next = pending.take(7);
        assert_eq!(next[0], of_another(LEAVING));
        assert_eq!(next.len(), 3, "the request is filled up");
    }

    #[test]
    fn what_is_planned_anew_replaces_what_was_in_hand() {
        let mut pending = PendingPlan::default();
        pending.replace(&only(&["a", "b"]), vec![step("a", UP, 1), step("b", UP, 1)]);
        pending.replace(&only(&["a", "c"]), vec![step("a", LEAVING, 1), step("c", UP, 1)]);
        assert_eq!(names(&pending.take(2)), ["b", "c"]);
        assert_eq!(pending.take(10), [step("a", LEAVING, 1)]);
        pending.replace(&Scope::none(), vec![step("a", UP, 1), step("b", UP, 1)]);
        pending.replace(&only(&["a"]), vec![]);
        pending.replace(&Scope::none(), vec![]);
        assert_eq!(names(&pending.take(10)), ["b"]);
        pending.replace(&Scope::none(), vec![step("a", UP, 1)]);
        pending.replace(&Scope::All, vec![]);
        assert!(pending.is_empty());
    }

    proptest! {
        #[test]
        fn every_step_is_taken_once_as_it_was_planned_last(
            rounds in prop::collection::vec((prop::collection::btree_set((0..3_usize, 0..5_usize), 0..8), 0..6_usize), 0..12)
        ) {
            let (mut pending, mut wanted) = (PendingPlan::default(), BTreeMap::new());
            for (ids, commands) in rounds {
                let ids: Vec<InstanceId> =
                    ids.iter().map(|(service, n)| format!("s-{service}/i-{n}").parse().unwrap()).collect();
                let why = if commands % 2 == 0 { UP } else { LEAVING };
                let planned = |id: &InstanceId| Step { id: id.clone(), ..step("a", why, commands) };
                let steps: Vec<Step> = ids.iter().map(planned).filter(|step| !step.commands.is_empty()).collect();
                wanted.retain(|id, _| !ids.contains(id));
                wanted.extend(steps.iter().map(|step| (step.id.clone(), step.clone())));
                pending.replace(&Scope::Only(ids.into_iter().collect()), steps);
                for step in pending.take(commands) {
                    prop_assert_eq!(wanted.remove(&step.id), Some(step));
                }
                prop_assert_eq!(pending.is_empty(), wanted.is_empty());
            }
            while !pending.is_empty() {
                for step in pending.take(1) {
                    prop_assert_eq!(wanted.remove(&step.id), Some(step));
                }
            }
            prop_assert!(wanted.is_empty());
        }
    }
}
