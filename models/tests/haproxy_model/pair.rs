//! A real HAProxy and its model, side by side.

use std::collections::BTreeMap;
use std::time::Duration;

use haproxy::{Command, Dialogue, Reply, ServerAddr, ServerPath};
use models::haproxy::{
    BackendSetup, Haproxy, NoStream, Request, ServerView, Stream, StreamId, Version, WorkerId,
};
use registry::time::Clock;
use tokio::task::JoinHandle;

use super::apps::Apps;
use super::client::{self, Answer};
use super::compare;
use super::real::{Real, WITHIN};
use super::script::{BACKENDS, Order};

/// How often both are looked at until they agree.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// `web` as the default template of lb-sync has it.
pub(crate) const SECTIONS: &str = r#"
frontend front
    bind unix@FOLDER/front.sock
    default_backend web
backend web
    balance leastconn
    retries 3
    option redispatch 1
    retry-on conn-failure empty-response
    http-request disable-l7-retry unless METH_GET
    http-request set-var(txn.lbi) req.cook(LBI)
    use-server %[var(txn.lbi)] if { var(txn.lbi) -m found }
    http-response set-var(txn.srv) srv_name
    http-response set-header X-Server %[srv_name]
    http-response add-header Set-Cookie "LBI=%[var(txn.srv)]; path=/; HttpOnly; SameSite=Lax" if { var(txn.srv) -m found } !{ var(txn.srv),strcmp(txn.lbi) eq 0 } !{ var(txn.lbi),map_str(FOLDER/web.restarting.map) -m found }
backend api
    balance leastconn
    http-request set-var(txn.a) str(1) if { hdr(a),map_str(FOLDER/api.restarting.map) -m found }
    http-request set-var(txn.a) str(1) if { hdr(a),map_beg(FOLDER/routes.map) -m found }
"#;

/// The maps that they ask.
pub(crate) const MAPS: [&str; 3] = ["web.restarting.map", "api.restarting.map", "routes.map"];

/// Both of them.
pub(crate) struct Pair {
    real: Real,
    dialogue: Dialogue,
    model: Haproxy,
    worker: WorkerId,
    apps: Apps,
    /// Requests that are not answered yet.
    held: Vec<(StreamId, JoinHandle<Answer>)>,
    /// The real one's numbers of the maps that are 0, 1 and 2 in the model.
    map_ids: Vec<u32>,
    last_reply: Reply,
    /// What was asked so far, for a failure's message.
    log: Vec<String>,
    met: BTreeMap<String, u32>,
}

/// The version of the model that is a real one's, if there is one.
pub(crate) fn version_of(info: &str) -> Version {
    let version = haproxy::answer::info::Info::parse(info).unwrap().version;
    match (version.major, version.minor) {
        (2, 6) => Version::V2_6,
        (3, 0) => Version::V3_0,
        (3, 2) => Version::V3_2,
        _ => panic!("there is no model of HAProxy {version}"),
    }
}

impl Pair {
    pub(crate) async fn start() -> Self {
        let real = Real::start(SECTIONS, &MAPS).await;
        let mut dialogue = real.dialogue().await;
        let asked = [Command::ShowInfo, Command::ShowMaps];
        let answers = dialogue.ask(&asked).await.unwrap();
        let id_of = |map: &&str| {
            let line = answers[1].lines().find(|line| line.contains(&format!("/{map})"))).unwrap();
            line.split(' ').next().unwrap().parse::<u32>().unwrap()
        };
        let map_ids = MAPS.iter().map(id_of).collect();
        let backends = BACKENDS.map(BackendSetup::named).to_vec();
        let mut model = Haproxy::with_routes_map(version_of(&answers[0]), backends, Clock.now());
        let worker = model.connect().unwrap();
        let apps = Apps::start().await;
        Self {
            real,
            dialogue,
            model,
            worker,
            apps,
            held: Vec::new(),
            map_ids,
            last_reply: Reply::Ok,
            log: Vec::new(),
            met: BTreeMap::new(),
        }
    }

    pub(crate) fn version(&self) -> Version {
        self.model.version()
    }

