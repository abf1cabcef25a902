//! What the files should say: the servers that HAProxy has of ours, and those that it is about to have.
//!
//! A HAProxy that starts from these files serves the instances that it served before, from its first request, and none
//! that was leaving. Where the registry and HAProxy differ, a pass is about to settle it, or must not: an instance that HAProxy
//! serves and the registry has lost (a suspect, a refused removal) stays.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use registry::name::{InstanceId, InstanceName, ServiceName};
use registry::record::Intent;

use crate::plan::Policy;
use crate::plan::ids::Ids;
use crate::plan::observed::{Observed, Server};
use crate::plan::routes::Routes;
use crate::plan::target::{Target, target};
use crate::view::View;
use haproxy::{ServerAddr, ServerId, ServerOptions, ServerWeight};

/// What the files should say, for every service that the registry or HAProxy has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// It has been drawn up: before, nothing is known.
    pub(super) complete: bool,
    /// Its number: later ones are higher.
    pub(super) drawing: u64,
    /// The writer's last request for the latest that it answers.
    pub(super) answers: u64,
    /// The worker that is to be replaced by one that starts from the files.
    pub(super) replace: Option<u32>,
    pub(super) sections: BTreeMap<ServiceName, Arc<Section>>,
    /// For the map of routes.
    pub(super) routes: Arc<Routes>,
}

impl Desired {
    /// Its number: later ones are higher.
    #[must_use]
    pub fn drawing(&self) -> u64 {
        self.drawing
    }

    /// The `server` lines, each with its service.
    pub fn lines(&self) -> impl Iterator<Item = (&ServiceName, String)> {
        self.sections
            .iter()
            .flat_map(|(service, section)| section.lines.iter().map(move |line| (service, line.to_string())))
    }
}

/// One backend's servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Section {
    /// By name.
    pub(super) lines: Vec<Line>,
    /// Whether HAProxy has the backend.
    pub(super) presence: Presence,
}

/// Whether HAProxy has a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// HAProxy does not answer.
    Unknown,
    /// It has not.
    Absent,
    /// lb-sync had it made while HAProxy runs: in no file yet.
    Made,
    /// It has; and whether servers of ours are in it.
    Present {
        /// A restart without our file would lose servers.
        ours: bool,
    },
}

/// One `server` line. Only parsed values go in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) name: InstanceName,
    pub(super) addr: ServerAddr,
    pub(super) id: ServerId,
    /// 0 for one that drains: it keeps its sticky clients, and gets no others.
    pub(super) weight: ServerWeight,
    pub(super) options: ServerOptions,
    /// In MAINT.
    pub(super) disabled: bool,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, addr, id, weight, options, disabled } = self;
        write!(f, "server {name} {addr} id {id} weight {weight} {options}")?;
        if *disabled { f.write_str(" disabled") } else { Ok(()) }
    }
}

/// What is known when a section is drawn up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    pub(super) view: &'a View,
    /// As last read.
    pub(super) observed: &'a Observed,
    /// Whether HAProxy answers: else what was read of it is history.
    pub(super) connected: bool,
    /// Backends that lb-sync had made while HAProxy runs.
    pub(super) made: &'a BTreeSet<ServiceName>,
    /// How servers are made.
    pub(super) policy: &'a Policy,
}

impl Known<'_> {
    /// Every service that the registry or HAProxy has.
    pub(super) fn services(&self) -> impl Iterator<Item = &ServiceName> {
        let registered = self.view.instances().keys().map(|id| &id.service);
        self.observed.backends.keys().chain(registered)
    }

    /// The section of `service`; `None` if neither the registry nor HAProxy has it.
    pub(super) fn section(&self, service: &ServiceName, ids: &mut Ids) -> Option<Section> {
        let backend = self.observed.backends.get(service);
        let mut names: Vec<&InstanceName> = self.view.instances_of(service).map(|id| &id.instance).collect();
        names.extend(backend.into_iter().flat_map(|backend| backend.servers.keys()));
        names.sort_unstable();
        names.dedup();
        if names.is_empty() && backend.is_none() {
            return None;
        }
        let presence = match backend {
            _ if !self.connected => Presence::Unknown,
            None => Presence::Absent,
            Some(_) if self.made.contains(service) => Presence::Made,
            Some(backend) => {
                let ours = backend.servers.values().any(|server| ids.is_ours(server.id));
                Presence::Present { ours }
            }
        };
        let lines = names.into_iter().filter_map(|name| self.line(service, name, ids)).collect();
        Some(Section { lines, presence })
    }

    fn line(&self, service: &ServiceName, name: &InstanceName, ids: &mut Ids) -> Option<Line> {
        let id = InstanceId { service: service.clone(), instance: name.clone() };
        let server = self.observed.server(&id);
        if server.is_some_and(|server| !ids.is_ours(server.id)) {
            return None; // Not ours, and in no file of ours.
        }
        let target = target(self.view, &id);
        let is = self.standing(target.as_ref(), server)?;
        let number = server.map(|server| server.id).or_else(|| ids.id_of(&id))?;
        let addr = target.as_ref().map(|target| target.addr).or_else(|| server?.addr)?;
        let weight = match (is, &target) {
            (ServerDisposition::Drains, _) => ServerWeight::try_from(0).ok()?,
            (_, Some(target)) => target.weight.into(),
            (_, None) => server?.weight,
        };
        let slowstart_s = target.map_or(0, |target| target.slowstart_s);
        Some(Line {
            name: name.clone(),
            addr,
            id: number,
            weight,
            options: ServerOptions { check: self.policy.check, slowstart_s, ..ServerOptions::default() },
            disabled: is == ServerDisposition::Out,
        })
    }

    /// What a server should be after a restart; `None` if it should not be there.
    fn standing(&self, target: Option<&Target>, server: Option<&Server>) -> Option<ServerDisposition> {
        let goes_on = self.connected && server.is_some_and(|server| server.admin.is_ready());
        match (target.map(|target| target.intent), server) {
            // A suspect is served while HAProxy's own check passes, after a restart as before.
            (Some(Intent::Serve), _) => Some(ServerDisposition::Serves),
            (Some(Intent::Leaving | Intent::OperatorDrains), Some(server))
                if server.admin.is_drain() && !server.admin.is_maint() =>
            {
                Some(ServerDisposition::Drains)
            }
            (Some(_), Some(_)) => Some(ServerDisposition::Out),
            (Some(_) | None, None) => None,
            // Gone from the registry: not after a restart, unless HAProxy is to go on with it for now.
            (None, Some(_)) => goes_on.then_some(ServerDisposition::Serves),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ServerDisposition {
    Serves,
    Drains,
    Out,
}

#[cfg(test)]
mod tests;
