//! Requests in flight and pooled connections: what they hold up, and how they are cut.

use haproxy::{Command, Reply, ServerOptions, ServerPath, ServerState};
use models::haproxy::Version;

use super::pair::Pair;

fn server(name: &str) -> ServerPath {
    ServerPath::new("web".parse().unwrap(), name.parse().unwrap())
}

async fn serve(pair: &mut Pair, name: &str, app: usize) {
    let id = u32::try_from(10_000 + app).unwrap().try_into().unwrap();
    let weight = 100.try_into().unwrap();
    let add = Command::AddServer {
        server: server(name),
        id,
        addr: pair.addr(app),
        weight,
        options: ServerOptions::default(),
    };
    assert_eq!(pair.order(add).await, Reply::Ok);
    set_state(pair, name, ServerState::Ready).await;
}

async fn set_state(pair: &mut Pair, name: &str, state: ServerState) {
    assert_eq!(pair.order(Command::SetState { server: server(name), state }).await, Reply::Ok);
}

async fn delete(pair: &mut Pair, name: &str) -> Reply {
    pair.order(Command::DelServer { server: server(name) }).await
}

#[tokio::test]
async fn a_pooled_connection_holds_a_server_up_on_2_6_until_it_moves() {
    let mut pair = Pair::start().await;
    serve(&mut pair, "a", 0).await;
    pair.hold("a", "POST", "/hold-keep").await;
    pair.agree("in flight").await;
    set_state(&mut pair, "a", ServerState::Maint).await;
    assert_eq!(delete(&mut pair, "a").await, Reply::StillHasConnections, "a request is in flight");
    pair.release(true).await;
    pair.agree("answered").await;
    if pair.version() == Version::V2_6 {
        assert_eq!(delete(&mut pair, "a").await, Reply::StillHasConnections, "its connection is pooled");
        let addr = std::net::SocketAddr::from(([127, 0, 0, 9], 1)).try_into().unwrap();
        assert_eq!(pair.order(Command::SetAddr { server: server("a"), addr }).await, Reply::Ok);
    }
    assert_eq!(delete(&mut pair, "a").await, Reply::Ok);
}

#[tokio::test]
async fn maint_closes_idle_connections() {
    let mut pair = Pair::start().await;
    serve(&mut pair, "a", 0).await;
    pair.hold("a", "POST", "/hold-keep").await;
    pair.agree("in flight").await;
    pair.release(true).await;
    pair.agree("answered").await;
    set_state(&mut pair, "a", ServerState::Maint).await;
    assert_eq!(delete(&mut pair, "a").await, Reply::Ok);
}

#[tokio::test]
async fn a_get_that_is_shut_down_asks_another_server_on_2_6() {
    let mut pair = Pair::start().await;
    serve(&mut pair, "a", 0).await;
    serve(&mut pair, "b", 1).await;
    pair.hold("a", "GET", "/hold").await;
    pair.agree("in flight").await;
    pair.cut("a").await;
    pair.agree("cut").await;
    pair.release(false).await;
    pair.agree("answered").await;
}
