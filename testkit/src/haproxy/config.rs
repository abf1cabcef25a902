//! The configuration: what an administrator owns, and not one server.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::port::loopback;

/// How many clients may be connected at a time: above what a load keeps in flight.
const MAXCONN: u32 = 2_000;

/// Where HAProxy listens, and for which services.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The runtime socket.
    pub socket: PathBuf,
    /// Traffic. The `Host` header names the service; who names none of them gets the first.
    pub traffic_port: u16,
    /// The stats page, at `/`.
    pub stats_port: u16,
    /// The backends, one for each service.
    pub services: Vec<String>,
    /// Whether a client stays with its instance by the cookie `LBI`, which carries the instance's name.
    pub affinity: bool,
    /// The backends' balance algorithm.
    pub balance: &'static str,
    /// The folder of the backend sections, where lb-sync keeps them as files; else they stand with the rest.
    pub sections: Option<PathBuf>,
    /// The master's socket, where HAProxy runs as a master with a worker; else it is one process.
    pub master: Option<PathBuf>,
}

impl Layout {
    /// The whole file.
    pub(crate) fn config(&self) -> String {
        let mut text = format!(
            "\
global
    maxconn {MAXCONN}
    stats socket {socket} mode 600 level admin
    stats timeout 5m

defaults
    mode http
    timeout connect 1s
    timeout client 30s
    timeout server 30s
    # A dead server costs a request a millisecond, not an error: the next attempt goes to another one.
    retries 3
    option redispatch 1
    # Nor does one that dies with a request in its hands, where asking twice is asking once (see the backends).
    retry-on conn-failure empty-response

frontend traffic
    bind {traffic}
",
            socket = self.socket.display(),
            traffic = loopback(self.traffic_port),
        );
        for service in &self.services {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "    use_backend {service} if {{ req.hdr(host) -i {service} }}");
        }
        if let Some(first) = self.services.first() {
            let _ = writeln!(text, "    default_backend {first}");
        }
        let _ = write!(
            text,
            "
listen stats
    bind {stats}
    stats enable
    stats hide-version
    stats refresh 2s
    stats uri /
",
            stats = loopback(self.stats_port),
        );
        if self.sections.is_none() {
            for service in &self.services {
                self.write_backend(&mut text, service);
            }
        }
        text
    }

    /// A section of `service` without servers, as lb-sync would have left it.
    pub(crate) fn section(&self, service: &str) -> String {
        let mut text = "# lb-sync keeps this file\n".to_owned();
        self.write_backend(&mut text, service);
        text
    }

    fn write_backend(&self, text: &mut String, service: &str) {
        let _ = write!(
            text,
            "
backend {service}
    balance {balance}
    option httpchk HEAD /
    http-request disable-l7-retry unless METH_GET
",
            balance = self.balance,
        );
        if self.affinity {
            let map = self.restarting_map(service);
            text.push_str(&AFFINITY.replace("RESTARTING_MAP", &map.to_string_lossy()));
        }
    }

    /// The map of who restarts, of one service; HAProxy does not start without the file.
    #[must_use]
    pub fn restarting_map(&self, service: &str) -> PathBuf {
        self.socket.with_file_name(format!("{service}.restarting.map"))
    }
}

/// A sticky session by the instance's name: it outlives a new address, the instance's absence, a restart of HAProxy, and
/// drain.
const AFFINITY: &str = r#"    http-request set-var(txn.lbi) req.cook(LBI)
    use-server %[var(txn.lbi)] if { var(txn.lbi) -m found }
    http-response set-var(txn.srv) srv_name
    http-response add-header Set-Cookie "LBI=%[var(txn.srv)]; path=/; HttpOnly; SameSite=Lax" if { var(txn.srv) -m found } !{ var(txn.srv),strcmp(txn.lbi) eq 0 } !{ var(txn.lbi),map_str(RESTARTING_MAP) -m found }
"#;
