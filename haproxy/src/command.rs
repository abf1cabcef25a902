//! The commands that may be sent to HAProxy. Only parsed values go in, so that what comes out is one line of one command.

use std::fmt;

use super::route::Route;
use super::{
    BackendId, BackendName, InitialWeight, MapId, ServerAddr, ServerId, ServerOptions, ServerPath,
    ServerWeight,
};

/// Longest line a [`Command`] renders to, in bytes, without the newline. A line must fit into HAProxy's `tune.bufsize`
/// (16,384 bytes unless changed), and far smaller buffers are in use.
pub const MAX_LINE: usize = 512;

/// One command for HAProxy's runtime socket. `Display` gives its line, without the newline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Makes a server. It starts in MAINT, unchecked: [`Command::EnableHealth`] (where it has a check) and then
    /// [`ServerState::Ready`] put it into service.
    AddServer {
        /// Where, and under what name.
        server: ServerPath,
        /// Always explicit: on 2.6 `random` and consistent hashing give no traffic to a server without one (#3413).
        id: ServerId,
        /// Where it listens.
        addr: ServerAddr,
        /// Its share. Never 0: see [`InitialWeight`].
        weight: InitialWeight,
        /// Checks and slow start.
        options: ServerOptions,
    },
    /// Starts the checks that a server was made with.
    EnableHealth {
        /// Which server.
        server: ServerPath,
    },
    /// Takes a checked server for down until as many checks have passed as it was made with (`rise`). In MAINT or before
    /// its checks are started it has no effect (seen on 2.6, 3.0 and 3.2): it comes last.
    HealthDown {
        /// Which server.
        server: ServerPath,
    },
    /// Sets the administrative state.
    SetState {
        /// Which server.
        server: ServerPath,
        /// The new state.
        state: ServerState,
    },
    /// Moves a server: its name, id and cookie stay, requests in flight finish at the old address. On 2.6 this also drops
    /// its idle pooled connections, which otherwise hold up [`Command::DelServer`].
    SetAddr {
        /// Which server.
        server: ServerPath,
        /// Where it listens from now on.
        addr: ServerAddr,
    },
    /// Sets the share.
    SetWeight {
        /// Which server.
        server: ServerPath,
        /// The new share.
        weight: ServerWeight,
    },
    /// Deletes a server that is in MAINT and has no connection.
    DelServer {
        /// Which server.
        server: ServerPath,
    },
    /// Ends all streams of a server: their clients see an error.
    ShutdownSessions {
        /// Which server.
        server: ServerPath,
    },
    /// Lists a server's name in its backend's restarting map: its clients keep their cookie while others serve them. Twice
    /// the same name makes two entries.
    AddToMap {
        /// Which map.
        map: MapId,
        /// Whose name.
        server: ServerPath,
    },
    /// Takes the name off the map again, every entry of it.
    DelFromMap {
        /// Which map.
        map: MapId,
        /// Whose name.
        server: ServerPath,
    },
    /// Leads a route to a backend. Twice the same route makes two entries.
    AddRoute {
        /// Which map.
        map: MapId,
        /// Which requests.
        route: Route,
        /// Where they go.
        backend: BackendName,
    },
    /// Leads a route that the map has elsewhere, in one step.
    SetRoute {
        /// Which map.
        map: MapId,
        /// Which requests.
        route: Route,
        /// Where they go from now on.
        backend: BackendName,
    },
    /// Takes a route off a map, every entry of it.
    DelRoute {
        /// Which map.
        map: MapId,
        /// Which requests.
        route: Route,
    },
    /// Makes a backend from a named `defaults` section (3.4 and newer). No frontend can use it before it is published.
    AddBackend {
        /// Its name.
        backend: BackendName,
        /// The section's name.
        defaults: BackendName,
    },
    /// Lets frontends use a backend (3.4 and newer).
    PublishBackend(BackendName),
    /// Asks whether a backend takes servers at run time: an `add server` without an address, which is refused whatever
    /// the backend. HAProxy names an unsuitable balance algorithm first (seen on 2.6), and no other answer names
    /// it: `show stat` names `source`, but not its `hash-type`.
    TryAdd(BackendName),
    /// Reads version, pid, stopping: [`Info`](super::answer::info::Info).
    ShowInfo,
    /// Reads the names of all backends: [`Backends`](super::answer::backends::Backends).
    ShowBackends,
    /// Reads the servers of one backend or of all: [`ServersState`](super::answer::servers_state::ServersState).
    ShowServersState(Option<BackendName>),
    /// Reads which maps there are: [`maps::list`](super::answer::maps::list).
    ShowMaps,
    /// Reads the names in one: [`maps::names`](super::answer::maps::names).
    ShowMap(MapId),
    /// Reads the counters of all servers, of one backend or of all: [`rows`](super::answer::stat::rows),
    /// [`counters`](super::answer::stat::counters).
    ShowStatServers(Option<BackendId>),
    /// Reads one server's counters: [`StatRow`](super::answer::stat::StatRow).
    ///
    /// The backend is named by its number, since by name HAProxy may take a frontend of that name and answer with
    /// nothing (seen on 2.6), and takes an all-digits name for a number.
    ShowStatServer {
        /// The backend's number, from `show servers state`.
        backend: BackendId,
        /// The server's number.
        id: ServerId,
    },
}

