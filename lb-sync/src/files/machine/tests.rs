use proptest::prelude::*;

use super::*;
use crate::files::desired::{Line, Section};
use crate::files::ownership::ownership;

/// A directory, its HAProxy, and what goes wrong with them.
struct World {
    machine: Machine,
    now: Tick,
    disk: BTreeMap<ServiceName, Found>,
    desired: Arc<Desired>,
    /// Sections that HAProxy refuses.
    bad: Services,
    /// The administrator's own files are broken.
    base_broken: bool,
    /// What was checked last, and taken.
    taken: Texts,
    requests: WriterRequests,
    reloads: usize,
    /// HAProxy's backends: those in place at its last reload.
    backends: Services,
}

fn name(n: u8) -> ServiceName {
    format!("s-{n}").parse().unwrap()
}

fn section(servers: u16, presence: Presence) -> Arc<Section> {
    let line = |n: u16| Line {
        name: format!("i-{n}").parse().unwrap(),
        addr: std::net::SocketAddr::from(([10, 0, 0, 1], n)).try_into().unwrap(),
        id: (10_000 + u32::from(n)).try_into().unwrap(),
        weight: 100.try_into().unwrap(),
        options: haproxy::ServerOptions::default(),
        disabled: false,
    };
    Arc::new(Section { lines: (1..=servers).map(line).collect(), presence })
}

fn text(section: &Section) -> String {
    format!("# lb-sync keeps this file: {} servers", section.lines.len())
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = Tick::from_ms(100_000);
        Self {
            machine: Machine::new(now, Folder::open(dir.path()).unwrap(), true),
            now,
            disk: BTreeMap::new(),
            desired: Arc::default(),
            bad: Services::new(),
            base_broken: false,
            taken: Texts::new(),
            requests: WriterRequests::default(),
            reloads: 0,
            backends: Services::new(),
        }
    }

    /// What the balancer wants now: so many servers in each service.
    fn want(&mut self, servers: &BTreeMap<u8, u16>) {
        let section_of = |(n, servers): (&u8, &u16)| {
            let here = self.backends.contains(&name(*n));
            let presence = if here { Presence::Present { ours: true } } else { Presence::Absent };
            (name(*n), section(*servers, presence))
        };
        let sections = servers.iter().map(section_of).collect();
        let answers = self.requests.latest;
        self.desired = Arc::new(Desired { complete: true, answers, sections, ..Desired::default() });
    }

    /// What came of `deed`; `fails`: it could not be done.
    fn perform(&mut self, deed: Deed, fails: bool) -> Option<Input> {
        if fails && !matches!(deed, Deed::Request(_)) {
            return Some(Input::Failed("no space left on device".into()));
        }
        Some(match deed {
            Deed::Draw(desired) => {
                let scan = Scan { sections: self.disk.clone(), ..Scan::default() };
                let ownership = ownership(&desired, &scan.sections);
                let rendered =
                    ownership.render.iter().map(|(service, section)| (service.clone(), text(section)));
                let rendered = rendered.collect();
                Input::Drawn(Drawn { scan, ownership, rendered, failed: Texts::new(), routes_ours: true })
            }
            Deed::Check(_, texts) => {
                let refused = self.base_broken || texts.keys().any(|service| self.bad.contains(service));
                if !refused {
                    self.taken.clone_from(&texts);
                }
                Input::Verdict(if refused { Err(Refused("unknown keyword".into())) } else { Ok(()) })
            }
            Deed::PutInPlace(texts) => {
                for (service, text) in texts {
                    assert_eq!(self.taken.get(&service), Some(&text), "{service} was not checked");
                    self.disk.insert(service, Found::Ours(text));
                }
                Input::Placed
            }
            Deed::CheckFolder => {
                Input::Verdict(if self.base_broken { Err(Refused("broken".into())) } else { Ok(()) })
            }
            Deed::Reload => {
                self.reloads += 1;
                self.backends = self.disk.keys().cloned().collect();
                Input::Reloaded(Ok(()))
            }
            Deed::Request(requests) => {
                self.requests = requests;
                return None;
            }
        })
    }

    /// One look at what is desired, with all that follows. Deeds whose bit is set in `failures` fail.
    fn round(&mut self, mut failures: u32) {
        let mut next = self.machine.step(self.now, Input::Desired(Arc::clone(&self.desired)));
        while let Some(deed) = next {
            let input = self.perform(deed, failures & 1 == 1);
            failures >>= 1;
            next = input.and_then(|input| self.machine.step(self.now, input));
        }
    }

    /// Until nothing more happens by itself.
    fn settle(&mut self, servers: &BTreeMap<u8, u16>) {
        for _ in 0..20 {
            self.want(servers);
            self.round(0);
            self.now = self.machine.wake_at().max(self.now.plus(Duration::from_secs(1)));
        }
    }

    /// The sections that are not as they should be.
    fn wrong(&self) -> Vec<&ServiceName> {
        let right = |service: &ServiceName, section: &Section| {
            self.disk.get(service) == Some(&Found::Ours(text(section)))
        };
        let sections = self.desired.sections.iter();
        sections.filter(|(service, section)| !right(service, section)).map(|(service, _)| service).collect()
    }
}

