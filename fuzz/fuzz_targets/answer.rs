//! Whatever HAProxy answers is read or refused, and nothing panics. `haproxy/fixtures` holds real answers to begin with.
#![no_main]

use haproxy::answer::backends::Backends;
use haproxy::answer::info::Info;
use haproxy::answer::maps;
use haproxy::answer::servers_state::ServersState;
use haproxy::answer::stat::StatRow;
use haproxy::{Command, MapId, Reply, ServerPath};
use lb_sync::plan::observed::Observed;
use libfuzzer_sys::fuzz_target;
use registry::time::Tick;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let _ = Info::parse(text);
    let _ = maps::list(text);
    let _ = maps::names(text);
    let backends = Backends::parse("# name\nweb\napi\n").unwrap_or_default();
    let _ = Backends::parse(text);
    let mut observed = Observed::read(backends, ServersState::parse(text).unwrap_or_default());
    let row = StatRow::parse(text).ok().flatten();
    for name in ["web/web-1", "web/web-3", "api/api-1"] {
        let Ok(id) = name.parse() else { return };
        let before = observed.clone();
        // What one row cannot tell leaves all as it was.
        if !observed.read_server(&id, row.as_ref(), Tick::from_ms(1)) {
            assert_eq!(observed, before);
        }
        let server = || ServerPath::from(&id);
        for command in [
            Command::DelServer { server: server() },
            Command::EnableHealth { server: server() },
            Command::AddToMap { map: MapId(0), server: server() },
            Command::DelFromMap { map: MapId(0), server: server() },
            Command::AddBackend { backend: "web".parse().unwrap(), defaults: "plain".parse().unwrap() },
            Command::DelRoute { map: MapId(0), route: "/api".parse().unwrap() },
        ] {
            let _ = Reply::read(&command, text);
        }
    }
});
