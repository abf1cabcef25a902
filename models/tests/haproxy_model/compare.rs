//! What is compared of HAProxy and its model: their answers, as the real parsers read them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use haproxy::answer::backends::Backends;
use haproxy::answer::maps;
use haproxy::answer::servers_state::ServersState;
use haproxy::answer::stat;
use haproxy::{Command, Reply};

/// `CONFIGURED`, `ENABLED`, `PAUSED`: the others say what a check does at this instant.
const CHECK_BITS: u32 = 0xe;
const PAUSED: u32 = 0x8;

/// What both are asked for.
pub(crate) fn questions() -> Vec<String> {
    let mut asked = vec![
        Command::ShowBackends.to_string(),
        Command::ShowServersState(None).to_string(),
        Command::ShowServersState(Some("api".parse().unwrap())).to_string(),
        Command::ShowStatServers(None).to_string(),
        Command::ShowMaps.to_string(),
    ];
    asked.extend((0..3).map(|map| Command::ShowMap(haproxy::MapId(map)).to_string()));
    asked
}

/// The answers to the questions, without what is a matter of time or of memory addresses.
pub(crate) fn digest(answers: &[String]) -> BTreeMap<String, String> {
    let mut digest = BTreeMap::new();
    let mut put = |what: String, value: String| assert!(digest.insert(what, value).is_none());
    let backends = Backends::parse(&answers[0]).unwrap();
    put("backends".into(), format!("{:?}", backends.names));
    for (scope, text) in [("all", &answers[1]), ("api", &answers[2])] {
        let state = ServersState::parse(text).unwrap();
        let mut order = String::new();
        for (row, health) in state.servers.iter().zip(healths(text)) {
            let check = u32::from(row.check.is_enabled()) << 1 | u32::from(row.check.is_configured());
            let _ = write!(order, "{} ", row.server);
            put(
                format!("{scope} state {}", row.server),
                format!(
                    "id {} addr {:?} admin {:#x} op {:?} weight {} of {} check {check:#x} {:?} health {health}",
                    row.id,
                    row.addr(),
                    row.admin.bits(),
                    row.op,
                    row.weight,
                    row.initial_weight,
                    row.check_passed,
                ),
            );
        }
        put(format!("{scope} order"), order);
    }
    for row in stat::rows(&answers[3]).unwrap() {
        let check_status = row.check_status.trim_start_matches("* ");
        put(
            format!("stat {}", row.server),
            format!(
                "id {} {:?} addr {:?} weight {} effective {} scur {} qcur {} {check_status}",
                row.id, row.status, row.addr, row.weight, row.effective_weight, row.scur, row.qcur,
            ),
        );
    }
    for listed in maps::list(&answers[4]).unwrap() {
        put(format!("map of {}", listed.backend), format!("empty {}", listed.is_empty));
    }
    put("maps of routes".into(), maps::routes(&answers[4]).unwrap().len().to_string());
    for (at, text) in answers[5..].iter().enumerate() {
        put(format!("entries of map {at}"), format!("{:?}", maps::entries(text).unwrap()));
    }
    digest
}

/// The column `srv_check_health` and the bits of `srv_check_state`, which lb-sync does not read. While checks are paused
/// the health means nothing: a check that ends just after MAINT began still counts, and leaving MAINT sets it anew.
fn healths(text: &str) -> impl Iterator<Item = String> + '_ {
    text.lines().skip(2).filter(|line| !line.is_empty()).map(|line| {
        let columns: Vec<&str> = line.split(' ').collect();
        let bits = columns[13].parse::<u32>().unwrap() & CHECK_BITS;
        let health = if bits & PAUSED == 0 { columns[12] } else { "of no matter" };
        format!("{health} bits {bits:#x} id given {} port {}", columns[16], columns[18])
    })
}

/// Both answers to one command mean the same; where the meaning is one of the known ones, they are the same text.
pub(crate) fn same_reply(command: &Command, real: &str, model: &str) -> bool {
    match (Reply::read(command, real), Reply::read(command, model)) {
        (Reply::Other(_), Reply::Other(_)) => true,
        (a, b) => a == b && (real == model || matches!(command, Command::TryAdd(_))),
    }
}

/// Lines that differ, for a failure's message.
pub(crate) fn difference(real: &BTreeMap<String, String>, model: &BTreeMap<String, String>) -> String {
    let keys: std::collections::BTreeSet<&String> = real.keys().chain(model.keys()).collect();
    let differs = |key: &&&String| real.get(**key) != model.get(**key);
    keys.iter().filter(differs).fold(String::new(), |mut text, key| {
        let none = "none".to_owned();
        let (real, model) = (real.get(*key).unwrap_or(&none), model.get(*key).unwrap_or(&none));
        let _ = writeln!(text, "{key}\n  real  {real}\n  model {model}");
        text
    })
}
