//! Random commands: everything that lb-sync may send, in any order, on few servers, so that they meet.

use std::net::SocketAddr;
use std::time::Duration;

use haproxy::{Check, CheckInterval, Command, MapId, ServerAddr, ServerOptions, ServerPath, ServerState};
use models::haproxy::Version;

use super::apps::APPS;

/// The backends that both have.
pub(crate) const BACKENDS: [&str; 2] = ["web", "api"];
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// An address: one of the apps, or one where nothing ever listens.
#[derive(Clone, Copy)]
pub(crate) enum Where {
    App(usize),
    Nothing(SocketAddr),
}

/// One thing to do.
pub(crate) enum Deed {
    /// Commands of one write.
    Ask(Vec<Order>),
    /// An app begins or ceases to listen.
    Toggle(usize),
    /// A request to `web`, with this cookie.
    Request(Option<&'static str>),
    /// A request that sticks to this server of `web`, and is not answered yet.
    Hold(&'static str),
    /// Those are answered.
    Release,
}

/// A command; addresses are filled in when it is sent.
pub(crate) struct Order {
    pub(crate) command: Command,
    /// Where the server of `add server` or `set server … addr` is.
    pub(crate) to: Option<Where>,
    /// `add server` says weight 0, which no `Command` can.
    pub(crate) weightless: bool,
}

/// The script of one seed.
pub(crate) struct Script {
    draw: fastrand::Rng,
    version: Version,
}

impl Script {
    pub(crate) fn new(seed: u64, version: Version) -> Self {
        Self { draw: fastrand::Rng::with_seed(seed), version }
    }

    pub(crate) fn next_deed(&mut self) -> Deed {
        match self.draw.u8(..40) {
            0..=2 => return Deed::Toggle(self.draw.usize(..APPS)),
            3..=5 => return Deed::Request(self.draw.bool().then(|| self.name())),
            6..=8 => return Deed::Hold(self.name()),
            9 => return Deed::Release,
            _ => {}
        }
        let count = self.draw.usize(1..=3);
        Deed::Ask((0..count).map(|_| self.order()).collect())
    }

    fn order(&mut self) -> Order {
        let server = self.server();
        let mut to = None;
        let command = match self.draw.u8(..27) {
            0..=4 => {
                to = Some(self.address());
                self.add(server)
            }
            5..=7 => Command::EnableHealth { server },
            8..=9 => Command::HealthDown { server },
            10..=12 => Command::SetState { server, state: ServerState::Ready },
            13..=14 => Command::SetState { server, state: ServerState::Drain },
            15..=16 => Command::SetState { server, state: ServerState::Maint },
            17 => {
                to = Some(self.address());
                Command::SetAddr { server, addr: placeholder() }
            }
            18..=19 => {
                let weight = self.draw.u16(..257) * u16::from(self.draw.u8(..4) > 0);
                Command::SetWeight { server, weight: weight.try_into().unwrap() }
            }
            20..=21 => Command::DelServer { server },
            22..=24 => Command::ShutdownSessions { server },
            25 => self.map(server),
            _ => self.other(),
        };
        let weightless = matches!(command, Command::AddServer { .. }) && self.draw.u8(..8) == 0;
        Order { command, to, weightless }
    }

    fn server(&mut self) -> ServerPath {
        let backend = if self.draw.u8(..40) == 0 { "nowhere" } else { BACKENDS[self.draw.usize(..2)] };
        ServerPath::new(backend.parse().unwrap(), self.name().parse().unwrap())
    }

    fn name(&mut self) -> &'static str {
        NAMES[self.draw.usize(..NAMES.len())]
    }

    fn address(&mut self) -> Where {
        match self.draw.usize(..APPS + 2) {
            app if app < APPS => Where::App(app),
            APPS => Where::Nothing("127.0.0.1:1".parse().unwrap()),
            _ => Where::Nothing("[::1]:1".parse().unwrap()),
        }
    }

    fn add(&mut self, server: ServerPath) -> Command {
        let every = |ms: u64| CheckInterval::try_from(Duration::from_millis(ms)).unwrap();
        let check = (self.draw.u8(..4) > 0).then(|| Check {
            inter: every(self.draw.u64(20..50)),
            rise: self.draw.u16(1..4).try_into().unwrap(),
            fall: self.draw.u16(1..4).try_into().unwrap(),
            down_inter: self.draw.bool().then(|| every(self.draw.u64(10..30))),
        });
        // An older one refuses it: once in a while is enough.
        let init_down = self.draw.u8(..if self.version.has_init_state() { 3 } else { 12 }) == 0;
        let slowstart_s = u16::from(self.draw.u8(..15) == 0);
        let options = ServerOptions { check, init_down, slowstart_s };
        let (id, weight) = (self.draw.u32(10_000..10_005), self.draw.u16(1..257));
        let (id, weight) = (id.try_into().unwrap(), weight.try_into().unwrap());
        Command::AddServer { server, id, addr: placeholder(), weight, options }
    }

    fn map(&mut self, server: ServerPath) -> Command {
        let map = MapId(self.draw.u32(..2));
        if self.draw.bool() { Command::AddToMap { map, server } } else { Command::DelFromMap { map, server } }
    }

    fn other(&mut self) -> Command {
        let backend = BACKENDS[self.draw.usize(..2)].parse().unwrap();
        let routes = ["shop.example/", "shop.example/api/"];
        let route = routes[self.draw.usize(..2)].parse().unwrap();
        let map = MapId(2 + u32::from(self.draw.u8(..6) == 0) * 90);
        match self.draw.u8(..7) {
            0 => Command::TryAdd(backend),
            1 => Command::AddBackend { backend, defaults: "any".parse().unwrap() },
            2 => Command::PublishBackend(backend),
            3 | 4 => Command::AddRoute { map, route, backend },
            5 => Command::SetRoute { map, route, backend },
            _ => Command::DelRoute { map, route },
        }
    }
}

fn placeholder() -> ServerAddr {
    ServerAddr::try_from(SocketAddr::from(([127, 0, 0, 1], 1))).unwrap()
}

impl Order {
    /// The command with its address, and its line.
    pub(crate) fn fill_in(&self, addr_of: impl Fn(usize) -> SocketAddr) -> (Command, String) {
        let mut command = self.command.clone();
        if let (Command::AddServer { addr, .. } | Command::SetAddr { addr, .. }, Some(to)) =
            (&mut command, self.to)
        {
            let to = match to {
                Where::App(app) => addr_of(app),
                Where::Nothing(addr) => addr,
            };
            *addr = ServerAddr::try_from(to).unwrap();
        }
        let mut line = command.to_string();
        if self.weightless
            && let Command::AddServer { weight, .. } = &command
        {
            line = line.replace(&format!(" weight {weight} "), " weight 0 ");
        }
        (command, line)
    }
}
