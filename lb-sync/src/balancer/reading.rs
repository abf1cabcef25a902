//! What HAProxy is asked for, and what its answers mean: all of its state, or what a round has touched.
//!
//! A [`Reading`] is a queue of questions. [`Reading::request`] takes the next of them out as commands,
//! [`Reading::answers`] folds their answers into [`Observed`], until [`Reading::is_done`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use registry::name::{InstanceId, ServiceName};
use registry::time::Tick;

use crate::plan::names::backend_name;
use crate::plan::observed::{Observed, RoutesMap, Touched};
use haproxy::answer::AnswerError;
use haproxy::answer::backends::Backends;
use haproxy::answer::maps;
use haproxy::answer::servers_state::ServersState;
use haproxy::answer::stat::{self, StatRow};
use haproxy::{BackendId, Command, MapId, ServerId};

/// Questions in one request; each answer is some hundred bytes a server.
const READS_MAX: usize = 200;

/// Up to so many servers of any backend are read one by one: that also tells what is in flight.
const ALONE_MIN: usize = 6;
/// What HAProxy takes for one server alone: its long answer, and the way to it along the backend's list (2.6).
const ALONE_NS: usize = 25_000;
const PASSED_NS: usize = 20;
/// What a row of the whole state takes, here as well, and a row of the whole statistics.
const STATE_ROW_NS: usize = 2_500;
const STAT_ROW_NS: usize = 5_000;

/// Up to how many servers of a backend that has `servers` are read one by one, where a row of all of them takes `row_ns`.
fn alone_max(servers: usize, row_ns: usize) -> usize {
    (servers * row_ns / (ALONE_NS + servers * PASSED_NS)).max(ALONE_MIN)
}

/// One question.
#[derive(Clone, Debug)]
enum Read {
    /// Every backend, server and map.
    Everything,
    /// One server's row.
    Server(BackendId, Touched),
    /// One backend's servers.
    Backend(ServiceName),
    /// The names on a service's restarting map.
    RestartingMap(ServiceName, MapId),
    /// The routes on a map.
    RoutesMap(MapId),
    /// What is in flight on one server.
    Sessions(BackendId, ServerId, InstanceId),
    /// What is in flight on many servers of a backend.
    BackendSessions(BackendId, BTreeMap<ServerId, InstanceId>),
}

impl Read {
    fn commands(&self) -> Vec<Command> {
        match self {
            Self::Everything => {
                vec![Command::ShowBackends, Command::ShowServersState(None), Command::ShowMaps]
            }
            Self::Server(backend, Touched { number, .. }) | Self::Sessions(backend, number, _) => {
                vec![Command::ShowStatServer { backend: *backend, id: *number }]
            }
            Self::Backend(service) => vec![Command::ShowServersState(Some(backend_name(service)))],
            Self::RestartingMap(_, map) | Self::RoutesMap(map) => vec![Command::ShowMap(*map)],
            Self::BackendSessions(backend, _) => vec![Command::ShowStatServers(Some(*backend))],
        }
    }
}

/// Questions that are not answered yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    queue: VecDeque<Read>,
    asked: Vec<Read>,
    /// Everything is read anew: the answers are collected here, and replace what was observed once all are there.
    fresh: Option<Observed>,
    differences: Differences,
}

/// What a reading of whole backends has found to be other than it was known to be: it tells of every server in them, touched
/// or not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Differences {
    /// In any way but what is in flight.
    pub(crate) changed: BTreeSet<InstanceId>,
    /// By order, not by a check.
    pub(crate) edited: BTreeSet<InstanceId>,
}

impl Reading {
    /// All that HAProxy has. [`Self::into_everything`] has it at the end.
    pub(crate) fn everything() -> Self {
        Self { queue: [Read::Everything].into(), ..Self::default() }
    }

    /// What was collected by [`Self::everything`].
    pub(crate) fn into_everything(self) -> Option<Observed> {
        self.fresh
    }

    /// What was found beside what was asked for.
    pub(crate) fn into_differences(self) -> Differences {
        self.differences
    }

    /// Whether every question is answered.
    pub(crate) fn is_done(&self) -> bool {
        self.queue.is_empty() && self.asked.is_empty()
    }

