use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use proptest::prelude::*;

use super::super::name::MAX_NAME;
use super::super::{Check, CheckInterval};
use super::*;

fn path(backend: &str, server: &str) -> ServerPath {
    ServerPath::new(backend.parse().unwrap(), server.parse().unwrap())
}

fn addr(text: &str) -> ServerAddr {
    text.parse::<SocketAddr>().unwrap().try_into().unwrap()
}

fn add(server: ServerPath, at: ServerAddr, options: ServerOptions) -> Command {
    let (id, weight) = (10_001.try_into().unwrap(), 100.try_into().unwrap());
    Command::AddServer { server, id, addr: at, weight, options }
}

fn checked(millis: u64, rise: NonZeroU16, fall: NonZeroU16) -> Check {
    Check {
        inter: CheckInterval::try_from(Duration::from_millis(millis)).unwrap(),
        rise,
        fall,
        down_inter: None,
    }
}

#[test]
fn each_command_has_its_line() {
    let web = || path("web", "web-1");
    let plain = add(web(), addr("10.0.0.5:3000"), ServerOptions::default());
    let two = NonZeroU16::new(2).unwrap();
    let full =
        ServerOptions { check: Some(checked(2000, NonZeroU16::MIN, two)), init_down: false, slowstart_s: 30 };
    let id = 10_001.try_into().unwrap();
    let lines = [
        (
            plain,
            "add server web/web-1 10.0.0.5:3000 id 10001 weight 100 pool-purge-delay 5s pool-max-conn -1",
        ),
        (
            add(web(), addr("[fd00::5]:3000"), full),
            "add server web/web-1 [fd00::5]:3000 id 10001 weight 100 \
             check inter 2000ms rise 1 fall 2 slowstart 30s pool-purge-delay 5s pool-max-conn -1",
        ),
        (Command::EnableHealth { server: web() }, "enable health web/web-1"),
        (Command::SetState { server: web(), state: ServerState::Ready }, "set server web/web-1 state ready"),
        (Command::SetState { server: web(), state: ServerState::Drain }, "set server web/web-1 state drain"),
        (Command::SetState { server: web(), state: ServerState::Maint }, "set server web/web-1 state maint"),
        (
            Command::SetAddr { server: web(), addr: addr("[fd00::6]:80") },
            "set server web/web-1 addr fd00::6 port 80",
        ),
        (
            Command::SetWeight { server: web(), weight: 0.try_into().unwrap() },
            "set server web/web-1 weight 0",
        ),
        (Command::DelServer { server: web() }, "del server web/web-1"),
        (Command::ShutdownSessions { server: web() }, "shutdown sessions server web/web-1"),
        (Command::AddToMap { map: MapId(2), server: web() }, "add map #2 web-1 1"),
        (Command::DelFromMap { map: MapId(2), server: web() }, "del map #2 web-1"),
        (
            Command::AddRoute {
                map: MapId(2),
                route: "/api".parse().unwrap(),
                backend: "web".parse().unwrap(),
            },
            "add map #2 /api/ web",
        ),
        (
            Command::SetRoute {
                map: MapId(2),
                route: "a.b/c".parse().unwrap(),
                backend: "web".parse().unwrap(),
            },
            "set map #2 a.b/c/ web",
        ),
        (Command::DelRoute { map: MapId(2), route: "/api".parse().unwrap() }, "del map #2 /api/"),
        (
            Command::AddBackend { backend: "web".parse().unwrap(), defaults: "plain".parse().unwrap() },
            "add backend web from plain",
        ),
        (Command::PublishBackend("web".parse().unwrap()), "publish backend web"),
        (Command::ShowMaps, "show map"),
        (Command::ShowMap(MapId(0)), "show map #0"),
        (Command::TryAdd("web".parse().unwrap()), "add server web/lb-sync.check"),
        (Command::ShowInfo, "show info"),
        (Command::ShowBackends, "show backend"),
        (Command::ShowServersState(None), "show servers state"),
        (Command::ShowServersState(Some("web".parse().unwrap())), "show servers state web"),
        (Command::ShowStatServer { backend: 3.try_into().unwrap(), id }, "show stat 3 4 10001"),
    ];
    for (command, line) in lines {
        assert_eq!(command.to_string(), line);
    }
}

#[test]
fn the_longest_line_is_within_the_bound() {
    let longest = "x".repeat(MAX_NAME);
    let most = NonZeroU16::MAX;
    let options = ServerOptions {
        check: Some(checked(86_400_000, most, most)),
        init_down: true,
        slowstart_s: u16::MAX,
    };
    let at = addr("[2001:db8:1111:2222:3333:4444:5555:6666]:65535");
    let line = add(path(&longest, &longest), at, options).to_string();
    assert!(line.len() <= MAX_LINE, "{}", line.len());
}

proptest! {
    /// Whatever a record says: what can be parsed renders as one line, whose words are those of the command.
    #[test]
    fn nothing_parsed_can_break_out_of_its_line(name in ".*", ip: IpAddr, port: u16) {
        let (Ok(server), Ok(at)) = (name.parse(), ServerAddr::new(ip, port)) else { return Ok(()) };
        let web = ServerPath::new("web".parse().unwrap(), server);
        let line = add(web, at, ServerOptions::default()).to_string();
        prop_assert_eq!(line.split(' ').count(), 12);
        prop_assert!(!line.contains(['\n', '\r', ';', '<', '\\', '"', '\'']));
    }
}