/// The administrative state that [`Command::SetState`] sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerState {
    /// In service.
    Ready,
    /// Out of balancing; persistent clients still come, checks go on.
    Drain,
    /// No traffic and no checks; requests in flight finish.
    Maint,
}

impl fmt::Display for ServerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maint => "maint",
        })
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddServer { server, id, addr, weight, options } => {
                write!(f, "add server {server} {addr} id {id} weight {weight} {options}")
            }
            Self::EnableHealth { server } => write!(f, "enable health {server}"),
            Self::HealthDown { server } => write!(f, "set server {server} health down"),
            Self::SetState { server, state } => write!(f, "set server {server} state {state}"),
            // The address stands alone here: brackets are for where a port follows.
            Self::SetAddr { server, addr } => {
                write!(f, "set server {server} addr {} port {}", addr.ip(), addr.port())
            }
            Self::SetWeight { server, weight } => write!(f, "set server {server} weight {weight}"),
            Self::DelServer { server } => write!(f, "del server {server}"),
            Self::ShutdownSessions { server } => write!(f, "shutdown sessions server {server}"),
            // The value says nothing: the template asks whether the key is there.
            Self::AddToMap { map, server } => write!(f, "add map {map} {} 1", server.server),
            Self::DelFromMap { map, server } => write!(f, "del map {map} {}", server.server),
            Self::AddRoute { map, route, backend } => write!(f, "add map {map} {route} {backend}"),
            Self::SetRoute { map, route, backend } => write!(f, "set map {map} {route} {backend}"),
            Self::DelRoute { map, route } => write!(f, "del map {map} {route}"),
            Self::AddBackend { backend, defaults } => write!(f, "add backend {backend} from {defaults}"),
            Self::PublishBackend(backend) => write!(f, "publish backend {backend}"),
            Self::TryAdd(backend) => write!(f, "add server {backend}/lb-sync.check"),
            Self::ShowInfo => f.write_str("show info"),
            Self::ShowBackends => f.write_str("show backend"),
            Self::ShowServersState(None) => f.write_str("show servers state"),
            Self::ShowServersState(Some(backend)) => write!(f, "show servers state {backend}"),
            Self::ShowMaps => f.write_str("show map"),
            Self::ShowMap(map) => write!(f, "show map {map}"),
            Self::ShowStatServers(None) => f.write_str("show stat -1 4 -1"),
            Self::ShowStatServers(Some(backend)) => write!(f, "show stat {backend} 4 -1"),
            // 4 is the type "server" (`STATS_TYPE_SV`).
            Self::ShowStatServer { backend, id } => write!(f, "show stat {backend} 4 {id}"),
        }
    }
}

impl Command {
    /// What kind of command this is: a label for logs and metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::AddServer { .. } => "add_server",
            Self::EnableHealth { .. } => "enable_health",
            Self::HealthDown { .. } => "health_down",
            Self::SetState { .. } => "set_state",
            Self::SetAddr { .. } => "set_addr",
            Self::SetWeight { .. } => "set_weight",
            Self::DelServer { .. } => "del_server",
            Self::ShutdownSessions { .. } => "shutdown_sessions",
            Self::AddToMap { .. } => "add_map",
            Self::DelFromMap { .. } => "del_map",
            Self::AddRoute { .. } => "add_route",
            Self::SetRoute { .. } => "set_route",
            Self::DelRoute { .. } => "del_route",
            Self::AddBackend { .. } => "add_backend",
            Self::PublishBackend(_) => "publish_backend",
            Self::TryAdd(_) => "try_add",
            Self::ShowInfo => "show_info",
            Self::ShowBackends => "show_backend",
            Self::ShowServersState(_) => "show_servers_state",
            Self::ShowMaps | Self::ShowMap(_) => "show_map",
            Self::ShowStatServer { .. } | Self::ShowStatServers(_) => "show_stat",
        }
    }

    /// The server that the command changes, or whose clients it concerns; `None` for those that concern no one
    /// server, or only read.
    #[must_use]
    pub const fn changes(&self) -> Option<&ServerPath> {
        match self {
            Self::AddServer { server, .. }
            | Self::EnableHealth { server }
            | Self::HealthDown { server }
            | Self::SetState { server, .. }
            | Self::SetAddr { server, .. }
            | Self::SetWeight { server, .. }
            | Self::DelServer { server }
            | Self::ShutdownSessions { server }
            | Self::AddToMap { server, .. }
            | Self::DelFromMap { server, .. } => Some(server),
            Self::AddRoute { .. }
            | Self::SetRoute { .. }
            | Self::DelRoute { .. }
            | Self::AddBackend { .. }
            | Self::PublishBackend(_)
            | Self::TryAdd(_)
            | Self::ShowInfo
            | Self::ShowBackends
            | Self::ShowServersState(_)
            | Self::ShowMaps
            | Self::ShowMap(_)
            | Self::ShowStatServers(_)
            | Self::ShowStatServer { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests;
