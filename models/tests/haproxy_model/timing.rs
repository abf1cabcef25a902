//! When a server is checked first: the model's word against the real one's deed.

use std::net::SocketAddr;
use std::time::Duration;

use haproxy::answer::servers_state::ServersState;
use haproxy::{Check, CheckInterval, Command, Dialogue, ServerOptions, ServerPath, ServerState};
use models::haproxy::{BackendSetup, Haproxy};
use registry::time::{Clock, Tick};

use super::pair::{MAPS, Pair, SECTIONS, version_of};
use super::real::Real;
use super::script::{BACKENDS, Order};

/// How far apart the two may be. The sequences differ by more.
const SLACK: Duration = Duration::from_millis(120);
/// Longest that a first check is waited for.
const WITHIN: Duration = Duration::from_secs(5);

async fn health(dialogue: &mut Dialogue) -> Option<bool> {
    let answers = dialogue.ask(&[Command::ShowServersState(None)]).await.unwrap();
    ServersState::parse(&answers[0]).unwrap().servers[0].check_passed
}

/// Sends `lines` one after the other, each after its wait in milliseconds, and compares when the first check fails.
async fn first_check<const N: usize>(lines: [(u64, &str); N]) {
    let real = Real::start(SECTIONS, &MAPS).await;
    let mut dialogue = real.dialogue().await;
    let info = dialogue.ask(&[Command::ShowInfo]).await.unwrap();
    let backends = BACKENDS.map(BackendSetup::named).to_vec();
    let mut model = Haproxy::new(version_of(&info[0]), backends, Clock.now());
    let worker = model.connect().unwrap();
    let nothing_there: SocketAddr = "127.0.0.1:1".parse().unwrap();
    for (wait_ms, line) in lines {
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        let line = line.replace("ADDR", &nothing_there.to_string());
        dialogue.ask_lines(std::slice::from_ref(&line)).await.unwrap();
        model.ask(Clock.now(), worker, &line).unwrap();
    }
    let (from, due) = (Clock.now(), model.next_check().unwrap());
    let seen = loop {
        if health(&mut dialogue).await == Some(false) {
            break Clock.now();
        }
        assert!(Clock.now().since(from) < WITHIN, "{lines:?}: no check");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let after = |tick: Tick| tick.since(from);
    assert!(after(seen).abs_diff(after(due)) < SLACK, "{lines:?}: {:?}, not {:?}", after(seen), after(due));
}

#[tokio::test]
async fn the_first_check_comes_when_the_model_says() {
    let add = "add server web/a ADDR id 1 weight 1 check inter 900ms rise 1 fall 3";
    let down = "add server web/a ADDR id 1 weight 1 check inter 2s downinter 300ms rise 1 fall 3";
    let (enable, ready) = ("enable health web/a", "set server web/a state ready");
    tokio::join!(
        first_check([(0, add), (0, enable), (0, ready)]),
        // The timer runs from the beginning, in steps of `inter`.
        first_check([(0, add), (600, enable), (0, ready)]),
        first_check([(0, add), (1_200, ready), (0, enable)]),
        // In MAINT a server is checked, too, if it was not ready before.
        first_check([(0, add), (0, enable)]),
        // A new server is down: its first check comes after `downinter`, and when that is missed, in steps of `inter`.
        first_check([(0, down), (0, enable), (0, ready)]),
        first_check([(0, down), (0, enable), (0, ready), (0, "set server web/a health down")]),
        first_check([(0, down), (500, enable), (0, ready)]),
    );
}

/// Between two checks the health says how many of them are missing to up or down: what an order does to it shows at once.
#[tokio::test]
async fn orders_change_the_health_alike() {
    let mut pair = Pair::start().await;
    let server = || ServerPath::new("web".parse().unwrap(), "a".parse().unwrap());
    let inter = CheckInterval::try_from(Duration::from_mins(1)).unwrap();
    let (rise, fall) = (3.try_into().unwrap(), 2.try_into().unwrap());
    let check = Some(Check { inter, rise, fall, down_inter: None });
    let init_down = pair.version().has_init_state();
    let options = ServerOptions { check, init_down, slowstart_s: 0 };
    let (id, weight) = (10_000.try_into().unwrap(), 100.try_into().unwrap());
    let state = |state| Command::SetState { server: server(), state };
    let enable = || Command::EnableHealth { server: server() };
    let down = || Command::HealthDown { server: server() };
    let add = |options| Command::AddServer { server: server(), id, addr: pair.addr(0), weight, options };
    let (plain, init_down) = (add(ServerOptions { init_down: false, ..options }), add(options));
    let delete = Command::DelServer { server: server() };
    let (ready, drain, maint) =
        (state(ServerState::Ready), state(ServerState::Drain), state(ServerState::Maint));
    let orders = [
        &[plain.clone(), ready.clone(), enable(), maint.clone(), ready.clone(), down(), drain.clone()][..],
        &[maint.clone(), down(), drain.clone(), ready.clone(), maint.clone(), delete.clone()],
        &[plain, ready.clone(), maint.clone(), ready.clone(), enable(), maint.clone(), delete.clone()],
        &[init_down, enable(), ready.clone(), maint.clone(), drain, ready, enable(), maint, delete],
    ];
    for command in orders.concat() {
        let when = command.to_string();
        pair.ask(&[Order { command, to: None, weightless: false }]).await;
        pair.agree_between_checks(&when).await;
    }
}
