//! Reads what HAProxy has: all of it, or just what a pass has touched.

use std::collections::{BTreeMap, BTreeSet};

use registry::name::{InstanceId, ServiceName};
use registry::time::{Clock, Tick};

use super::PassError;
use crate::haproxy::answer::AnswerError;
use crate::haproxy::answer::backends::Backends;
use crate::haproxy::answer::info::Info;
use crate::haproxy::answer::maps;
use crate::haproxy::answer::servers_state::ServersState;
use crate::haproxy::answer::stat::{self, StatRow};
use crate::haproxy::{BackendId, BackendName, Command, Dialogue, MapId, ServerId};
use crate::plan::observed::{Observed, RoutesMap, Touched};

/// Reads in one request; each answer is some hundred bytes a server.
const READS_MAX: usize = 200;

/// Up to so many servers of any backend are read one by one: that tells what is in flight, too.
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

/// Who answers.
pub(super) async fn info(dialogue: &mut Dialogue) -> Result<Info, PassError> {
    let answers = dialogue.ask(&[Command::ShowInfo]).await?;
    Ok(Info::parse(first(&answers))?)
}

/// Who answers, and everything it has. Fails for a worker on its way out, and for a HAProxy that is too old.
pub(crate) async fn all(dialogue: &mut Dialogue) -> Result<(Info, Observed), PassError> {
    let asked =
        [Command::ShowInfo, Command::ShowBackends, Command::ShowServersState(None), Command::ShowMaps];
    let answers = dialogue.ask(&asked).await?;
    let text = |at: usize| answers.get(at).map_or("", String::as_str);
    let info = Info::parse(text(0))?;
    if info.stopping {
        return Err(PassError::Replaced);
    }
    if !info.version.at_least(2, 6) {
        return Err(PassError::TooOld(info.version));
    }
    let mut observed = Observed::read(Backends::parse(text(1))?, ServersState::parse(text(2))?);
    let mut filled = Vec::new();
    for map in maps::list(text(3))? {
        let Ok(service) = map.backend.as_ref().parse::<ServiceName>() else { continue };
        if map.is_empty {
            observed.read_restarting(service, map.id, vec![]);
        } else {
            filled.push((service, map.id));
        }
    }
    read_maps(dialogue, &filled, &mut observed).await?;
    let of_routes = maps::routes(text(3))?;
    observed.routes.extend(of_routes.into_iter().map(|id| RoutesMap { id, entries: BTreeMap::new() }));
    routes(dialogue, &mut observed).await?;
    Ok((info, observed))
}

/// Reads the restarting maps of these services anew, as far as they are known.
pub(super) async fn restarting(
    dialogue: &mut Dialogue,
    services: &BTreeSet<ServiceName>,
    observed: &mut Observed,
) -> Result<(), PassError> {
    let known = |service: &ServiceName| Some((service.clone(), observed.restarting.get(service)?.id));
    let maps: Vec<_> = services.iter().filter_map(known).collect();
    read_maps(dialogue, &maps, observed).await
}

/// Reads the maps of routes that are known anew.
pub(super) async fn routes(dialogue: &mut Dialogue, observed: &mut Observed) -> Result<(), PassError> {
    for map in &mut observed.routes {
        let answers = dialogue.ask(&[Command::ShowMap(map.id)]).await?;
        let entries = maps::entries(first(&answers))?;
        let route = |(key, value): (&str, &str)| Some((key.parse().ok()?, value.to_owned()));
        map.entries = entries.into_iter().filter_map(route).collect();
    }
    Ok(())
}

async fn read_maps(
    dialogue: &mut Dialogue,
    maps: &[(ServiceName, MapId)],
    observed: &mut Observed,
) -> Result<(), PassError> {
    for some in maps.chunks(READS_MAX) {
        let commands: Vec<Command> = some.iter().map(|(_, map)| Command::ShowMap(*map)).collect();
        let answers = dialogue.ask(&commands).await?;
        for ((service, map), answer) in some.iter().zip(&answers) {
            observed.read_restarting(service.clone(), *map, maps::names(answer)?);
        }
    }
    Ok(())
}

