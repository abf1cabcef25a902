//! `show stat <backend> 4 <server>`: one server's counters, the way to watch a drain and to verify a change.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::str::FromStr;

use super::AnswerError;
use super::csv;
use super::excerpt::Excerpt;
use crate::{BackendName, ServerId, ServerName, ServerPath, ServerWeight};

const ASKED: &str = "show stat";

/// One server, now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatRow {
    /// Which server. HAProxy was asked by number: check that it is the one that was meant.
    pub server: ServerPath,
    /// Its number.
    pub id: ServerId,
    /// Its state as the statistics page shows it.
    pub status: Status,
    /// Where it listens; `None` for a host name not resolved, or below `level operator`.
    pub addr: Option<SocketAddr>,
    /// The weight that was set. [`StatRow::effective_weight`] is what becomes of it.
    pub weight: ServerWeight,
    /// The weight in balancing at this moment: less during a slow start.
    pub effective_weight: u32,
    /// Streams on the server. Idle keep-alive connections do not count.
    pub scur: u64,
    /// Requests waiting in the server's own queue.
    pub qcur: u64,
    /// Outcome of the last check (`L7OK`, `L4CON`, …), with `* ` before it while the next one runs; empty without checks.
    pub check_status: String,
    /// What HAProxy says of the last check in words (`Connection refused`); empty where it says nothing.
    pub last_check: String,
    /// As [`check_health`](super::servers_state::ServerRow::check_health); `None` without checks.
    pub check_health: Option<u32>,
}

impl StatRow {
    /// The outcome of the last check, with HAProxy's words: `L4CON: Connection refused`.
    #[must_use]
    pub fn check_said(&self) -> String {
        let status = self.check_status.trim_start_matches("* ");
        let said = if self.last_check.is_empty() { String::new() } else { format!(": {}", self.last_check) };
        format!("{status}{said}")
    }

    /// Whether nothing is in flight: with balancing off, drained.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.scur == 0 && self.qcur == 0
    }
}

/// A server's state as `show stat` tells it (`srv_hlt_st` in `src/stats.c`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Checked and up; `UP 1/3` on its way down.
    Up,
    /// Checked and down; `DOWN 1/2` on its way up.
    Down,
    /// Takes persistent traffic only, by `http-check disable-on-404`.
    Nolb,
    /// Takes persistent traffic only, by order.
    Drain,
    /// Takes no traffic, by order.
    Maint,
    /// In service, unchecked.
    NoCheck,
    /// Something that 2.6 to 3.2 do not say.
    Other(Excerpt),
}

impl From<&str> for Status {
    fn from(text: &str) -> Self {
        match text.split([' ', '(']).next().unwrap_or_default() {
            "UP" => Self::Up,
            "DOWN" => Self::Down,
            "NOLB" => Self::Nolb,
            "DRAIN" => Self::Drain,
            "MAINT" => Self::Maint,
            "no" if text == "no check" => Self::NoCheck,
            _ => Self::Other(Excerpt::of(text)),
        }
    }
}

impl StatRow {
    /// Reads the answer to `show stat` for one server: `None` when HAProxy has no such server.
    pub fn parse(text: &str) -> Result<Option<Self>, AnswerError> {
        let (header, mut lines) = table(text)?;
        let Some(line) = lines.next() else { return Ok(None) };
        Row { header: &header, fields: csv::fields(line) }.read().map(Some)
    }
}

/// Reads the answer to `show stat` for all servers of a backend. What has no name that lb-sync could have given is left
/// out.
pub fn rows(text: &str) -> Result<Vec<StatRow>, AnswerError> {
    let (header, lines) = table(text)?;
    let mut rows = Vec::new();
    for line in lines {
        let row = Row { header: &header, fields: csv::fields(line) };
        if row.text("svname")?.parse::<ServerName>().is_ok() {
            rows.push(row.read()?);
        }
    }
    Ok(rows)
}

/// What one server has to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Streams on it, and requests in its own queue.
    pub pending: u64,
    /// Streams that it got in the last second; in HTTP mode, requests.
    pub rate: u64,
}

/// Reads the answer to `show stat -1 4 -1`: all servers, in HAProxy's order. What has no name that lb-sync could have
/// given is left out.
pub fn counters(text: &str) -> Result<Vec<(ServerPath, Counters)>, AnswerError> {
    let (header, lines) = table(text)?;
    let at = |name: &'static str| {
        header.iter().position(|column| column == name).ok_or(AnswerError::Missing { asked: ASKED, name })
    };
    let (backend, server) = (at("pxname")?, at("svname")?);
    let (scur, qcur, rate) = (at("scur")?, at("qcur")?, at("rate")?);
    let row = |line: &str| {
        let fields = csv::fields(line);
        let number = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let path = ServerPath::new(fields.get(backend)?.parse().ok()?, fields.get(server)?.parse().ok()?);
        Some((path, Counters { pending: number(scur).saturating_add(number(qcur)), rate: number(rate) }))
    };
    Ok(lines.filter_map(row).collect())
}

/// The columns, and the rows below them.
fn table(text: &str) -> Result<(Vec<Cow<'_, str>>, impl Iterator<Item = &str>), AnswerError> {
    let mut lines = text.lines().filter(|line| !line.is_empty());
    let header = lines
        .next()
        .and_then(|line| line.strip_prefix("# "))
        .filter(|line| line.starts_with("pxname,"))
        .ok_or_else(|| AnswerError::Unexpected { asked: ASKED, said: Excerpt::of(text) })?;
    Ok((csv::fields(header), lines))
}

/// One line beside its header: columns go by name, since their number and order differ between versions.
struct Row<'t> {
    header: &'t [Cow<'t, str>],
    fields: Vec<Cow<'t, str>>,
}

impl Row<'_> {
    fn read(&self) -> Result<StatRow, AnswerError> {
        let backend: BackendName = self.field("pxname")?;
        let server: ServerName = self.field("svname")?;
        Ok(StatRow {
            server: ServerPath::new(backend, server),
            id: self.within::<u32, _>("sid")?,
            status: Status::from(self.text("status")?),
            addr: self.text("addr").ok().and_then(|addr| addr.parse().ok()),
            weight: self.within::<u16, _>("uweight")?,
            effective_weight: self.field("weight")?,
            scur: self.field("scur")?,
            qcur: self.field("qcur")?,
            check_status: Excerpt::of(self.text("check_status")?).into_string(),
            last_check: self
                .text("last_chk")
                .map_or_else(|_| String::new(), |text| Excerpt::of(text).into_string()),
            check_health: self.field("check_health").ok(),
        })
    }

    fn text(&self, name: &'static str) -> Result<&str, AnswerError> {
        let at = self.header.iter().position(|column| column == name);
        at.and_then(|at| self.fields.get(at))
            .map(AsRef::as_ref)
            .ok_or(AnswerError::Missing { asked: ASKED, name })
    }

    fn field<T: FromStr>(&self, name: &'static str) -> Result<T, AnswerError> {
        self.text(name)?.parse().map_err(|_| self.malformed(name))
    }

    /// A number, as a type that takes only some.
    fn within<N: FromStr, T: TryFrom<N>>(&self, name: &'static str) -> Result<T, AnswerError> {
        T::try_from(self.field::<N>(name)?).map_err(|_| self.malformed(name))
    }

    fn malformed(&self, name: &'static str) -> AnswerError {
        let said = Excerpt::of(self.text(name).unwrap_or_default());
        AnswerError::Malformed { asked: ASKED, name, said }
    }
}

#[cfg(test)]
mod tests;
