//! What looking costs: lb-sync's page among a thousand instances, and changes while many look on.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::value_parser;
use proto::registry::v1::WatchInstancesRequest;
use proto::registry::v1::registry_client::RegistryClient;
use serde_json::{Value, json};
use testkit::port::loopback;
use testkit::{Clock, Stack, wait};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::app::App;
use crate::latency::register::{Leave, Register};
use crate::latency::way::Way;
use crate::machine;
use crate::registrant::Registrant;
use crate::screen::say;
use crate::table::{self, Times};

/// The service that is large.
const SERVICE: &str = "web";
/// Requests for the page, and changes that are looked for on it.
const PAGES: u32 = 50;
/// Records in one transaction.
const TOGETHER: usize = 100;
/// Longest that anything may take.
const SEEN_MAX: Duration = Duration::from_mins(1);
/// Connections over which the requests a second are spread.
const ASKERS: u32 = 20;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Plan {
    /// How many instances there are.
    #[arg(long, default_value_t = 1_000, value_parser = value_parser!(u16).range(2..=5_000))]
    instances: u16,
    /// How many gRPC clients watch them.
    #[arg(long, default_value_t = 100, value_parser = value_parser!(u32).range(1..=120))]
    watchers: u32,
    /// Requests for `/metrics` a second.
    #[arg(long, default_value_t = 1_000, value_parser = value_parser!(u32).range(20..=10_000))]
    rate: u32,
    /// Changes with and without them, in turns.
    #[arg(long, default_value_t = 100, value_parser = value_parser!(u32).range(1..=10_000))]
    rounds: u32,
}

/// Measures and prints.
pub(crate) async fn run(plan: Plan) -> Result<Value> {
    let stack = Stack::native().with_services(&[SERVICE, "leasehold"]).start().await?;
    let about = machine::describe()?;
    say(&about);
    let app = App::start((std::net::Ipv4Addr::UNSPECIFIED, stack.ports().free()?).into(), "crowd").await?;
    let registrant = Registrant::connect(&stack, SERVICE).await?;
    let lease = registrant.lease().await?;
    let records: Vec<(String, Value)> = (0..plan.instances).map(|n| (id(n), record(n, app.port()))).collect();
    for some in records.chunks(TOGETHER) {
        registrant.put_together(some, lease).await?;
    }
    let acks = async || Ok((registrant.ack_count().await? >= u64::from(plan.instances)).then_some(()));
    wait::until(SEEN_MAX, "all acks", acks).await?;
    let port = stack.lb_sync().port();
    say(format_args!("{} instances\n", plan.instances));

    let (mut first_byte, mut size) = (Times::default(), 0);
    for _ in 0..PAGES {
        let (took, bytes) = page(port).await?;
        first_byte.push(took);
        size = bytes;
    }
    say(table::one("the page: first byte", &first_byte));
    say(format_args!("the page: {} kB", size / 1_024));
    let on_page = shown(port, &registrant, lease, app.port()).await?;
    say(table::one("put → on an open page", &on_page));
    say("");

    let (mut busy, mut quiet) = (Times::default(), Times::default());
    let mut way =
        Way::new(&stack, "leasehold", Register::record(&stack, "leasehold", testkit::PREFIX).await?).await?;
    for round in 0..plan.rounds {
        quiet.push(join(&mut way).await?);
        // Ten at a time: a hundred streams are not opened and closed for a single change.
        if round % 10 == 9 {
            let lookers = look_on(port, &plan).await?;
            for _ in 0..10 {
                busy.push(join(&mut way).await?);
            }
            drop(lookers);
        }
    }
    let title = "put → first request served";
    let (many, quiet_name) = (format!("{} watch, {}/s ask", plan.watchers, plan.rate), "no watcher");
    say(table::of(title, (&many, &busy), (quiet_name, &quiet)));
    stack.end().await?;
    Ok(
        json!({ "on": machine::lines(&about), "instances": plan.instances, "watchers": plan.watchers, "rate": plan.rate,
        "first_byte_ms": first_byte.json(), "page_bytes": size, "put_to_page_ms": on_page.json(),
        "put_to_served_ms": { "watched": busy.json(), "quiet": quiet.json() } }),
    )
}

