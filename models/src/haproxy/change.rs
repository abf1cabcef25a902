//! The commands of the runtime API, one line each, and HAProxy's words to them (`src/server.c`, `src/proxy.c`, `src/map.c`).

use std::net::{IpAddr, SocketAddr};

use registry::time::Tick;

use super::Version;
use super::server::{DRAIN, MAINT, Server};
use super::traffic::Cut;
use super::tree::Corrupt;
use super::worker::Worker;

const NO_BACKEND: &str = "No such backend.\n";
const NO_SERVER: &str = "No such server.\n";

impl Worker {
    /// The answer to one line. The error is why HAProxy crashes. Streams that the command cuts are added to `cut`.
    pub(super) fn ask(&mut self, now: Tick, line: &str, cut: &mut Vec<Cut>) -> Result<String, String> {
        self.settle(now)?;
        let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
        Ok(match words[..] {
            ["show", "info"] => self.show_info(now),
            ["show", "backend"] => self.show_backend(),
            ["show", "servers", "state"] => self.show_servers_state(now, None),
            ["show", "servers", "state", backend] => self.show_servers_state(now, Some(backend)),
            ["show", "stat", backend, "4", id] => self.show_stat(backend, id),
            ["show", "map"] => self.maps.list(),
            ["show", "map", id] => self.maps.show(id),
            ["add", "map", id, key, value] => self.maps.add(id, key, value),
            ["set", "map", id, key, value] => self.maps.set(id, key, value),
            ["del", "map", id, key] => self.maps.del(id, key),
            ["add", "server", path, ref rest @ ..] => self.add_server(now, path, rest),
            ["del", "server", path] => return self.del_server(path),
            ["set", "server", path, ref rest @ ..] => return self.set_server(now, path, rest),
            ["enable", "health", path] => self.with(path, |server| enable_health(now, server)),
            ["shutdown", "sessions", "server", path] => self.shutdown_sessions(now, path, cut),
            _ => self.unknown(&words),
        })
    }

    fn unknown(&self, words: &[&str]) -> String {
        let best = "but maybe one of the following ones is a better match:\n  help\n";
        match (self.version, words.first()) {
            (Version::V2_6, _) | (_, None) => format!("Unknown command, {best}"),
            (_, Some(first)) => format!("Unknown command: '{first}', {best}"),
        }
    }

