//! What HAProxy says: read here a second time, on purpose apart from how lb-sync reads it.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, Result};

/// HAProxy at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its process.
    pub pid: u32,
    servers: Vec<Server>,
}

/// A server as HAProxy sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The backend it belongs to.
    pub backend: String,
    /// Its name, which is the instance's.
    pub name: String,
    /// HAProxy's id of it.
    pub id: u32,
    /// `ADDRESS:PORT`
    pub addr: String,
    /// `UP`, `DOWN`, `MAINT`, `DRAIN`, `no check`, with details behind.
    pub status: String,
    /// Its weight as set.
    pub weight: u32,
    /// Requests it is serving now.
    pub in_flight: u32,
    /// Requests it was given since it was made.
    pub served: u64,
    /// Seconds since its status changed last.
    pub unchanged_s: u64,
}

impl Seen {
    pub(crate) fn parse(info: &str, stat: &str) -> Result<Self> {
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid: "));
        let pid = pid.and_then(|pid| pid.trim().parse().ok()).context("`show info` names no pid")?;
        Ok(Self { pid, servers: Server::parse_all(stat)? })
    }

    /// The names of all servers of `backend`, whatever their state.
    #[must_use]
    pub fn servers(&self, backend: &str) -> Vec<&str> {
        self.names(backend, |_| true)
    }

    /// The names of those that take new clients.
    #[must_use]
    pub fn up(&self, backend: &str) -> Vec<&str> {
        self.names(backend, Server::is_up)
    }

    /// One of them.
    #[must_use]
    pub fn server(&self, backend: &str, name: &str) -> Option<&Server> {
        let mut servers = self.servers.iter();
        servers.find(|server| server.backend == backend && server.name == name)
    }

    /// All servers of `backend` but for what traffic and checks change: equal before and after means nothing was done.
    #[must_use]
    pub fn membership(&self, backend: &str) -> Vec<(String, u32, String, String, u32)> {
        let servers = self.servers.iter().filter(|server| server.backend == backend);
        let facts = |server: &Server| {
            let Server { name, id, addr, status, weight, .. } = server.clone();
            // `UP 1/2` is up as well: HAProxy counts its checks.
            let status =
                status.split_once(|c: char| c.is_ascii_digit()).map_or(&*status, |(word, _)| word.trim());
            (name, id, addr, status.to_owned(), weight)
        };
        servers.map(facts).collect()
    }

    fn names(&self, backend: &str, which: impl Fn(&Server) -> bool) -> Vec<&str> {
        let servers = self.servers.iter().filter(|server| server.backend == backend);
        servers.filter(|server| which(server)).map(|server| server.name.as_str()).collect()
    }
}

impl Server {
    /// Whether it takes new clients.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.status.starts_with("UP") || self.status.starts_with("no check")
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.addr.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(0)
    }

    /// All servers of a `show stat`, by backend and name.
    pub(crate) fn parse_all(stat: &str) -> Result<Vec<Self>> {
        let mut lines = stat.lines();
        let header = lines.next().and_then(|line| line.strip_prefix("# "));
        let columns: Vec<&str> = header.context("`show stat` has no header")?.split(',').collect();
        let rows = lines.filter(|line| !line.is_empty());
        let rows = rows.map(|line| columns.iter().copied().zip(line.split(',')).collect());
        let servers: Result<Vec<Self>> = rows
            .filter(|row: &BTreeMap<&str, &str>| row.get("type") == Some(&"2"))
            .map(|row| Self::parse(&row))
            .collect();
        let mut servers = servers?;
        servers.sort_by(|a, b| (&a.backend, &a.name).cmp(&(&b.backend, &b.name)));
        Ok(servers)
    }

    fn parse(row: &BTreeMap<&str, &str>) -> Result<Self> {
        let text = |column: &'static str| {
            let value = row.get(column).copied();
            value.with_context(|| format!("`show stat` has no column {column}"))
        };
        let number = |column| -> Result<u64> {
            let value = text(column)?;
            // A counter that does not apply is empty.
            let parsed = if value.is_empty() { Ok(0) } else { value.parse() };
            parsed.with_context(|| format!("column {column} of `show stat` is {value:?}"))
        };
        let small = |column| Ok::<_, anyhow::Error>(u32::try_from(number(column)?)?);
        Ok(Self {
            backend: text("pxname")?.into(),
            name: text("svname")?.into(),
            id: small("sid")?,
            addr: text("addr")?.into(),
            status: text("status")?.into(),
            weight: small("uweight")?,
            in_flight: small("scur")?,
            served: number("stot")?,
            unchanged_s: number("lastchg")?,
        })
    }
}

/// A table, as a failed wait shows it.
impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "HAProxy {} has {} servers", self.pid, self.servers.len())?;
        self.servers.iter().try_for_each(|server| writeln!(f, "  {server}"))
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, name, id, addr, status, weight, in_flight, served, unchanged_s } = self;
        write!(
            f,
            "{backend}/{name} (id {id}) {addr} {status} for {unchanged_s} s, weight {weight}, {in_flight} of {served} requests in flight"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "Name: HAProxy\nPid: 4711\nStopping: 0\n";
    const STAT: &str = "\
# pxname,svname,scur,stot,status,uweight,lastchg,type,sid,addr,
traffic,FRONTEND,1,5,OPEN,,,0,0,,
web,web-2,0,7,MAINT,100,3,2,10002,127.0.0.1:3002,
web,web-1,1,9,UP,50,4,2,10001,127.0.0.1:3001,
web,BACKEND,1,16,UP,150,4,1,0,,

";

    #[test]
    fn servers_are_read_by_the_header() {
        let seen = Seen::parse(INFO, STAT).unwrap();
        assert_eq!(seen.pid, 4711);
        assert_eq!(seen.servers("web"), ["web-1", "web-2"]);
        assert_eq!(seen.up("web"), ["web-1"]);
        assert_eq!(seen.servers("api"), [""; 0]);
        let server = seen.server("web", "web-1").unwrap();
        assert_eq!((server.id, server.port(), server.weight), (10001, 3001, 50));
        assert_eq!((server.in_flight, server.served, server.unchanged_s), (1, 9, 4));
    }

    #[test]
    fn what_is_no_table_is_an_error() {
        assert!(Seen::parse("", STAT).is_err());
        assert!(Seen::parse(INFO, "Permission denied\n").is_err());
    }
}