#[test]
fn a_new_service_is_written_checked_and_brought_in_by_one_reload_on_the_latest() {
    let mut world = World::new();
    world.want(&[(1, 2)].into());
    world.round(0);
    assert_eq!((world.wrong().len(), world.reloads, world.requests.latest), (0, 0, 1), "it asks first");
    world.want(&[(1, 3)].into());
    world.round(0);
    assert_eq!((world.wrong().len(), world.reloads), (0, 1));
    world.settle(&[(1, 3)].into());
    assert_eq!(world.reloads, 1);
}

#[test]
fn a_reload_waits_for_the_latest_two_seconds_and_then_goes_on_with_the_files() {
    let mut world = World::new();
    world.want(&[(1, 2)].into());
    world.round(0);
    let until = world.machine.wake_at();
    assert_eq!(until.since(world.now), LATEST_MAX);
    world.now = until;
    // What is desired answers no request: the view is out of sync.
    world.round(0);
    assert_eq!(world.reloads, 0);
    world.settle(&[(1, 2)].into());
    assert_eq!((world.wrong().len(), world.reloads), (0, 1));
}

#[test]
fn no_section_is_written_while_the_administrator_s_own_files_are_refused() {
    let mut world = World::new();
    world.base_broken = true;
    world.settle(&[(1, 1), (2, 1)].into());
    assert_eq!((world.wrong().len(), world.reloads), (2, 0));
    world.base_broken = false;
    world.settle(&[(1, 1), (2, 1)].into());
    assert_eq!((world.wrong().len(), world.reloads), (0, 1));
}

#[test]
fn a_bulk_load_reloads_or_says_that_it_keeps_the_worker() {
    for (servers, kept) in [(u16::try_from(BULK_MIN).unwrap(), None), (3, Some(7))] {
        let mut world = World::new();
        world.settle(&[(1, servers)].into());
        let before = world.reloads;
        world.want(&[(1, servers)].into());
        Arc::get_mut(&mut world.desired).unwrap().replace = Some(7);
        world.round(0);
        assert_eq!((world.reloads - before, world.requests.kept), (usize::from(kept.is_none()), kept));
    }
}

proptest! {
    /// Whatever fails on the way, in the end every section that HAProxy takes is in place, none was placed unchecked
    /// (the world asserts that), and HAProxy has a backend for each.
    #[test]
    fn whatever_fails_the_files_come_to_what_is_desired(
        changes in prop::collection::vec((prop::collection::btree_map(0_u8..6, 0_u16..4, 0..6), any::<u32>()), 1..8),
        bad in prop::collection::btree_set(0_u8..6, 0..3),
        kept in prop::collection::btree_map(0_u8..6, 1_u16..4, 1..6),
    ) {
        let mut world = World::new();
        world.bad = bad.iter().map(|n| name(*n)).collect();
        for (servers, failures) in changes {
            world.want(&servers);
            world.round(failures);
            world.now = world.now.plus(Duration::from_millis(1_500));
        }
        world.settle(&kept);
        let wrong = world.wrong();
        prop_assert!(wrong.iter().all(|service| world.bad.contains(*service)), "{wrong:?}");
        let good = world.desired.sections.keys().filter(|service| !world.bad.contains(*service));
        for service in good {
            prop_assert!(world.backends.contains(service), "{service} was not brought in");
        }
        let reloads = world.reloads;
        world.settle(&kept);
        prop_assert_eq!(world.reloads, reloads, "at rest");
    }
}