/// Reads these servers anew, each by its number: alone where they are few and that tells all, else with their backend.
pub(super) async fn servers(
    dialogue: &mut Dialogue,
    touched: &[Touched],
    observed: &mut Observed,
) -> Result<(), PassError> {
    let mut counts: BTreeMap<&ServiceName, usize> = BTreeMap::new();
    for server in touched {
        *counts.entry(&server.id.service).or_default() += 1;
    }
    // A backend that had no server has told no number of its own yet.
    let backend = |service: &ServiceName, count: usize| {
        observed.backends.get(service).filter(|it| count <= alone_max(it.servers.len(), STATE_ROW_NS))?.id
    };
    let known: BTreeMap<&ServiceName, _> =
        counts.iter().filter_map(|(service, count)| Some((*service, backend(service, *count)?))).collect();
    let mut whole: BTreeSet<ServiceName> = counts
        .keys()
        .filter(|service| !known.contains_key(**service))
        .map(|&service| service.clone())
        .collect();
    let alone: Vec<(&Touched, Command)> = touched
        .iter()
        .filter_map(|server| {
            let backend = *known.get(&server.id.service)?;
            Some((server, Command::ShowStatServer { backend, id: server.number }))
        })
        .collect();
    for some in alone.chunks(READS_MAX) {
        let asked_at: Tick = Clock.now();
        let answers = dialogue.ask(some.iter().map(|(_, command)| command)).await?;
        for ((server, _), answer) in some.iter().zip(&answers) {
            if !observed.read_server(server, StatRow::parse(answer)?.as_ref(), asked_at) {
                whole.insert(server.id.service.clone());
            }
        }
    }
    backends(dialogue, &whole, observed).await
}

/// Reads these backends anew.
pub(super) async fn backends(
    dialogue: &mut Dialogue,
    services: &BTreeSet<ServiceName>,
    observed: &mut Observed,
) -> Result<(), PassError> {
    let services: Vec<&ServiceName> = services.iter().collect();
    for some in services.chunks(READS_MAX) {
        let ask = |service: &&ServiceName| Command::ShowServersState(Some(BackendName::from(*service)));
        let answers = dialogue.ask(&some.iter().map(ask).collect::<Vec<_>>()).await?;
        for (service, answer) in some.iter().zip(&answers) {
            let state = match ServersState::parse(answer) {
                Ok(state) => Some(state),
                Err(AnswerError::NoSuchBackend) => None,
                Err(error) => return Err(error.into()),
            };
            observed.read_backend(service, state);
        }
    }
    Ok(())
}

/// Reads what is in flight on these servers, as far as they are still there: one by one, or where they are many, with all of
/// their backend.
pub(crate) async fn sessions(
    dialogue: &mut Dialogue,
    ids: &[InstanceId],
    observed: &mut Observed,
) -> Result<(), PassError> {
    let mut wanted: BTreeMap<(&ServiceName, BackendId), BTreeMap<ServerId, &InstanceId>> = BTreeMap::new();
    for id in ids {
        let backend = observed.backends.get(&id.service).and_then(|backend| backend.id);
        if let (Some(backend), Some(server)) = (backend, observed.server(id)) {
            wanted.entry((&id.service, backend)).or_default().insert(server.id, id);
        }
    }
    let size = |service| observed.backends.get(service).map_or(0, |backend| backend.servers.len());
    let (alone, whole): (Vec<_>, Vec<_>) = wanted
        .iter()
        .partition(|((service, _), servers)| servers.len() <= alone_max(size(service), STAT_ROW_NS));
    let alone: Vec<(&InstanceId, Command)> = alone
        .into_iter()
        .flat_map(|((_, backend), servers)| servers.iter().map(|(number, id)| (*backend, *number, *id)))
        .map(|(backend, id, instance)| (instance, Command::ShowStatServer { backend, id }))
        .collect();
    for some in alone.chunks(READS_MAX) {
        let asked_at: Tick = Clock.now();
        let answers = dialogue.ask(some.iter().map(|(_, command)| command)).await?;
        for ((id, _), answer) in some.iter().zip(&answers) {
            if let Some(row) = StatRow::parse(answer)? {
                observed.read_sessions(id, &row, asked_at);
            }
        }
    }
    for ((_, backend), servers) in whole {
        let asked_at: Tick = Clock.now();
        let answers = dialogue.ask(&[Command::ShowStatServers(Some(*backend))]).await?;
        for row in stat::rows(first(&answers))? {
            if let Some(id) = servers.get(&row.id) {
                observed.read_sessions(id, &row, asked_at);
            }
        }
    }
    Ok(())
}

fn first(answers: &[String]) -> &str {
    answers.first().map_or("", String::as_str)
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
}
