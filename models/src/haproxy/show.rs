//! What HAProxy shows of itself, as text.

use std::fmt::Write as _;
use std::time::Duration;

use registry::time::Tick;

use super::backend::Backend;
use super::check::Outcome;
use super::server::{DRAIN, Op, Server};
use super::worker::Worker;

const STATE_HEADER: &str = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr srv_agent_port\n";
/// The columns that are of interest; a real one has some hundred.
const STAT_HEADER: &str = "# pxname,svname,qcur,scur,status,weight,iid,sid,rate,check_status,addr,uweight,\n";
/// The time of day at the tick 0, in seconds since 1970.
const EPOCH_S: u64 = 1_790_000_000;

/// Nothing here can fail: it is written into memory.
impl Worker {
    pub(super) fn show_info(&self, now: Tick) -> String {
        let seconds = |tick: Tick| tick.since(Tick::default()).as_secs();
        let (start, uptime) = (EPOCH_S + seconds(self.started()), now.since(self.started()).as_secs());
        let (version, pid, stopping) = (self.version.text(), self.pid, u8::from(self.stopping));
        format!(
            "Name: HAProxy\nVersion: {version}\nNbthread: 2\nPid: {pid}\nUptime_sec: {uptime}\nnode: balancer\nStopping: {stopping}\nStart_time_sec: {start}\n"
        )
    }

    pub(super) fn show_backend(&self) -> String {
        self.backends.iter().fold("# name\n".into(), |text, backend| text + &backend.name + "\n")
    }

    pub(super) fn show_servers_state(&self, now: Tick, only: Option<&str>) -> String {
        if only.is_some_and(|only| self.backends.iter().all(|backend| backend.name != only)) {
            return "Can't find backend.\n".into();
        }
        let mut text = STATE_HEADER.to_owned();
        for backend in self.backends.iter().filter(|it| only.is_none_or(|only| it.name == only)) {
            backend.servers.iter().for_each(|server| state_row(&mut text, now, backend, server));
        }
        text
    }

    /// `show stat <backend> 4 <server>`, each by number or -1; a backend by name too.
    pub(super) fn show_stat(&self, backend: &str, id: &str) -> String {
        let mut text = STAT_HEADER.to_owned();
        let is_wanted = |it: &&Backend| match backend.parse::<i64>() {
            Ok(number) => number == -1 || number == i64::from(it.number),
            Err(_) => it.name == backend,
        };
        let id: i64 = id.parse().unwrap_or(0);
        for backend in self.backends.iter().filter(is_wanted) {
            let mut servers = backend.servers.iter();
            if id == -1 {
                servers.for_each(|server| stat_row(&mut text, backend, server));
            } else if let Some(server) = servers.find(|server| i64::from(server.id) == id) {
                stat_row(&mut text, backend, server);
            }
        }
        text
    }
}

/// `dump_servers_state`.
fn state_row(text: &mut String, now: Tick, backend: &Backend, server: &Server) {
    let Server { name, id, addr, check, weight, initial_weight, .. } = server;
    let op = match server.now.op {
        Op::Stopped => 0,
        Op::Starting => 1,
        Op::Running => 2,
    };
    let (ip, port, admin) = (addr.ip(), addr.port(), server.now.admin);
    let since = now.since(server.changed_at).max(Duration::ZERO).as_secs();
    let status = match check.last {
        Outcome::Unknown => 1,
        Outcome::Passed if backend.http_check => 15,
        Outcome::Passed => 6,
        Outcome::Failed => 8,
    };
    let (result, health) = (check.last.code(), check.health);
    let state = u8::from(check.configured) * 2 + u8::from(check.enabled) * 4 + u8::from(check.paused) * 8;
    let _ = writeln!(
        text,
        "{} {} {id} {name} {ip} {op} {admin} {weight} {initial_weight} {since} {status} {result} {health} {state} 0 0 {} - {port} - 0 0 - - 0",
        backend.number,
        backend.name,
        u8::from(server.id_given),
    );
}

/// `stats_fill_sv_stats`.
fn stat_row(text: &mut String, backend: &Backend, server: &Server) {
    let Server { name, id, addr, streams, weight, .. } = server;
    let check_status = match server.check.last {
        _ if !server.check.runs() => "",
        Outcome::Unknown => "INI",
        Outcome::Passed if backend.http_check => "L7OK",
        Outcome::Passed => "L4OK",
        Outcome::Failed => "L4CON",
    };
    let (status, shown) = (status(server), server.shown_weight());
    let _ = writeln!(
        text,
        "{},{name},0,{streams},{status},{shown},{},{id},0,{check_status},{addr},{weight},",
        backend.name, backend.number,
    );
}

/// `stats_fill_sv_stats_computestate`, `srv_hlt_st`.
fn status(server: &Server) -> String {
    let check = &server.check;
    if server.is_maint() {
        return "MAINT".into();
    }
    if server.now.op == Op::Stopped {
        return if check.enabled && check.health > 0 {
            format!("DOWN {}/{}", check.health, check.rise)
        } else {
            "DOWN".into()
        };
    }
    let sinking = check.enabled && check.health < check.best();
    let left = || i64::from(check.health) - i64::from(check.rise) + 1;
    match (server.now.admin & DRAIN != 0, sinking) {
        (true, true) => format!("DRAIN {}/{}", left(), check.fall),
        (true, false) => "DRAIN".into(),
        (false, true) => format!("UP {}/{}", left(), check.fall),
        (false, false) if check.enabled => "UP".into(),
        (false, false) => "no check".into(),
    }
}
