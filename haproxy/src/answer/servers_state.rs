//! `show servers state`: every server of every backend, with its state, weight and address. What lb-sync observes by.

use std::net::IpAddr;
use std::str::FromStr;

use super::AnswerError;
use super::excerpt::Excerpt;
use super::flags::{AdminState, CheckState, OpState};
use crate::{BackendId, BackendName, ServerAddr, ServerId, ServerPath, ServerWeight};

const ASKED: &str = "show servers state";

/// The format that is understood (`SRV_STATE_FILE_VERSION`, 1 since HAProxy 1.6): columns are added, never moved.
const FORMAT: &str = "1";

/// HAProxy's servers, in its own order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServersState {
    /// One for each server.
    pub servers: Vec<ServerRow>,
    /// How many have a name that cannot be an instance's or a service's, and so are nothing to lb-sync.
    pub skipped: usize,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerRow {
    /// Backend and name.
    pub server: ServerPath,
    /// The backend's number, for [`Command::ShowStatServer`](crate::Command::ShowStatServer).
    pub backend_id: BackendId,
    /// The server's number: by it lb-sync knows its own.
    pub id: ServerId,
    /// Where it listens; `None` for a host name not resolved, or a unix socket.
    pub ip: Option<IpAddr>,
    /// The port; `None` where it is none (a port offset).
    pub port: Option<u16>,
    /// What was ordered.
    pub admin: AdminState,
    /// What is.
    pub op: OpState,
    /// The weight that was set.
    pub weight: ServerWeight,
    /// The weight that it was made with.
    pub initial_weight: ServerWeight,
    /// Seconds since `op` last changed.
    pub since_change_s: u64,
    /// Whether it is checked.
    pub check: CheckState,
    /// Whether its last check passed: `None` before the first, and while one runs.
    pub check_passed: Option<bool>,
    /// How far its checks have brought it, from 0 to `rise + fall - 1`. A server that was made ready begins below the end, and has
    /// it as soon as it is up by a check that passed.
    pub check_health: u32,
}

impl ServerRow {
    /// Where it listens, if that is somewhere [`Command::SetAddr`](crate::Command::SetAddr) could have put it.
    #[must_use]
    pub fn addr(&self) -> Option<ServerAddr> {
        ServerAddr::new(self.ip?, self.port?).ok()
    }
}

impl ServersState {
    /// Reads the answer to `show servers state`. One line that cannot be read fails the whole: a server that is taken
    /// for absent would be added again.
    pub fn parse(text: &str) -> Result<Self, AnswerError> {
        let mut lines = text.lines().filter(|line| !line.is_empty());
        match lines.next() {
            Some(FORMAT) => {}
            Some(line) if line.starts_with("Can't find backend") => return Err(AnswerError::NoSuchBackend),
            _ => {
                return Err(AnswerError::Unexpected { asked: ASKED, said: Excerpt::of(text) });
            }
        }
        let header = lines.next().and_then(|line| line.strip_prefix("# ")).unwrap_or_default();
        let columns = Columns::find(&header.split(' ').collect::<Vec<_>>())?;
        let mut state = Self::default();
        let mut fields = Vec::new();
        for line in lines {
            fields.clear();
            fields.extend(line.split(' '));
            // The rows of one backend stand together, and share its name.
            let near = state.servers.last().map(|row| &row.server.backend);
            match columns.read(&fields, near)? {
                Some(row) => state.servers.push(row),
                None => state.skipped += 1,
            }
        }
        Ok(state)
    }
}

/// A column: where it is, and what it is called.
#[derive(Clone, Copy)]
struct Column {
    at: usize,
    name: &'static str,
}

impl Column {
    fn find(header: &[&str], name: &'static str) -> Result<Self, AnswerError> {
        let at = header.iter().position(|column| *column == name);
        at.map(|at| Self { at, name }).ok_or(AnswerError::Missing { asked: ASKED, name })
    }

    fn text<'a>(self, fields: &[&'a str]) -> Result<&'a str, AnswerError> {
        fields.get(self.at).copied().ok_or(AnswerError::Missing { asked: ASKED, name: self.name })
    }

    fn read<T: FromStr>(self, fields: &[&str]) -> Result<T, AnswerError> {
        self.text(fields)?.parse().map_err(|_| self.malformed(fields))
    }

    /// Reads a number into a type that takes only some.
    fn within<N: FromStr, T: TryFrom<N>>(self, fields: &[&str]) -> Result<T, AnswerError> {
        T::try_from(self.read::<N>(fields)?).map_err(|_| self.malformed(fields))
    }

    fn malformed(self, fields: &[&str]) -> AnswerError {
        let said = Excerpt::of(fields.get(self.at).copied().unwrap_or_default());
        AnswerError::Malformed { asked: ASKED, name: self.name, said }
    }
}

/// The columns that are read, found once by the header.
struct Columns {
    backend_id: Column,
    backend: Column,
    id: Column,
    server: Column,
    ip: Column,
    op: Column,
    admin: Column,
    weight: Column,
    initial_weight: Column,
    since_change: Column,
    check_result: Column,
    check_health: Column,
    check_state: Column,
    port: Column,
}

impl Columns {
    fn find(header: &[&str]) -> Result<Self, AnswerError> {
        let column = |name| Column::find(header, name);
        Ok(Self {
            backend_id: column("be_id")?,
            backend: column("be_name")?,
            id: column("srv_id")?,
            server: column("srv_name")?,
            ip: column("srv_addr")?,
            op: column("srv_op_state")?,
            admin: column("srv_admin_state")?,
            weight: column("srv_uweight")?,
            initial_weight: column("srv_iweight")?,
            since_change: column("srv_time_since_last_change")?,
            check_result: column("srv_check_result")?,
            check_health: column("srv_check_health")?,
            check_state: column("srv_check_state")?,
            port: column("srv_port")?,
        })
    }

    /// The row that `fields` hold; `None` if it goes by a name that no service or instance can have. Its backend may be
    /// called as the one `near` it.
    fn read(&self, fields: &[&str], near: Option<&BackendName>) -> Result<Option<ServerRow>, AnswerError> {
        let backend = self.backend.text(fields)?;
        let backend =
            near.filter(|near| near.as_ref() == backend).cloned().map_or_else(|| backend.parse(), Ok);
        let (Ok(backend), Ok(server)) = (backend, self.server.text(fields)?.parse()) else {
            return Ok(None);
        };
        Ok(Some(ServerRow {
            server: ServerPath::new(backend, server),
            backend_id: self.backend_id.within::<u32, _>(fields)?,
            id: self.id.within::<u32, _>(fields)?,
            ip: self.ip.text(fields)?.parse().ok(),
            port: self.port.text(fields)?.parse().ok(),
            admin: AdminState::from_bits(self.admin.read(fields)?),
            op: self.op.within::<u8, _>(fields)?,
            weight: self.weight.within::<u16, _>(fields)?,
            initial_weight: self.initial_weight.within::<u16, _>(fields)?,
            // Negative for a moment after the clock was set back.
            since_change_s: self.since_change.read::<i64>(fields)?.try_into().unwrap_or(0),
            check: CheckState::from_bits(self.check_state.read(fields)?),
            check_passed: passed(self.check_result.read(fields)?),
            check_health: self.check_health.read(fields)?,
        }))
    }
}

/// `enum chk_result`: 0 unknown, 1 neutral, 2 failed, 3 passed, 4 passed on condition (404 with `disable-on-404`).
fn passed(result: u8) -> Option<bool> {
    match result {
        2 => Some(false),
        3 | 4 => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