    /// The next request; empty where nothing is left to ask.
    pub(crate) fn request(&mut self) -> Vec<Command> {
        let count = self.queue.len().min(READS_MAX);
        self.asked = self.queue.drain(..count).collect();
        self.asked.iter().flat_map(Read::commands).collect()
    }

    /// Takes the `answers` to the last request, which was sent at `asked_at`.
    pub(crate) fn answers(
        &mut self,
        observed: &mut Observed,
        answers: &[String],
        asked_at: Tick,
    ) -> Result<(), AnswerError> {
        let mut answers = answers.iter().map(String::as_str);
        let mut next = || answers.next().unwrap_or_default();
        for read in std::mem::take(&mut self.asked) {
            if matches!(read, Read::Everything) {
                let observed = self.take_everything(next(), next(), next())?;
                self.fresh = Some(observed);
                continue;
            }
            let into = self.fresh.as_mut().unwrap_or(observed);
            if let Some(service) = take(into, &mut self.differences, read, next(), asked_at)? {
                self.add_backend(service);
            }
        }
        Ok(())
    }

    fn take_everything(
        &mut self,
        backends: &str,
        servers: &str,
        map_list: &str,
    ) -> Result<Observed, AnswerError> {
        let mut observed = Observed::read(Backends::parse(backends)?, ServersState::parse(servers)?);
        for map in maps::list(map_list)? {
            let Ok(service) = map.backend.as_ref().parse::<ServiceName>() else { continue };
            if map.is_empty {
                observed.read_restarting(&service, map.id, vec![]);
            } else {
                self.queue.push_back(Read::RestartingMap(service, map.id));
            }
        }
        for id in maps::routes(map_list)? {
            observed.routes.push(RoutesMap { id, entries: BTreeMap::new() });
            self.queue.push_back(Read::RoutesMap(id));
        }
        Ok(observed)
    }

    /// Reads these servers anew, each by its number: alone where they are few, else with their backend.
    pub(crate) fn add_servers(&mut self, observed: &Observed, touched: Vec<Touched>) {
        let mut counts: BTreeMap<ServiceName, usize> = BTreeMap::new();
        for server in &touched {
            *counts.entry(server.id.service.clone()).or_default() += 1;
        }
        // A backend that had no server has told no number yet.
        let backend = |service: &ServiceName, count: usize| {
            observed.backends.get(service).filter(|it| count <= alone_max(it.servers.len(), STATE_ROW_NS))?.id
        };
        let alone: BTreeMap<ServiceName, Option<BackendId>> =
            counts.into_iter().map(|(service, count)| (service.clone(), backend(&service, count))).collect();
        for server in touched {
            match alone.get(&server.id.service).copied().flatten() {
                Some(backend) => self.queue.push_back(Read::Server(backend, server)),
                None => self.add_backend(server.id.service),
            }
        }
    }

    /// Reads these backends anew.
    pub(crate) fn add_backends(&mut self, services: impl IntoIterator<Item = ServiceName>) {
        services.into_iter().for_each(|service| self.add_backend(service));
    }

    fn add_backend(&mut self, service: ServiceName) {
        let same = |read: &Read| matches!(read, Read::Backend(other) if *other == service);
        // The backends of one burst follow each other: the last is the one to compare with first.
        if !self.queue.iter().rev().any(same) {
            self.queue.push_back(Read::Backend(service));
        }
    }

    /// Reads the restarting maps of these services anew, as far as HAProxy has them.
    pub(crate) fn add_restarting(&mut self, observed: &Observed, services: BTreeSet<ServiceName>) {
        let map = |service: ServiceName| {
            let id = observed.restarting.get(&service)?.id;
            Some(Read::RestartingMap(service, id))
        };
        self.queue.extend(services.into_iter().filter_map(map));
    }

    /// Reads the maps of routes anew.
    pub(crate) fn add_routes(&mut self, observed: &Observed) {
        self.queue.extend(observed.routes.iter().map(|map| Read::RoutesMap(map.id)));
    }

