//! The health service over a real connection, asked with the generated client.

use std::{net::SocketAddr, time::Duration};

use tokio::{net::TcpListener, sync::watch, time::timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Streaming, transport::Channel, transport::Server};

use super::ProbeTlsOptions;
use super::{
    v1::{
        HealthCheckRequest, HealthCheckResponse, HealthListRequest, health_check_response::ServingStatus,
        health_client::HealthClient,
    },
    *,
};

/// Longer than anything here takes; a test that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running server, the statuses it serves from, and a client of it.
struct Stack {
    addr: SocketAddr,
    statuses: watch::Sender<Statuses>,
    shutdown: CancellationToken,
    client: HealthClient<Channel>,
}

impl Stack {
    async fn serving(statuses: &[(&str, Status)]) -> Self {
        let (sender, receiver) = watch::channel(map(statuses));
        let shutdown = CancellationToken::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server =
            Server::builder().add_service(server(receiver, shutdown.clone())).serve_with_incoming_shutdown(
                TcpListenerStream::new(listener),
                shutdown.clone().cancelled_owned(),
            );
        tokio::spawn(server);
        let client = HealthClient::connect(format!("http://{addr}")).await.unwrap();
        Self { addr, statuses: sender, shutdown, client }
    }

    fn now(&self, statuses: &[(&str, Status)]) {
        self.statuses.send_replace(map(statuses));
    }

    async fn check(&mut self, service: &str) -> Result<ServingStatus, Code> {
        let answer = self.client.check(request(service)).await;
        answer.map(|answer| answer.into_inner().status()).map_err(|status| status.code())
    }

    async fn watch(&mut self, service: &str) -> Streaming<HealthCheckResponse> {
        self.client.watch(request(service)).await.unwrap().into_inner()
    }

    async fn probe(&self, service: &str) -> ProbeOutcome {
        probe(&self.addr.to_string(), service, PATIENCE, &ProbeTlsOptions::default()).await
    }
}

fn map(statuses: &[(&str, Status)]) -> Statuses {
    Arc::new(statuses.iter().map(|(name, status)| ((*name).to_owned(), *status)).collect())
}

fn request(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

/// The next status, or `None` at the stream's end.
async fn next(stream: &mut Streaming<HealthCheckResponse>) -> Option<ServingStatus> {
    let message = timeout(PATIENCE, stream.message()).await.expect("the stream says nothing");
    message.unwrap().map(|answer| answer.status())
}

#[tokio::test]
async fn check_answers_for_exactly_the_service_asked_for() {
    let mut stack = Stack::serving(&[("", Status::Serving), ("web", Status::NotServing)]).await;

    assert_eq!(stack.check("").await, Ok(ServingStatus::Serving));
    assert_eq!(stack.check("web").await, Ok(ServingStatus::NotServing));
    assert_eq!(stack.check("we").await, Err(Code::NotFound));
    assert_eq!(stack.check("Web").await, Err(Code::NotFound));

    stack.now(&[("web", Status::Serving)]);
    assert_eq!(stack.check("web").await, Ok(ServingStatus::Serving));
    assert_eq!(stack.check("").await, Err(Code::NotFound));
}

#[tokio::test]
async fn a_request_far_larger_than_a_name_is_refused() {
    let mut stack = Stack::serving(&[]).await;
    assert_eq!(stack.check(&"x".repeat(10_000)).await, Err(Code::OutOfRange));
}

#[tokio::test]
async fn watch_speaks_at_once_and_then_only_of_its_own_service() {
    let mut stack = Stack::serving(&[("web", Status::Serving)]).await;
    let mut stream = stack.watch("web").await;
    assert_eq!(next(&mut stream).await, Some(ServingStatus::Serving));

    // A stream on the other service shows that the unrelated change has been through the server.
    let mut other = stack.watch("other").await;
    assert_eq!(next(&mut other).await, Some(ServingStatus::ServiceUnknown));
    stack.now(&[("web", Status::Serving), ("other", Status::Serving)]);
    assert_eq!(next(&mut other).await, Some(ServingStatus::Serving));

    stack.now(&[("web", Status::NotServing), ("other", Status::Serving)]);
    assert_eq!(next(&mut stream).await, Some(ServingStatus::NotServing), "no second SERVING before it");
}

#[tokio::test]
async fn watch_of_an_unknown_service_stays_open_until_it_is_known_and_after() {
    let mut stack = Stack::serving(&[]).await;
    let mut stream = stack.watch("web").await;
    assert_eq!(next(&mut stream).await, Some(ServingStatus::ServiceUnknown));

    stack.now(&[("web", Status::NotServing)]);
    assert_eq!(next(&mut stream).await, Some(ServingStatus::NotServing));
    stack.now(&[]);
    assert_eq!(next(&mut stream).await, Some(ServingStatus::ServiceUnknown));
    stack.now(&[("web", Status::Serving)]);
    assert_eq!(next(&mut stream).await, Some(ServingStatus::Serving));
}

#[tokio::test]
async fn shutdown_ends_an_open_watch() {
    let mut stack = Stack::serving(&[("web", Status::Serving)]).await;
    let mut stream = stack.watch("web").await;
    assert_eq!(next(&mut stream).await, Some(ServingStatus::Serving));

    stack.shutdown.cancel();

    assert_eq!(next(&mut stream).await, None);
}

#[tokio::test]
async fn watches_are_bounded_and_a_closed_one_makes_room() {
    let mut stack = Stack::serving(&[("web", Status::Serving)]).await;
    let mut open = Vec::new();
    for _ in 0..WATCHES_MAX {
        open.push(stack.watch("web").await);
    }
    let refused = stack.client.watch(request("web")).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);

    open.pop();

    let mut client = stack.client.clone();
    let room = async { while client.watch(request("web")).await.is_err() {} };
    timeout(PATIENCE, room).await.expect("the closed stream's place is free again");
}

