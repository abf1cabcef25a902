//! A HAProxy that answers in text: the model of the planner's tests behind the answers of a real one.

use std::fmt::Write as _;

use haproxy::{Command, Reply};
use registry::name::InstanceId;

use crate::plan::model::{Model, ModelServer};

const STATE_HEADER: &str = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr srv_agent_port\n";
const STAT_HEADER: &str =
    "# pxname,svname,qcur,scur,status,weight,iid,sid,rate,addr,check_status,uweight,check_health,\n";

/// A worker process and its servers.
pub(super) struct FakeHaproxy {
    pub(super) model: Model,
    pub(super) pid: u32,
    pub(super) started_s: u64,
    /// A reload has replaced it: it answers on the sessions that it has, to no effect.
    pub(super) stopping: bool,
    /// No check has been made yet of a server that is up.
    pub(super) unchecked: bool,
}

impl FakeHaproxy {
    pub(super) fn new(services: &[&str]) -> Self {
        Self {
            model: Model::with_services(services),
            pid: 7,
            started_s: 1_000,
            stopping: false,
            unchecked: false,
        }
    }

    /// Another worker, which has none of the servers.
    pub(super) fn restart(&mut self, pid: u32) {
        self.model.servers.clear();
        (self.pid, self.started_s, self.stopping) = (pid, self.started_s + 1, false);
    }

    pub(super) fn answers(&mut self, commands: &[Command]) -> Vec<String> {
        commands.iter().map(|command| self.answer(command)).collect()
    }

    fn answer(&mut self, command: &Command) -> String {
        match command {
            Command::ShowInfo => format!(
                "Name: HAProxy\nVersion: 2.6.12\nPid: {}\nStopping: {}\nUptime_sec: 1\nStart_time_sec: {}\nnode: b\n",
                self.pid,
                u8::from(self.stopping),
                self.started_s
            ),
            Command::ShowBackends => {
                self.model.services.iter().fold("# name\n".to_owned(), |text, service| text + service + "\n")
            }
            Command::ShowServersState(of) => {
                let of = of.as_ref().map(ToString::to_string);
                let wanted = |id: &InstanceId| of.as_ref().is_none_or(|of| of == id.service.as_str());
                let servers = self.model.servers.iter().filter(|(id, _)| wanted(id));
                servers.fold(STATE_HEADER.to_owned(), |text, (id, server)| text + &self.state_row(id, server))
            }
            Command::ShowMaps => "# id (file) description\n".into(),
            Command::ShowStatServer { backend, id: number } => {
                let is = |id: &InstanceId| self.backend_id(id) == usize::try_from(backend.get()).unwrap();
                let mut servers = self.model.servers.iter();
                let found = servers.find(|(id, server)| is(id) && server.id == *number);
                found.map_or(STAT_HEADER.to_owned(), |(id, server)| {
                    STAT_HEADER.to_owned() + &self.stat_row(id, server)
                })
            }
            change => match self.model.take(change) {
                Reply::Ok => match change {
                    Command::AddServer { .. } => "New server registered.\n".into(),
                    Command::DelServer { .. } => "Server deleted.\n".into(),
                    Command::SetAddr { .. } => "no need to change the addr, port changed\n".into(),
                    _ => "\n".into(),
                },
                Reply::NoSuchServer => "No such server.\n".into(),
                Reply::StillHasConnections => {
                    "Server still has connections attached to it, cannot remove it.\n".into()
                }
                other => format!("{other:?}\n"),
            },
        }
    }

    /// From 1, in the order of the services.
    fn backend_id(&self, id: &InstanceId) -> usize {
        1 + self.model.services.iter().position(|service| service == id.service.as_str()).unwrap()
    }

    fn state_row(&self, id: &InstanceId, server: &ModelServer) -> String {
        let (backend, name, op) = (self.backend_id(id), &id.instance, if server.is_up() { 2 } else { 0 });
        let addr: std::net::SocketAddr = server.addr.into();
        let (admin, weight, check, health) = (server.admin, server.weight, server.check, self.health(server));
        format!(
            "{backend} {} {} {name} {} {op} {admin} {weight} {weight} 1 6 3 {health} {check} 0 0 0 - {} - 0 0 - - 0\n",
            id.service,
            server.id,
            addr.ip(),
            addr.port()
        )
    }

    fn stat_row(&self, id: &InstanceId, server: &ModelServer) -> String {
        let addr: std::net::SocketAddr = server.addr.into();
        let status = match (server.admin, server.is_up()) {
            (0x01, _) => "MAINT",
            (_, false) => "DOWN",
            (0x08, true) => "DRAIN",
            (_, true) if server.check == 0 => "no check",
            (_, true) => "UP",
        };
        let mut text = String::new();
        let (weight, backend) = (server.weight, self.backend_id(id));
        let _ = writeln!(
            text,
            "{},{},0,{},{status},{weight},{backend},{},0,{addr},L7OK,{weight},{},",
            id.service,
            id.instance,
            server.sessions,
            server.id,
            self.health(server)
        );
        text
    }

    /// With `rise 1` and `fall 2`.
    fn health(&self, server: &ModelServer) -> u32 {
        match (server.is_up(), self.unchecked) {
            (false, _) => 0,
            (true, true) => 1,
            (true, false) => 2,
        }
    }
}
