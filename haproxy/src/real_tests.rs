//! The dialogue with the HAProxy that is installed here.

use std::time::Duration;

use super::answer::backends::Backends;
use super::answer::info::Info;
use super::answer::servers_state::{ServerRow, ServersState};
use super::answer::stat::{StatRow, Status};
use super::real::{Haproxy, WITHIN, ask};
use super::*;

fn server(name: &str) -> ServerPath {
    ServerPath::new("web".parse().unwrap(), name.parse().unwrap())
}

fn addr(text: &str) -> ServerAddr {
    text.parse::<std::net::SocketAddr>().unwrap().try_into().unwrap()
}

fn add(name: &str, id: u32, at: &str) -> Command {
    let (id, weight) = (id.try_into().unwrap(), 100.try_into().unwrap());
    Command::AddServer { server: server(name), id, addr: addr(at), weight, options: ServerOptions::default() }
}

fn set(name: &str, state: ServerState) -> Command {
    Command::SetState { server: server(name), state }
}

/// Asks, and expects that every command is done.
async fn done(dialogue: &mut Dialogue, commands: &[Command]) {
    let answers = dialogue.ask(commands).await.unwrap();
    for (command, answer) in commands.iter().zip(&answers) {
        assert_eq!(Reply::read(command, answer), Reply::Ok, "{command}: {answer}");
    }
    assert_eq!(answers.len(), commands.len());
}

async fn servers(dialogue: &mut Dialogue) -> Vec<ServerRow> {
    ServersState::parse(&ask(dialogue, Command::ShowServersState(None)).await).unwrap().servers
}

async fn stat(dialogue: &mut Dialogue, row: &ServerRow) -> StatRow {
    let command = Command::ShowStatServer { backend: row.backend_id, id: row.id };
    StatRow::parse(&ask(dialogue, command).await).unwrap().unwrap()
}

#[tokio::test]
async fn a_server_comes_serves_drains_and_goes() {
    let haproxy = Haproxy::start().await;
    let dialogue = &mut haproxy.dialogue().await;

    done(dialogue, &[add("web-1", 10_001, "127.0.0.1:9"), set("web-1", ServerState::Ready)]).await;
    let row = servers(dialogue).await.remove(0);
    assert!(row.admin.is_ready() && row.id.get() == 10_001 && row.addr() == Some(addr("127.0.0.1:9")));
    assert_eq!(stat(dialogue, &row).await.status, Status::NoCheck);

    done(dialogue, &[set("web-1", ServerState::Drain)]).await;
    let drained = stat(dialogue, &row).await;
    assert!(drained.status == Status::Drain && drained.is_idle() && drained.server == row.server);

    done(dialogue, &[set("web-1", ServerState::Maint)]).await;
    assert!(servers(dialogue).await.remove(0).admin.is_forced_maint());
    done(dialogue, &[Command::DelServer { server: server("web-1") }]).await;
    assert_eq!(servers(dialogue).await, []);
}

#[tokio::test]
async fn a_server_moves_between_ipv4_and_ipv6() {
    let haproxy = Haproxy::start().await;
    let dialogue = &mut haproxy.dialogue().await;
    done(dialogue, &[add("web-1", 10_001, "[fd00::5]:3000")]).await;
    for at in ["10.0.0.5:3000", "[fd00::6]:3000", "[fd00::6]:3000", "[::ffff:10.0.0.7]:3001", "[::1]:3001"] {
        done(dialogue, &[Command::SetAddr { server: server("web-1"), addr: addr(at) }]).await;
        let row = servers(dialogue).await.remove(0);
        assert_eq!(row.addr(), Some(addr(at)));
        assert_eq!(stat(dialogue, &row).await.addr, Some(addr(at).into()));
    }
}

