//! Which host and path leads to which service, by the `route` labels of its instances.
//!
//! A frontend asks the map (docs/files.md has its lines), so that a new service is reachable without an edit of
//! HAProxy's configuration. Of two services that want one route, the one that registered it first has it.

use std::collections::{BTreeMap, BTreeSet};

use registry::name::ServiceName;
use registry::record::ROUTE_LABEL;

use super::names::backend_name;
use super::observed::Observed;
use crate::view::View;
use haproxy::Command;
use haproxy::route::Route;

/// Most routes in all.
const ROUTES_MAX: usize = 10_000;

/// Routes, and the service that each leads to.
pub type Routes = BTreeMap<Route, ServiceName>;

/// What the registry says of routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claimed {
    /// Those that are in force.
    pub routes: Routes,
    /// What was not taken, and why, for the log.
    pub ignored: BTreeSet<String>,
}

/// By the labels of all instances.
#[must_use]
pub fn claimed(view: &View) -> Claimed {
    let mut claimed = Claimed::default();
    let mut since: BTreeMap<Route, (i64, ServiceName)> = BTreeMap::new();
    for (id, registered) in view.instances() {
        let Some(label) = registered.record.labels.get(ROUTE_LABEL) else { continue };
        for text in label.split([' ', ',']).filter(|text| !text.is_empty()) {
            let route: Route = match text.parse() {
                Ok(route) => route,
                Err(error) => {
                    claimed.ignored.insert(format!("the route {text:?} of {id} is ignored: {error}"));
                    continue;
                }
            };
            let claim = (registered.create_revision, id.service.clone());
            let full = since.len() >= ROUTES_MAX;
            match since.get_mut(&route) {
                Some(first) => {
                    let (later, earlier) = (first.clone().max(claim.clone()), first.clone().min(claim));
                    if later.1 != earlier.1 {
                        claimed.ignored.insert(format!(
                            "the route {route} leads to {}, which registered it first, and not to {}",
                            earlier.1, later.1
                        ));
                    }
                    *first = earlier;
                }
                None if !full => {
                    since.insert(route, claim);
                }
                None => {
                    claimed
                        .ignored
                        .insert(format!("there are more than {ROUTES_MAX} routes: some are ignored"));
                }
            }
        }
    }
    claimed.routes = since.into_iter().map(|(route, (_, service))| (route, service)).collect();
    claimed
}

/// What is to be told to each map of routes that HAProxy has. A route to a backend that is not there would hide a
/// shorter one that leads somewhere: it waits for its backend. While the view may be out of date, routes are added only.
#[must_use]
pub fn difference(routes: &Routes, observed: &Observed, in_sync: bool) -> Vec<Command> {
    let mut commands = Vec::new();
    let there = |service: &ServiceName| observed.backends.contains_key(service);
    for map in &observed.routes {
        for (route, service) in routes.iter().filter(|(_, service)| there(service)) {
            let (route, backend) = (route.clone(), backend_name(service));
            match map.entries.get(&route) {
                None => commands.push(Command::AddRoute { map: map.id, route, backend }),
                Some(is) if is != service.as_str() && in_sync => {
                    commands.push(Command::SetRoute { map: map.id, route, backend });
                }
                Some(_) => {}
            }
        }
        let wanted = |route: &Route| routes.get(route).is_some_and(there);
        let gone = map.entries.keys().filter(|route| in_sync && !wanted(route));
        commands.extend(gone.map(|route| Command::DelRoute { map: map.id, route: route.clone() }));
    }
    commands
}

#[cfg(test)]
mod tests {
    use registry::follow::{Entry, Event};
    use registry::key::Prefix;
    use registry::time::Tick;

    use super::*;
    use crate::plan::observed::{Backend, RoutesMap};
    use haproxy::MapId;

    fn view(instances: &[(&str, i64, &str)]) -> View {
        let mut view = View::new(Prefix::default());
        let entry = |(id, revision, route): &(&str, i64, &str)| Entry {
            key: format!("/leasehold/v1/instances/{id}").into_bytes(),
            value: format!(
                r#"{{"address":"10.0.0.5","port":{},"labels":{{"route":"{route}"}}}}"#,
                3_000 + revision
            )
            .into_bytes(),
            lease: 0,
            create_revision: *revision,
            mod_revision: *revision,
        };
        let entries = instances.iter().map(entry).collect();
        view.fold_instances(Tick::default(), Event::Listed { cluster: 1, revision: 9, entries });
        view
    }

    fn observed(backends: &[&str], entries: &[(&str, &str)]) -> Observed {
        let mut observed = Observed::default();
        for name in backends {
            observed.backends.insert(name.parse().unwrap(), Backend::default());
        }
        let entries = entries.iter().map(|(route, to)| (route.parse().unwrap(), (*to).to_owned())).collect();
        observed.routes.push(RoutesMap { id: MapId(3), entries });
        observed
    }

    fn lines(commands: &[Command]) -> Vec<String> {
        commands.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn who_registers_a_route_first_has_it() {
        let claimed = claimed(&view(&[
            ("api/a", 5, "shop.example, /api"),
            ("web/a", 7, "/api"),
            ("web/b", 3, "/static"),
            ("web/c", 4, "route!"),
        ]));
        let routes: Vec<String> =
            claimed.routes.iter().map(|(route, service)| format!("{route} {service}")).collect();
        assert_eq!(routes, ["/api/ api", "/static/ web", "shop.example/ api"]);
        let ignored: Vec<&str> = claimed.ignored.iter().map(String::as_str).collect();
        assert_eq!(ignored.len(), 2, "{ignored:?}");
        assert!(ignored.contains(&"the route /api/ leads to api, which registered it first, and not to web"));
    }

    #[test]
    fn the_difference_adds_corrects_and_removes_and_then_there_is_none() {
        let routes =
            claimed(&view(&[("api/a", 5, "/api"), ("web/a", 7, "/ /new"), ("gone/a", 8, "/gone")])).routes;
        let before =
            observed(&["api", "web"], &[("/api", "web"), ("/old", "web"), ("/gone", "gone"), ("/", "web")]);
        let commands = lines(&difference(&routes, &before, true));
        assert_eq!(
            commands,
            ["set map #3 /api/ api", "add map #3 /new/ web", "del map #3 /gone/", "del map #3 /old/"]
        );
        assert_eq!(lines(&difference(&routes, &before, false)), ["add map #3 /new/ web"]);
        let after = observed(&["api", "web"], &[("/api", "api"), ("/new", "web"), ("/", "web")]);
        assert_eq!(difference(&routes, &after, true), []);
    }
}
