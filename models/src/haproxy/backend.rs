//! A backend of a worker, and its servers in HAProxy's order.

use registry::time::Tick;

use super::Version;
use super::line::{self, Line};
use super::server::Server;
use super::setup::BackendSetup;

/// A `backend` section.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    pub(super) name: String,
    /// `be_id`.
    pub(super) number: u32,
    pub(super) cookie: bool,
    pub(super) http_check: bool,
    pub(super) servers: Vec<Server>,
}

impl Backend {
    /// The section as a start reads it. A line that HAProxy would refuse is left out: it would not start on it, and
    /// lb-sync has its files checked before.
    pub(super) fn start(setup: &BackendSetup, number: u32, version: Version, now: Tick) -> Self {
        let mut backend = Self {
            name: setup.name.clone(),
            number,
            cookie: setup.cookie,
            http_check: setup.http_check,
            servers: Vec::new(),
        };
        for text in &setup.servers {
            let words: Vec<&str> = text.split_ascii_whitespace().skip(1).collect();
            if let Ok(line) = backend.parse(&words, version, now)
                && backend.position(&line.server.name).is_none()
            {
                let disabled = line.disabled;
                let mut server = backend.numbered(line);
                server.configure(disabled);
                backend.servers.push(server);
            }
        }
        backend
    }

    fn parse(&self, words: &[&str], version: Version, now: Tick) -> Result<Line, String> {
        line::parse(words, version, now, |id| {
            self.servers.iter().find(|server| server.id == id).map(|server| server.name.clone())
        })
    }

    /// Gives a server without id the lowest free one (`get_next_id`).
    fn numbered(&self, line: Line) -> Server {
        let mut server = line.server;
        if line.is_unnumbered {
            let free = (1..=u32::MAX).find(|id| self.servers.iter().all(|server| server.id != *id));
            (server.id, server.id_given) = (free.unwrap_or(u32::MAX), false);
        }
        server
    }

    /// `add server` (`cli_parse_add_server`): the id is looked at while options are read, the name after them.
    pub(super) fn add(&mut self, words: &[&str], version: Version, now: Tick) -> String {
        let line = match self.parse(words, version, now) {
            Ok(line) => line,
            Err(text) => return text,
        };
        if self.position(&line.server.name).is_some() {
            return "Already exists a server with the same name in backend.\n".into();
        }
        let mut server = self.numbered(line);
        let first = server.check.interval(true);
        server.check.start_timer(now.plus(first));
        self.servers.push(server);
        "New server registered.\n".into()
    }

    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.servers.iter().position(|server| server.name == name)
    }
}
