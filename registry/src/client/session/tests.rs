//! The rules that only show with a real socket. Those that need a real etcd are in the integration suite.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    etcd: EtcdOptions,
}

fn session(endpoints: &str) -> Session {
    let line = Line::try_parse_from(["x", "--etcd-endpoints", endpoints]).unwrap();
    Session::new(line.etcd.checked().unwrap())
}

#[tokio::test]
async fn a_dead_endpoint_is_told_at_the_first_call_and_left_for_the_next() {
    // Bound and dropped: nothing listens there.
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let session = session(&format!("http://{dead},http://127.0.0.1:1"));
    let first = session.connected().await.unwrap();
    assert!(first.endpoint.contains(&dead.to_string()), "connecting to a dead endpoint succeeds: it is lazy");
    let error =
        session.call("read", |mut client| async move { client.get("x", None).await }).await.unwrap_err();
    assert_eq!(error.class, Class::Unreachable, "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    assert_eq!(session.connected().await.unwrap().endpoint, "http://127.0.0.1:1");
    session.failed(first.epoch).await;
    assert_eq!(
        session.connected().await.unwrap().endpoint,
        "http://127.0.0.1:1",
        "an old turn changes nothing"
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_endpoint_is_given_up_at_the_deadline() {
    // Accepts by its backlog and never answers, as an etcd that was stopped with SIGSTOP does.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let error = session(&endpoint)
        .call("read", |_client| std::future::pending::<Result<(), etcd_client::Error>>())
        .await
        .unwrap_err();
    assert_eq!(error.class, Class::Unreachable);
    assert!(error.cause.contains("no answer within 3 s"), "{error}");
}