    /// `cli_find_server`. The error is HAProxy's text.
    fn find(&self, path: &str) -> Result<(usize, usize), &'static str> {
        let Some((backend, server)) = path.split_once('/').filter(|(b, s)| !b.is_empty() && !s.is_empty())
        else {
            return Err("Require 'backend/server'.\n");
        };
        let at = self.backends.iter().position(|it| it.name == backend).ok_or(NO_BACKEND)?;
        let server = self.backends.get(at).and_then(|it| it.position(server)).ok_or(NO_SERVER)?;
        Ok((at, server))
    }

    fn server_mut(&mut self, path: &str) -> Result<&mut Server, &'static str> {
        let (backend, server) = self.find(path)?;
        let backend = self.backends.get_mut(backend).ok_or(NO_BACKEND)?;
        backend.servers.get_mut(server).ok_or(NO_SERVER)
    }

    fn with(&mut self, path: &str, act: impl FnOnce(&mut Server) -> String) -> String {
        self.server_mut(path).map_or_else(Into::into, act)
    }

    fn add_server(&mut self, now: Tick, path: &str, rest: &[&str]) -> String {
        let version = self.version;
        let text = match path.split_once('/').filter(|(_, server)| !server.is_empty()) {
            None => "Require 'backend/server'.\n".into(),
            Some((backend, server)) => match self.backends.iter_mut().find(|it| it.name == backend) {
                None => NO_BACKEND.into(),
                Some(backend) => {
                    let words: Vec<&str> = std::iter::once(server).chain(rest.iter().copied()).collect();
                    return backend.add(&words, version, now);
                }
            },
        };
        self.terse(text)
    }

    /// `add` and `del` of 2.6 end some answers without a newline.
    fn terse(&self, mut text: String) -> String {
        if self.version == Version::V2_6 {
            text.truncate(text.trim_end().len());
        }
        text
    }

    fn del_server(&mut self, path: &str) -> Result<String, String> {
        let text = match self.find(path) {
            Err(text) => text,
            Ok((backend, server)) => self.delete(backend, server).map_err(|corrupt| crash(path, corrupt))?,
        };
        Ok(self.terse(text.to_owned()))
    }

    fn delete(&mut self, backend: usize, at: usize) -> Result<&'static str, Corrupt> {
        let version = self.version;
        let Some(backend) = self.backends.get_mut(backend) else { return Ok(NO_BACKEND) };
        let Some(server) = backend.servers.get(at) else { return Ok(NO_SERVER) };
        if !server.is_maint() {
            return Ok("Only servers in maintenance mode can be deleted.\n");
        }
        if !server.can_be_deleted(version) {
            return Ok("Server still has connections attached to it, cannot remove it.\n");
        }
        server.tree.delete()?;
        backend.servers.remove(at);
        Ok("Server deleted.\n")
    }

    fn set_server(&mut self, now: Tick, path: &str, rest: &[&str]) -> Result<String, String> {
        let version = self.version;
        let server = match self.server_mut(path) {
            Ok(server) => server,
            Err(text) => return Ok(text.to_owned()),
        };
        let done = match *rest {
            ["state", "ready"] => {
                server.set_admin(now, 0, DRAIN).and_then(|()| server.set_admin(now, 0, MAINT))
            }
            ["state", "drain"] => server.set_admin(now, DRAIN, MAINT),
            ["state", "maint"] => server.set_admin(now, MAINT, DRAIN),
            ["health", "down"] => server.set_health_down(now),
            ["weight", weight] => match weight.parse() {
                Ok(weight @ 0..=256) => server.set_weight(now, weight, version),
                _ => return Ok("Absolute weight can only be between 0 and 256 inclusive.\n".into()),
            },
            ["addr", ip, "port", port] => {
                return Ok(set_addr(now, server, ip, port, version));
            }
            _ => return Ok("usage: set server <backend>/<server> addr | health | state | weight\n".into()),
        };
        done.map(|()| String::new()).map_err(|corrupt| crash(path, corrupt))
    }

    fn shutdown_sessions(&mut self, now: Tick, path: &str, cut: &mut Vec<Cut>) -> String {
        if let Err(text) = self.find(path) {
            return text.to_owned();
        }
        if let Some((backend, server)) = path.split_once('/') {
            cut.extend(self.cut_flows(now, backend, server));
        }
        String::new()
    }
}

fn crash(path: &str, corrupt: Corrupt) -> String {
    format!("{path}: took requests that stick to it, was never usable, and {}", corrupt.0)
}

fn enable_health(now: Tick, server: &mut Server) -> String {
    if !server.check.configured {
        return "Health check was not configured on this server, cannot enable.\n".into();
    }
    server.enable_health(now);
    String::new()
}

/// `srv_update_addr_port`.
fn set_addr(now: Tick, server: &mut Server, ip: &str, port: &str, version: Version) -> String {
    let by = " by 'stats socket command'";
    let Ok(new_ip) = ip.parse::<IpAddr>() else {
        let by = if version == Version::V2_6 { by } else { "" };
        return format!("Invalid addr '{ip}'{by}\n");
    };
    // A port beyond the range is not refused but cut to 16 bits.
    let Ok(new_port) = port.parse::<u64>().map(|port| u16::try_from(port & 0xffff).unwrap_or_default())
    else {
        return format!("problem converting port '{port}' to an int{by}\n");
    };
    let (was, to) = (server.addr, SocketAddr::new(new_ip, new_port));
    server.set_addr(now, to, version);
    moved(was, to, version)
}

/// What HAProxy says of a move: 2.6 says what does not change, too.
fn moved(was: SocketAddr, to: SocketAddr, version: Version) -> String {
    let ip = (was.ip() != to.ip()).then(|| format!("IP changed from '{}' to '{}'", was.ip(), to.ip()));
    let port =
        (was.port() != to.port()).then(|| format!("port changed from '{}' to '{}'", was.port(), to.port()));
    let said: Vec<String> = if version == Version::V2_6 {
        vec![
            ip.unwrap_or_else(|| "no need to change the addr".into()),
            port.unwrap_or_else(|| "no need to change the port".into()),
        ]
    } else {
        ip.into_iter().chain(port).collect()
    };
    if said.is_empty() {
        return "nothing changed\n".into();
    }
    format!("{} by 'stats socket command'\n", said.join(", "))
}
