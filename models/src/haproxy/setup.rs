//! What an HAProxy is started with: version, configuration, and the files that lb-sync writes.

use std::collections::BTreeMap;

/// Versions with differences that matter here. Each stands for the Debian package that the others of its line were
/// compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// Debian 12: 2.6.12.
    V2_6,
    /// Debian 13: 3.0.11.
    V3_0,
    /// Debian sid: 3.2.26.
    V3_2,
}

impl Version {
    /// As `show info` says it.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::V2_6 => "2.6.12-1+deb12u4",
            Self::V3_0 => "3.0.11-1+deb13u4",
            Self::V3_2 => "3.2.26-1",
        }
    }

    /// An idle pooled connection to a server holds it up: `del server` is refused (`cli_parse_delete_server` looks at
    /// `curr_idle_conns`). Later versions close it.
    #[must_use]
    pub const fn pooled_connections_block(self) -> bool {
        matches!(self, Self::V2_6)
    }

    /// `set server … addr` takes effect after the write that it came with: what follows in the same write sees the old
    /// address.
    #[must_use]
    pub const fn moves_later(self) -> bool {
        !matches!(self, Self::V2_6)
    }

    /// A request that `shutdown sessions server` cuts is asked of another server, where the backend retries on an empty
    /// response and the request allows it.
    #[must_use]
    pub const fn asks_again_after_shutdown(self) -> bool {
        matches!(self, Self::V2_6)
    }

    /// `add server` takes `init-state` (3.1 and newer).
    #[must_use]
    pub const fn has_init_state(self) -> bool {
        matches!(self, Self::V3_2)
    }

    /// A weight that is set in MAINT shows in `show stat` at once (`srv_update_status` commits always); 2.6 shows it
    /// once the server leaves MAINT.
    pub(super) const fn commits_in_maint(self) -> bool {
        !matches!(self, Self::V2_6)
    }
}

/// A backend section of the administrator's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSetup {
    /// Its name.
    pub name: String,
    /// Clients stick to a server by the name in their cookie (`use-server` of the default template).
    pub cookie: bool,
    /// The section asks a restarting map (`NAME.restarting.map`).
    pub restarting_map: bool,
    /// Checks are HTTP requests (`option httpchk`), otherwise connections: what a check's result is called.
    pub http_check: bool,
    /// Servers that the administrator has configured, as `server` lines. One without `id` gets the lowest free number
    /// from 1 on.
    pub servers: Vec<String>,
}

impl BackendSetup {
    /// A backend as the default template has it, without servers.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            cookie: true,
            restarting_map: true,
            http_check: false,
            servers: Vec::new(),
        }
    }
}

/// The files of lb-sync that a start reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// By backend: its section. Only the lines that begin with `server` are read. A backend that the configuration does
    /// not have is made.
    pub sections: BTreeMap<String, String>,
    /// By file name (`routes.map`, `web.restarting.map`): keys and values, one pair a line.
    pub maps: BTreeMap<String, String>,
}

/// Which process id a new worker gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pid {
    /// Another one.
    Fresh,
    /// The one that the last worker had, as in a container.
    Same,
}

/// What does not change with a reload.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) version: Version,
    pub(super) backends: Vec<BackendSetup>,
    pub(super) routes_map: bool,
}

impl Setup {
    /// The sections that a start on `files` has: the configured ones first.
    pub(super) fn sections(&self, files: &Files) -> Vec<BackendSetup> {
        let mut all = self.backends.clone();
        for (name, text) in &files.sections {
            let servers =
                text.lines().map(str::trim).filter(|line| line.starts_with("server ")).map(Into::into);
            match all.iter_mut().find(|backend| backend.name == *name) {
                Some(backend) => backend.servers.extend(servers),
                None => all.push(BackendSetup { servers: servers.collect(), ..BackendSetup::named(name) }),
            }
        }
        all
    }
}
