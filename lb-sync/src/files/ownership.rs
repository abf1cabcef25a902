//! Which files are ours to write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use registry::name::ServiceName;

use super::desired::{Desired, Presence, Section};

/// Most sections that are kept: more services than one HAProxy is made for.
const SECTIONS_MAX: usize = 4_096;

/// A file of the name that a service's section has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Written by lb-sync, or empty, which hands the section over; with what is in it.
    Ours(String),
    /// Written by others.
    Theirs,
}

/// What to write, and what not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ownership {
    /// Sections to render.
    pub(super) render: BTreeMap<ServiceName, Arc<Section>>,
    /// Backends with servers of ours, written by hand: a reload would take their members away until the next pass.
    pub(super) by_hand: BTreeSet<ServiceName>,
    /// New services for which there is no more room.
    pub(super) too_many: usize,
}

/// A section that is ours already stays ours; a service that HAProxy has no backend for gets one; a backend that
/// HAProxy has and that is in no file of ours was written by hand, and a second one of its name would break the whole
/// configuration.
pub(super) fn ownership(desired: &Desired, found: &BTreeMap<ServiceName, Found>) -> Ownership {
    let mut ownership = Ownership::default();
    let ours = |service: &ServiceName| matches!(found.get(service), Some(Found::Ours(_)));
    for service in found.keys().filter(|service| ours(service)) {
        // A service that is gone: an empty section, since a frontend may name it.
        let section = desired.sections.get(service).cloned().unwrap_or_else(|| Arc::new(Section::empty()));
        ownership.render.insert(service.clone(), section);
    }
    for (service, section) in &desired.sections {
        match (found.get(service), section.presence) {
            (Some(Found::Ours(_)), _) => {}
            (_, Presence::Present { ours: true }) => {
                ownership.by_hand.insert(service.clone());
            }
            (None, Presence::Absent | Presence::Made) if section.serves() => {
                if ownership.render.len() < SECTIONS_MAX {
                    ownership.render.insert(service.clone(), Arc::clone(section));
                } else {
                    ownership.too_many += 1;
                }
            }
            _ => {}
        }
    }
    ownership
}

impl Section {
    /// Of a service that neither the registry nor HAProxy has.
    pub(super) fn empty() -> Self {
        Self { lines: Vec::new(), presence: Presence::Unknown }
    }

    /// Whether a server of it takes traffic.
    pub(super) fn serves(&self) -> bool {
        self.lines.iter().any(|line| !line.disabled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::desired::Line;

    fn section(presence: Presence, servers: u16) -> Arc<Section> {
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

    fn names<'a>(services: impl Iterator<Item = &'a ServiceName>) -> Vec<&'a str> {
        services.map(ServiceName::as_str).collect()
    }

    #[test]
    fn a_backend_is_never_written_twice() {
        let (here, away) = (Presence::Present { ours: true }, Presence::Absent);
        let sections = [
            ("by-hand", section(here, 1)),
            ("empty-by-hand", section(Presence::Present { ours: false }, 0)),
            ("theirs", section(away, 1)),
            ("new", section(away, 1)),
            ("unready", section(away, 0)),
            ("unknown", section(Presence::Unknown, 1)),
            ("kept", section(here, 1)),
        ];
        let sections = sections.map(|(name, it)| (name.parse().unwrap(), it)).into();
        let found = [
            ("theirs", Found::Theirs),
            ("kept", Found::Ours("# …".into())),
            ("gone", Found::Ours(String::new())),
        ];
        let found = found.map(|(name, it)| (name.parse().unwrap(), it)).into();
        let ownership = ownership(&Desired { complete: true, sections, ..Desired::default() }, &found);
        assert_eq!(names(ownership.render.keys()), ["gone", "kept", "new"]);
        assert_eq!(names(ownership.by_hand.iter()), ["by-hand"]);
    }
}