    /// Reads what is in flight on these servers, as far as they are known: one by one, or where they are many, with all
    /// of their backend.
    pub(crate) fn add_sessions(&mut self, observed: &Observed, ids: &[InstanceId]) {
        let mut wanted: BTreeMap<(&ServiceName, BackendId), BTreeMap<ServerId, InstanceId>> = BTreeMap::new();
        for id in ids {
            let backend = observed.backends.get(&id.service).and_then(|backend| backend.id);
            if let (Some(backend), Some(server)) = (backend, observed.server(id)) {
                wanted.entry((&id.service, backend)).or_default().insert(server.id, id.clone());
            }
        }
        for ((service, backend), servers) in wanted {
            let size = observed.backends.get(service).map_or(0, |backend| backend.servers.len());
            if servers.len() <= alone_max(size, STAT_ROW_NS) {
                self.queue
                    .extend(servers.into_iter().map(|(number, id)| Read::Sessions(backend, number, id)));
            } else {
                self.queue.push_back(Read::BackendSessions(backend, servers));
            }
        }
    }
}

/// Folds one answer in. Returns the service whose backend has to be read as a whole, where one row did not tell enough.
fn take(
    observed: &mut Observed,
    differences: &mut Differences,
    read: Read,
    answer: &str,
    asked_at: Tick,
) -> Result<Option<ServiceName>, AnswerError> {
    match read {
        Read::Everything => {}
        Read::Server(_, server) => {
            if !observed.read_server(&server, StatRow::parse(answer)?.as_ref(), asked_at) {
                return Ok(Some(server.id.service));
            }
        }
        Read::Backend(service) => {
            let state = match ServersState::parse(answer) {
                Ok(state) => Some(state),
                Err(AnswerError::NoSuchBackend) => None,
                Err(error) => return Err(error),
            };
            let before = observed.read_backend(&service, state);
            let changed = observed.news_in(&service, &before);
            differences.edited.extend(changed.iter().filter(|id| observed.is_edited(id, &before)).cloned());
            differences.changed.extend(changed);
        }
        Read::RestartingMap(service, map) => {
            differences.changed.extend(observed.read_restarting(&service, map, maps::names(answer)?));
        }
        Read::RoutesMap(id) => {
            let route = |(key, value): (&str, &str)| Some((key.parse().ok()?, value.to_owned()));
            let entries = maps::entries(answer)?.into_iter().filter_map(route).collect();
            observed
                .routes
                .iter_mut()
                .filter(|map| map.id == id)
                .for_each(|map| map.entries.clone_from(&entries));
        }
        Read::Sessions(_, _, id) => {
            if let Some(row) = StatRow::parse(answer)? {
                observed.read_sessions(&id, &row, asked_at);
            }
        }
        Read::BackendSessions(_, servers) => {
            for row in stat::rows(answer)? {
                if let Some(id) = servers.get(&row.id) {
                    observed.read_sessions(id, &row, asked_at);
                }
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_servers_are_read_alone_and_many_with_their_backend() {
        let max = |row_ns| [0, 10, 100, 1_000, 10_000].map(|servers| alone_max(servers, row_ns));
        assert_eq!(max(STATE_ROW_NS), [6, 6, 9, 55, 111]);
        assert_eq!(max(STAT_ROW_NS), [6, 6, 18, 111, 222]);
    }

    #[test]
    fn a_request_is_bounded_and_a_backend_is_asked_for_once() {
        let mut reading = Reading::default();
        let touched = |n: u32| Touched {
            id: format!("web/web-{n}").parse().unwrap(),
            number: ServerId::try_from(10_000 + n).unwrap(),
            unchecked: false,
        };
        reading.add_servers(&Observed::default(), (0..500).map(touched).collect());
        assert_eq!(reading.request(), [Command::ShowServersState(Some("web".parse().unwrap()))]);
        assert!(!reading.is_done(), "it is not answered yet");
        reading.queue.extend((0..450).map(|n| Read::RoutesMap(MapId(n))));
        let sizes: Vec<usize> = std::iter::repeat_with(|| reading.request().len()).take(4).collect();
        assert_eq!(sizes, [READS_MAX, READS_MAX, 50, 0]);
    }
}