#[tokio::test]
async fn list_answers_with_all_services() {
    let mut stack = Stack::serving(&[("", Status::Serving), ("web", Status::NotServing)]).await;

    let answer = stack.client.list(HealthListRequest {}).await.unwrap().into_inner();

    let listed: Vec<_> =
        answer.statuses.iter().map(|(name, answer)| (name.as_str(), answer.status())).collect();
    assert_eq!(listed, [("", ServingStatus::Serving), ("web", ServingStatus::NotServing)]);
}

#[tokio::test]
async fn list_of_more_than_a_hundred_services_is_refused() {
    let mut stack = Stack::serving(&[]).await;
    let names: Vec<_> = (0..=SERVICES_LISTED_MAX).map(|n| format!("service-{n}")).collect();
    let statuses: Vec<_> = names.iter().map(|name| (name.as_str(), Status::Serving)).collect();

    stack.now(&statuses[..SERVICES_LISTED_MAX]);
    let answer = stack.client.list(HealthListRequest {}).await.unwrap().into_inner();
    assert_eq!(answer.statuses.len(), SERVICES_LISTED_MAX);

    stack.now(&statuses);
    let refused = stack.client.list(HealthListRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn probe_answers_as_grpc_health_probe_does() {
    let stack = Stack::serving(&[("", Status::Serving), ("web", Status::NotServing)]).await;

    assert_eq!(stack.probe("").await.exit_code(), 0);
    assert_eq!(probe("nonsense", "", PATIENCE, &ProbeTlsOptions::default()).await.exit_code(), 1);
    let unknown = stack.probe("absent").await;
    assert_eq!(unknown.exit_code(), 3);
    assert!(unknown.to_string().contains("unknown service `absent`"), "{unknown}");
    let not_serving = stack.probe("web").await;
    assert_eq!((not_serving.exit_code(), not_serving.to_string().as_str()), (4, "status: NOT_SERVING"));
}

#[tokio::test]
async fn probe_tells_no_listener_from_no_answer() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = silent.local_addr().unwrap().to_string();

    let late = probe(&addr, "", Duration::from_millis(200), &ProbeTlsOptions::default()).await;
    assert_eq!(late.exit_code(), 3, "{late}");

    drop(silent);
    let refused = probe(&addr, "", PATIENCE, &ProbeTlsOptions::default()).await;
    assert_eq!(refused.exit_code(), 2);
    assert!(refused.to_string().to_lowercase().contains("connection refused"), "{refused}");
}

#[tokio::test]
async fn probe_of_a_server_without_health_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let routes = tonic::service::Routes::default();
    tokio::spawn(Server::builder().add_routes(routes).serve_with_incoming(TcpListenerStream::new(listener)));

    let outcome = probe(&addr, "", PATIENCE, &ProbeTlsOptions::default()).await;

    assert_eq!(outcome.exit_code(), 3);
    assert!(outcome.to_string().contains("does not serve grpc.health.v1.Health"), "{outcome}");
}
