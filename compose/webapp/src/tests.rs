//! The routes and the stop, over a real socket, read as any client would.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};

use crate::{
    app,
    serve::{self, Ended},
};

/// Longer than anything here takes; a test that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running app and the way to stop it.
struct Webapp {
    addr: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<Ended>>,
}

impl Webapp {
    async fn serving() -> Self {
        Self::finishing_within(PATIENCE).await
    }

    async fn finishing_within(finish_max: Duration) -> Self {
        let listener = serve::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move { stopped.await.unwrap_or_default() };
        let app = app::router("box".to_owned(), "s1".to_owned(), false);
        let ended = tokio::spawn(serve::run(listener, app, shutdown, finish_max));
        Self { addr, stop, ended }
    }

    async fn ask(&self, request: &str, headers: &str, body: &str) -> Answer {
        Answer::read(self.send(request, headers, body).await).await
    }

    async fn get(&self, headers: &str) -> Answer {
        self.ask("GET /", headers, "").await
    }

    async fn delay(&self, body: &str) -> Answer {
        self.ask("POST /delay", "", body).await
    }

    /// A connection on which a request has been sent.
    async fn send(&self, request: &str, headers: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        let length = body.len();
        let text = format!(
            "{request} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        );
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    async fn read(mut stream: TcpStream) -> Self {
        let mut text = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut text)).await.expect("no answer").unwrap();
        let (head, body) = text.split_once("\r\n\r\n").expect("not HTTP");
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap().parse().unwrap();
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { status, headers, body: body.to_owned() }
    }

    /// The header with which the client of this answer comes back.
    fn cookie(&self) -> String {
        format!("Cookie: {}\r\n", self.headers["set-cookie"].split(';').next().unwrap())
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

#[tokio::test]
async fn get_says_who_served_it() {
    let webapp = Webapp::serving().await;

    let answer = webapp.get("").await;

    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.headers["x-backend-ip"], "127.0.0.1");
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(answer.headers["set-cookie"], format!("NODESESSID={id}; Path=/; HttpOnly"));
    let fields = r#"{"hello":"world!","ip":"127.0.0.1","host":"box","tag":"s1","sessionViews":1,"id":""#;
    assert_eq!(answer.body, format!("{fields}{id}\"}}"));
}

#[tokio::test]
async fn get_counts_the_views_of_each_session() {
    let webapp = Webapp::serving().await;
    let first = webapp.get("").await;

    let again = webapp.get(&first.cookie()).await;
    let stranger = webapp.get("").await;

    assert_eq!(again.json()["sessionViews"], 2);
    assert_eq!(again.json()["id"], first.json()["id"]);
    assert!(!again.headers.contains_key("set-cookie"), "the client has its cookie already");
    assert_eq!(stranger.json()["sessionViews"], 1);
    assert_ne!(stranger.json()["id"], first.json()["id"]);
}

#[tokio::test]
async fn delay_slows_get_and_not_the_health_check() {
    let webapp = Webapp::serving().await;
    let answer = webapp.delay(r#"{"delay": 60000}"#).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"delay":60000}"#));

    let mut slowed = webapp.send("GET /", "", "").await;
    assert_eq!(webapp.ask("HEAD /", "", "").await.status, 200);
    let nothing_yet = timeout(Duration::from_millis(100), slowed.read_u8()).await;
    assert!(nothing_yet.is_err(), "the GET waits, while the HEAD after it has been answered");

    webapp.delay(r#"{"delay": 0}"#).await;
    assert_eq!(webapp.get("").await.status, 200);
}

#[tokio::test]
async fn delay_refuses_what_it_cannot_do() {
    let webapp = Webapp::serving().await;
    let too_large = " ".repeat(2000);
    for body in ["", "fast", r#"{"delay": 60001}"#, &too_large] {
        let answer = webapp.delay(body).await;
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.body.contains(r#"{"delay": 250}"#), "{}", answer.body);
    }
}

#[tokio::test]
async fn head_is_a_health_check_without_a_session() {
    let webapp = Webapp::serving().await;

    let answer = webapp.ask("HEAD /", "", "").await;

    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    assert!(!answer.headers.contains_key("set-cookie"));
}

#[tokio::test]
async fn an_unknown_path_is_not_found() {
    let webapp = Webapp::serving().await;
    assert_eq!(webapp.ask("GET /absent", "", "").await.status, 404);
}

#[tokio::test]
async fn a_stop_lets_the_request_in_flight_finish() {
    let webapp = Webapp::serving().await;
    webapp.delay(r#"{"delay": 300}"#).await;
    let slowed = webapp.send("GET /", "", "").await;
    // Answered after the slow request was sent, so that it has been taken in.
    webapp.ask("HEAD /", "", "").await;

    webapp.stop.send(()).unwrap();

    assert_eq!(Answer::read(slowed).await.status, 200);
    let ended = timeout(PATIENCE, webapp.ended).await.unwrap().unwrap().unwrap();
    assert_eq!(ended, Ended::Finished);
    assert!(TcpStream::connect(webapp.addr).await.is_err(), "still listening");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let webapp = Webapp::finishing_within(Duration::from_millis(50)).await;
    webapp.delay(r#"{"delay": 60000}"#).await;
    let _slowed = webapp.send("GET /", "", "").await;
    webapp.ask("HEAD /", "", "").await;

    webapp.stop.send(()).unwrap();

    let ended = timeout(PATIENCE, webapp.ended).await.unwrap().unwrap().unwrap();
    assert_eq!(ended, Ended::CutOff);
}
