//! An app that registers itself. Start an etcd, then:
//!
//! ```sh
//! cargo run -p leasehold --example self_registering -- 3000
//! registrar list
//! ```
//!
//! Ctrl-C or TERM: it leaves first, and serves until every balancer is done with it.

use std::net::Ipv4Addr;

use axum::Router;
use axum::routing::get;
use leasehold::{Naming, RegistrationBuilder};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port: u16 = std::env::args().nth(1).ok_or("say which port to listen on")?.parse()?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
    let app = Router::new().route("/", get(|| async { "hello\n" }));
    tokio::spawn(async { axum::serve(listener, app).await });

    let mut join = RegistrationBuilder::new("web".parse()?, port.try_into()?);
    join.naming = Some(Naming::Auto);
    // A second argument names etcd.
    if let Some(endpoint) = std::env::args().nth(2) {
        join.etcd.etcd_endpoints = vec![endpoint];
    }
    let mut place = join.start()?;

    let mut term = signal(SignalKind::terminate())?;
    tokio::select! {
        () = place.registered() => {}
        _ = term.recv() => return Ok(()),
    }
    tokio::select! {
        _ = term.recv() => {}
        asked = tokio::signal::ctrl_c() => asked?,
    }
    place.leave().await;
    Ok(())
}
