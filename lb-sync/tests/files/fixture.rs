//! A real etcd, a real HAProxy under its master as it is run in earnest, and apps that say who they are; all in a folder
//! of their own. All that is started here ends with its guard.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;
use testkit::blocking::{Etcd, Guard, WITHIN, ask, free_port, until};

/// The directory of the sections.
const CONF_DIR: &str = "conf.d";

/// The stage.
pub(crate) struct Fixture {
    folder: TempDir,
    etcd: Etcd,
    traffic: u16,
    haproxy: Option<Guard>,
    lb_sync: Option<Guard>,
    starts: u32,
}

impl Fixture {
    /// Starts etcd and, with `more` of its configuration, HAProxy: traffic goes to the backend that is named by `Host`.
    pub(crate) fn start(more: &str) -> Self {
        Self::begin(&format!(" use_backend %[req.hdr(host),lower]\n{more}"))
    }

    /// The same, with these lines in the frontend in place of that rule.
    pub(crate) fn routed(frontend: &str) -> Self {
        Self::begin(frontend)
    }

    fn begin(frontend: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("lb-sync-").tempdir().unwrap();
        let traffic = free_port();
        let path = folder.path().display();
        let base = format!(
            "global\n stats socket {path}/admin.sock mode 600 level admin\n\
             defaults plain\n mode http\n timeout connect 1s\n timeout client 5s\n timeout server 5s\n\
             frontend traffic\n bind 127.0.0.1:{traffic}\n{frontend}\n"
        );
        fs::write(folder.path().join("base.cfg"), base).unwrap();
        fs::create_dir(folder.path().join(CONF_DIR)).unwrap();
        fs::write(folder.path().join(CONF_DIR).join("routes.map"), "").unwrap();
        let mut fixture =
            Self { folder, etcd: Etcd::start(), traffic, haproxy: None, lb_sync: None, starts: 0 };
        fixture.start_haproxy();
        fixture
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file in the directory of the sections; empty if it is not there.
    pub(crate) fn section(&self, service: &str) -> String {
        fs::read_to_string(self.path(CONF_DIR).join(format!("50-{service}.cfg"))).unwrap_or_default()
    }

    /// Puts a section without servers in place, as lb-sync would have left it.
    pub(crate) fn empty_section(&self, service: &str) {
        let text = format!("# lb-sync keeps this file\nbackend {service}\n");
        fs::write(self.path(CONF_DIR).join(format!("50-{service}.cfg")), text).unwrap();
    }

    /// Hands the section of `service` over.
    pub(crate) fn hand_over(&self, service: &str) {
        fs::write(self.path(CONF_DIR).join(format!("50-{service}.cfg")), "").unwrap();
    }

    /// Starts HAProxy, and returns as soon as it takes connections.
    pub(crate) fn start_haproxy(&mut self) {
        let log = Stdio::from(fs::File::create(self.path("haproxy.log")).unwrap());
        let mut command = Command::new("haproxy");
        // A relative path would be taken for an address.
        command.args(["-W", "-S"]).arg(self.path("master.sock")).args(["-f", "base.cfg", "-f", CONF_DIR]);
        command.current_dir(self.folder.path()).stdout(Stdio::null()).stderr(log);
        self.haproxy = Some(Guard::start(&mut command));
        until("HAProxy takes connections", || TcpStream::connect(("127.0.0.1", self.traffic)).ok());
    }

    /// `kill -9` of master and worker.
    pub(crate) fn kill_haproxy(&mut self) {
        self.haproxy = None;
        // The worker may outlive its master by a moment.
        until("no worker takes connections", || TcpStream::connect(("127.0.0.1", self.traffic)).err());
    }

    /// Starts `lb-sync run` with these options beside the usual ones.
    pub(crate) fn start_lb_sync(&mut self, more: &[&str]) {
        self.starts += 1;
        let name = format!("lb-sync-{}.log", self.starts);
        let log = Stdio::from(fs::File::create(self.path(&name)).unwrap());
        let mut command = Command::new(env!("CARGO_BIN_EXE_lb-sync"));
        command.args([
            "run",
            "--etcd-endpoints",
            &self.etcd.endpoint,
            "--listen",
            "127.0.0.1:0",
            "--balancer",
            "b",
        ]);
        command.args(["--haproxy-socket", "admin.sock", "--conf-dir", CONF_DIR, "--conf-base", "base.cfg"]);
        command.args(["--state-dir", "state", "--log-format", "text"]).args(more);
        command.env("LEASEHOLD_CHECK_INTERVAL", "100ms");
        self.lb_sync = Some(Guard::start(command.current_dir(self.folder.path()).stderr(log)));
    }

    pub(crate) fn kill_lb_sync(&mut self) {
        self.lb_sync = None;
    }

    /// All that lb-sync has logged since the fixture was started.
    pub(crate) fn log(&self) -> String {
        let read = |n| fs::read_to_string(self.path(&format!("lb-sync-{n}.log"))).unwrap();
        (1..=self.starts).map(read).collect()
    }

    /// Writes the record of an instance that is at `port` of loopback, with `more` fields.
    pub(crate) fn put(&self, id: &str, port: u16, more: &str) {
        self.etcd.put_instance(id, port, more);
    }

    /// Writes the records of `count` instances of which none is there, at once.
    pub(crate) fn put_many(&self, service: &str, count: u32) {
        for some in (0..count).collect::<Vec<_>>().chunks(100) {
            let put = |n: &u32| {
                let record =
                    format!(r#""{{\"address\":\"127.0.1.{}\",\"port\":{}}}""#, n % 250, 1_000 + n / 250);
                format!("put /leasehold/v1/instances/{service}/i-{n} {record}\n")
            };
            let input = format!("\n{}\n\n", some.iter().map(put).collect::<String>());
            let mut etcdctl = self.etcd.command(&["txn"]);
            let mut etcdctl = etcdctl.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
            etcdctl.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            assert!(etcdctl.wait().unwrap().success());
        }
    }

    pub(crate) fn delete(&self, id: &str) {
        self.etcd.ctl(&["del", &format!("/leasehold/v1/instances/{id}")]);
    }

    /// HAProxy's answer to one command; empty while it does not answer.
    pub(crate) fn ask(&self, command: &str) -> String {
        ask(&self.path("admin.sock"), command).unwrap_or_default()
    }

    /// HAProxy's servers, as `name id address:port admin-state weight`, by backend.
    pub(crate) fn servers(&self, backend: &str) -> Vec<String> {
        let text = self.ask("show servers state");
        let rows = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let rows = rows.filter(|row| row.len() > 18 && row[1] == backend);
        let mut rows: Vec<_> = rows
            .map(|row| format!("{} {} {}:{} {} {}", row[3], row[2], row[4], row[18], row[6], row[7]))
            .collect();
        rows.sort();
        rows
    }

    /// The names of HAProxy's servers in rotation.
    pub(crate) fn serving(&self, backend: &str) -> Vec<String> {
        // 4: it was `disabled` in the configuration, which stays when it is put into rotation.
        let ready = |row: &String| row.split(' ').nth(3).is_some_and(|state| state == "0" || state == "4");
        let rows = self.servers(backend).into_iter().filter(ready);
        rows.map(|row| row.split(' ').next().unwrap().to_owned()).collect()
    }

    /// HAProxy's worker.
    pub(crate) fn pid(&self) -> String {
        let info = self.ask("show info");
        info.lines().find_map(|line| line.strip_prefix("Pid: ")).unwrap_or_default().to_owned()
    }

    /// HAProxy's version is this or later.
    pub(crate) fn at_least(&self, major: u32, minor: u32) -> bool {
        let info = self.ask("show info");
        let version = info.lines().find_map(|line| line.strip_prefix("Version: ")).unwrap();
        let mut numbers = version.split(['.', '-']).map(|number| number.parse::<u32>().unwrap());
        (numbers.next().unwrap(), numbers.next().unwrap()) >= (major, minor)
    }

    /// One request for `service`: the status, and who answered.
    pub(crate) fn request(&self, service: &str) -> (String, String) {
        self.get(service, "/")
    }

    /// The same, for a path.
    pub(crate) fn get(&self, service: &str, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.traffic)).unwrap();
        stream.set_read_timeout(Some(WITHIN)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {service}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap_or_default().to_owned();
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status, body.to_owned())
    }
}

/// An app on a port of its own, until the test ends; answers everything with `name`. Returns the port.
pub(crate) fn app(name: &str) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", free_port())).unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{name}", name.len());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    port
}