fn id(n: u16) -> String {
    format!("{SERVICE}/web-{n}")
}

fn record(n: u16, port: u16) -> Value {
    // No two at one address.
    let (high, low) = (n / 250, 1 + n % 250);
    json!({ "address": format!("127.1.{high}.{low}"), "port": port, "owner": format!("o-{n}") })
}

async fn join(way: &mut Way<'_>) -> Result<Duration> {
    Ok(Box::pin(way.round(Leave::Revoke, Duration::ZERO)).await?.0)
}

async fn ask(port: u16, path: &str) -> Result<BufReader<TcpStream>> {
    let mut stream = TcpStream::connect(loopback(port)).await?;
    stream.set_nodelay(true)?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
        .await?;
    Ok(BufReader::new(stream))
}

/// How long until its first byte, and how many there are.
async fn page(port: u16) -> Result<(Duration, usize)> {
    let start = Clock.now();
    let mut stream = ask(port, "/").await?;
    let first = stream.read_u8().await?;
    let took = Clock.now().since(start);
    ensure!(first == b'H', "no answer in HTTP");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await?;
    ensure!(rest.starts_with(b"TTP/1.1 200"), "the page cannot be had");
    // Another 100 ms, so that the next one is drawn up anew.
    tokio::time::sleep(Duration::from_millis(120)).await;
    Ok((took, rest.len()))
}

/// How long a change takes to reach a page that is open.
async fn shown(port: u16, registrant: &Registrant, lease: i64, app: u16) -> Result<Times> {
    let mut stream = ask(port, "/live").await?;
    let mut times = Times::default();
    for n in 0..PAGES {
        let name = format!("late-{n}");
        let at = u16::try_from(n)?;
        let put = Clock.now();
        registrant
            .put(&name, &json!({ "address": format!("127.9.9.{}", at + 1), "port": app }), lease)
            .await?;
        tokio::time::timeout(SEEN_MAX, until(&mut stream, &name)).await.context("not shown")??;
        times.push(Clock.now().since(put));
    }
    Ok(times)
}

async fn until(stream: &mut BufReader<TcpStream>, name: &str) -> Result<()> {
    let mark = format!("<td>{name}");
    let mut line = String::new();
    while !line.contains(&mark) {
        line.clear();
        ensure!(stream.read_line(&mut line).await? > 0, "the page's events have ended");
    }
    Ok(())
}

/// Everybody who looks on, until it is dropped.
async fn look_on(port: u16, plan: &Plan) -> Result<JoinSet<()>> {
    let mut lookers = JoinSet::new();
    for _ in 0..plan.watchers {
        let mut client = RegistryClient::connect(format!("http://127.0.0.1:{port}")).await?;
        let mut stream = client.watch_instances(WatchInstancesRequest::default()).await?.into_inner();
        ensure!(stream.message().await?.is_some(), "no snapshot");
        lookers.spawn(async move { while let Ok(Some(_)) = stream.message().await {} });
    }
    for _ in 0..ASKERS {
        let mut stream = BufReader::new(TcpStream::connect(loopback(port)).await?);
        // Answered once before anything is measured.
        scrape(&mut stream).await?;
        let pause = Duration::from_secs(1) * ASKERS / plan.rate;
        lookers.spawn(async move {
            let mut ticks = tokio::time::interval(pause);
            loop {
                ticks.tick().await;
                if scrape(&mut stream).await.is_err() {
                    return;
                }
            }
        });
    }
    ensure!(lookers.try_join_next().is_none(), "a watcher was sent away");
    Ok(lookers)
}

async fn scrape(stream: &mut BufReader<TcpStream>) -> Result<()> {
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await?;
    let (mut length, mut line) = (0, String::new());
    loop {
        line.clear();
        ensure!(stream.read_line(&mut line).await? > 0, "closed");
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        if line == "\r\n" {
            break;
        }
    }
    stream.read_exact(&mut vec![0; length]).await?;
    Ok(())
}