    /// Sends one write to both, and compares the answers.
    pub(crate) async fn ask(&mut self, orders: &[Order]) {
        let filled: Vec<(Command, String)> =
            orders.iter().map(|order| order.fill_in(|app| self.apps.addr(app))).collect();
        let lines: Vec<String> = filled.iter().map(|(_, line)| line.clone()).collect();
        self.log.push(lines.join(" ; "));
        let real_lines: Vec<String> = lines.iter().map(|line| self.for_the_real_one(line)).collect();
        self.run_checks();
        let answers = match self.dialogue.ask_lines(&real_lines).await {
            Ok(answers) => answers,
            Err(error) => panic!("{error}; ended: {}\n{}", self.real.has_ended(), self.last()),
        };
        let now = Clock.now();
        for ((command, line), real) in filled.iter().zip(&answers) {
            let model = self.model.ask(now, self.worker, line).unwrap();
            assert!(
                compare::same_reply(command, real, &model),
                "{line}\n  real  {real:?}\n  model {model:?}\n{}",
                self.last()
            );
            self.last_reply = Reply::read(command, real);
            let reply = format!("{:?}", self.last_reply);
            let kind = reply.split('(').next().unwrap_or_default();
            *self.met.entry(format!("{} {kind}", command.kind())).or_default() += 1;
        }
    }

    /// Sends one command to both, waits until they agree, and returns what it came to.
    pub(crate) async fn order(&mut self, command: Command) -> Reply {
        self.ask(&[Order { command: command.clone(), to: None, weightless: false }]).await;
        self.agree(&command.to_string()).await;
        self.last_reply.clone()
    }

    pub(crate) fn addr(&self, app: usize) -> ServerAddr {
        self.apps.addr(app).try_into().unwrap()
    }

    /// `shutdown sessions` of a server with one request that may be asked twice: on 2.6 it is.
    pub(crate) async fn cut(&mut self, name: &str) {
        let server = ServerPath::new("web".parse().unwrap(), name.parse().unwrap());
        let mut arrivals = self.apps.arrivals();
        self.ask(&[Order { command: Command::ShutdownSessions { server }, to: None, weightless: false }])
            .await;
        let cut = self.model.take_cut();
        assert_eq!(cut.len(), 1);
        if cut[0].asks_again {
            let apps = &self.apps;
            self.model.retry_stream(Clock.now(), cut[0].stream, 0, |addr| apps.listens(addr)).unwrap();
            // HAProxy counts it before the app has read it: a release in between would not be seen there.
            tokio::time::timeout(WITHIN, arrivals.changed()).await.expect("it is not asked again").unwrap();
        } else {
            let answer = self.held.remove(0).1.await.unwrap();
            assert_eq!(answer.server, None);
        }
    }

    fn for_the_real_one(&self, line: &str) -> String {
        let id = |at: usize| self.map_ids.get(at).map(|id| format!(" #{id}"));
        (0..self.map_ids.len())
            .find(|at| line.contains(&format!(" map #{at}")) && !line.contains(&format!(" map #{at}2")))
            .and_then(|at| Some(line.replacen(&format!(" #{at}"), &id(at)?, 1)))
            .unwrap_or_else(|| line.to_owned())
    }

    pub(crate) async fn toggle(&mut self, app: usize) {
        self.run_checks();
        self.apps.toggle(app).await;
        let addr = self.apps.addr(app);
        self.log.push(format!("{addr} listens: {}", self.apps.listens(addr)));
    }

    /// A request to the model.
    fn open(&mut self, cookie: Option<&str>, choice: u64) -> Result<Stream, NoStream> {
        let apps = &self.apps;
        let request = Request { backend: "web", cookie, choice };
        self.model.open_stream(Clock.now(), self.worker, request, |addr| apps.listens(addr))
    }