#[tokio::test]
async fn checks_and_slow_start_are_taken() {
    let haproxy = Haproxy::start().await;
    let dialogue = &mut haproxy.dialogue().await;
    let times = |n| std::num::NonZeroU16::new(n).unwrap();
    let inter = Duration::from_millis(1500).try_into().unwrap();
    let check = Some(Check { inter, rise: times(1), fall: times(2), down_inter: None });
    let Command::AddServer { server, id, addr, weight, .. } = add("web-1", 10_001, "127.0.0.1:9") else {
        panic!()
    };
    let options = ServerOptions { check, init_down: false, slowstart_s: 30 };
    done(dialogue, &[Command::AddServer { server: server.clone(), id, addr, weight, options }]).await;
    assert!(!servers(dialogue).await.remove(0).check.is_enabled());
    done(dialogue, &[Command::EnableHealth { server: server.clone() }, set("web-1", ServerState::Ready)])
        .await;
    assert!(servers(dialogue).await.remove(0).check.is_enabled());
}

#[tokio::test]
async fn a_thousand_commands_go_in_one_request() {
    let haproxy = Haproxy::start().await;
    let dialogue = &mut haproxy.dialogue().await;
    let adds: Vec<_> =
        (1..=1000).map(|n| add(&format!("web-{n}"), 10_000 + n, &format!("10.0.0.5:{n}"))).collect();
    assert!(adds.iter().map(|line| line.to_string().len()).sum::<usize>() > 4 * 16_384);
    done(dialogue, &adds).await;
    assert_eq!(servers(dialogue).await.len(), 1000);

    // Answers far larger than any buffer between the two, so that neither side may wait for the other.
    let large = vec![Command::ShowServersState(None); 200];
    let answers = dialogue.ask(&large).await.unwrap();
    assert!(answers.iter().all(|answer| ServersState::parse(answer).unwrap().servers.len() == 1000));
}

#[tokio::test]
async fn haproxy_tells_who_it_is_and_what_it_has() {
    let haproxy = Haproxy::start().await;
    let dialogue = &mut haproxy.dialogue().await;
    let answers = dialogue.ask(&[Command::ShowInfo, Command::ShowBackends]).await.unwrap();
    assert!(Info::parse(&answers[0]).unwrap().version.at_least(2, 6));
    let names = Backends::parse(&answers[1]).unwrap().names;
    let names: Vec<_> = names.iter().map(AsRef::as_ref).collect();
    assert_eq!(names, ["web", "empty", "fixed", "map", "consistent"]);
}

#[tokio::test]
async fn a_trial_finds_the_algorithms_that_take_no_servers_and_adds_none() {
    let haproxy = Haproxy::start().await;
    let dialogue = &mut haproxy.dialogue().await;
    for (backend, takes) in
        [("web", true), ("empty", true), ("fixed", false), ("map", false), ("consistent", true)]
    {
        let trial = Command::TryAdd(backend.parse().unwrap());
        let reply = Reply::read(&trial, &ask(dialogue, trial.clone()).await);
        assert_eq!(reply == Reply::Ok, takes, "{backend}: {reply:?}");
    }
    assert_eq!(servers(dialogue).await, []);
}

#[tokio::test]
async fn a_session_outlives_the_idle_timeout_and_notices_a_death() {
    let mut haproxy = Haproxy::start().await;
    let mut dialogue = haproxy.dialogue().await;
    // Three times the `stats timeout`: a close within it would be the timeout's.
    let idle = tokio::time::timeout(Duration::from_millis(1500), dialogue.closed()).await;
    assert!(idle.is_err(), "{idle:?}");
    assert!(dialogue.ask(&[Command::ShowInfo]).await.is_ok());

    haproxy.kill();
    let why = tokio::time::timeout(WITHIN, dialogue.closed()).await.unwrap();
    assert!(matches!(why, DialogueError::Closed), "{why}");
    assert!(matches!(dialogue.ask(&[Command::ShowInfo]).await, Err(DialogueError::Spent)));
    let again = Dialogue::connect(&haproxy.socket("admin"), WITHIN).await;
    assert!(matches!(again, Err(DialogueError::Refused(_))), "{again:?}");
}

#[tokio::test]
async fn a_socket_below_admin_is_refused_with_its_remedy() {
    let haproxy = Haproxy::start().await;
    let error = Dialogue::connect(&haproxy.socket("operator"), WITHIN).await.unwrap_err();
    assert!(matches!(&error, DialogueError::NotAdmin { level, .. } if level == "operator"), "{error}");
    assert!(error.to_string().contains("set `level admin` on `stats socket`"));
}