    fn server(&self, name: &str) -> Option<ServerView<'_>> {
        self.model.servers(self.worker).find(|server| server.backend == "web" && server.name == name)
    }

    /// Sends a request to both, and compares the server that it reaches, and whether it sets a cookie. One that would
    /// endanger the real one is left out.
    pub(crate) async fn request(&mut self, cookie: Option<&'static str>) {
        if cookie.and_then(|name| self.server(name)).is_some_and(|server| server.endangers_haproxy()) {
            return;
        }
        self.run_checks();
        self.log.push(format!("request, cookie {cookie:?}"));
        let real = client::request(&self.real.front(), "GET", "/", cookie).await;
        // The model goes wherever it might go; one of that must be what the real one did.
        let (before, mut might) = (self.model.clone(), Vec::new());
        for choice in (0..200_u64).map(|choice| choice.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
            self.model = before.clone();
            let model = match self.open(cookie, choice) {
                Ok(stream) => {
                    self.model.close_stream(Clock.now(), stream.id, false);
                    Answer { server: Some(stream.server), sets_cookie: stream.sets_cookie }
                }
                Err(NoStream::NoServer | NoStream::NotConnected) => {
                    Answer { server: None, sets_cookie: false }
                }
                Err(other) => panic!("{other:?}"),
            };
            if model == real {
                let how = if real.server.is_none() { "503" } else { "200" };
                *self.met.entry(format!("request {how}")).or_default() += 1;
                return;
            }
            might.push(model);
        }
        might.dedup();
        panic!("real {real:?}, model one of {might:?}\n{}", self.last());
    }

    /// Sends a request that is not answered before [`Self::release`], if it can only go to `server`.
    pub(crate) async fn hold(&mut self, server: &'static str, method: &'static str, path: &'static str) {
        let goes_there =
            |it: ServerView<'_>| it.takes_persistent && !it.endangers_haproxy() && self.apps.listens(it.addr);
        if !self.server(server).is_some_and(goes_there) {
            return;
        }
        self.log.push(format!("hold a request to {server}"));
        let mut arrivals = self.apps.arrivals();
        let front = self.real.front();
        let real = tokio::spawn(async move { client::request(&front, method, path, Some(server)).await });
        tokio::time::timeout(WITHIN, arrivals.changed()).await.expect("it has not arrived").unwrap();
        let stream = self.open(Some(server), 0).unwrap();
        assert_eq!(stream.server, server);
        *self.met.entry("hold".into()).or_default() += 1;
        self.held.push((stream.id, real));
    }

    /// Has what is held answered; `keep_pooled`: the connections to servers stay open.
    pub(crate) async fn release(&mut self, keep_pooled: bool) {
        self.log.push("release".into());
        self.apps.release();
        let cut = self.model.take_cut();
        for (id, real) in std::mem::take(&mut self.held) {
            let answer = real.await.unwrap();
            let is_cut = cut.iter().any(|cut| cut.stream == id);
            assert_eq!(answer.server.is_none(), is_cut, "{answer:?}\n{}", self.last());
            *self.met.entry(format!("release, cut {is_cut}")).or_default() += 1;
            self.model.close_stream(Clock.now(), id, keep_pooled);
        }
    }

    /// Runs the model's checks up to now.
    fn run_checks(&mut self) {
        let now = Clock.now();
        while self.model.next_check().is_some_and(|due| due <= now) {
            self.model.run_checks(now, |addr| self.apps.listens(addr)).unwrap();
        }
    }

    /// Waits until both say the same, and no check is on its way to another result.
    pub(crate) async fn agree(&mut self, when: &str) {
        self.agree_if(when, true).await;
    }

    /// Waits until both say the same, with checks on their way: for checks that are far apart.
    pub(crate) async fn agree_between_checks(&mut self, when: &str) {
        self.agree_if(when, false).await;
    }

    async fn agree_if(&mut self, when: &str, settled: bool) {
        let deadline = Clock.now().plus(WITHIN);
        loop {
            self.run_checks();
            let asked = compare::questions();
            let for_real: Vec<String> = asked.iter().map(|line| self.for_the_real_one(line)).collect();
            let real = compare::digest(&self.dialogue.ask_lines(&for_real).await.unwrap());
            let now = Clock.now();
            let model: Vec<String> =
                asked.iter().map(|line| self.model.ask(now, self.worker, line).unwrap()).collect();
            let is_quiet = !settled || self.is_quiet();
            let model = compare::digest(&model);
            if real == model && is_quiet {
                self.record_servers();
                return;
            }
            assert!(
                now < deadline,
                "{when}: quiet: {is_quiet}\n{}{}",
                compare::difference(&real, &model),
                self.last()
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Whether the checks of every server have come to what its address answers.
    fn is_quiet(&self) -> bool {
        let is_settled =
            |server: ServerView<'_>| !server.checked || server.passes == Some(self.apps.listens(server.addr));
        self.model.servers(self.worker).all(is_settled)
    }

    fn record_servers(&mut self) {
        for server in self.model.servers(self.worker) {
            let checks = if server.checked { format!("{:?}", server.passes) } else { "unchecked".into() };
            *self.met.entry(format!("{:?} {:?} {checks}", server.admin, server.op)).or_default() += 1;
        }
    }

    fn last(&self) -> String {
        let from = self.log.len().saturating_sub(25);
        format!("last:\n  {}", self.log[from..].join("\n  "))
    }

    /// What the pair has met: replies, states, requests.
    pub(crate) fn into_met(self) -> BTreeMap<String, u32> {
        self.met
    }
}
