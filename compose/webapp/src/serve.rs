//! Listening, serving, and an end that lets requests in flight finish.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use axum::{Router, extract::connect_info::Connected, serve::IncomingStream};
use tokio::{net::TcpListener, sync::oneshot};

/// The longest a stop waits for requests in flight. Docker kills after the same time unless `stop_grace_period` is longer.
pub(crate) const FINISH_MAX: Duration = Duration::from_secs(10);

/// Our own address on the connection of a request: the one by which the balancer knows this instance, also when we
/// listen on all of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalIp(pub(crate) IpAddr);

impl Connected<IncomingStream<'_, TcpListener>> for LocalIp {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        // Only a connection that is already broken has no address, and no answer of ours reaches its client.
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let local = stream.io().local_addr().unwrap_or(unknown);
        // On a socket for both families, an IPv4 client's connection has a mapped address: show what the client used.
        Self(local.ip().to_canonical())
    }
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Every request in flight was answered.
    Finished,
    /// Some took longer than the stop waits, and were cut off.
    CutOff,
}

/// Takes `addr`, or says what stands in the way and what to do.
pub(crate) async fn listen(addr: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(addr)
        .await
        .map_err(|error| anyhow::anyhow!("cannot listen on {addr}: {}\n  {}", plain(&error), advice(&error)))
}

/// The error in words, without its number.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the port is in use".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this host does not have that address".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "stop the program that listens there (`ss -ltnp` shows it), or choose another port with --listen ADDR:PORT"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 may need privileges; choose another with --listen ADDR:PORT"
        }
        _ => "choose another address with --listen ADDR:PORT; 0.0.0.0 listens on all IPv4 addresses",
    }
}

/// Serves until `shutdown`, then takes no more connections and waits, at most `finish_max`, for the requests in flight.
pub(crate) async fn run(
    listener: TcpListener,
    app: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
    finish_max: Duration,
) -> Result<Ended> {
    let (stopping, stopped) = oneshot::channel();
    let app = app.into_make_service_with_connect_info::<LocalIp>();
    let server = axum::serve(listener, app).with_graceful_shutdown(async move {
        shutdown.await;
        // The receiver is gone only when the server has ended already.
        let _ = stopping.send(());
    });
    let patience = async move {
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(finish_max).await;
    };
    tokio::select! {
        end = server.into_future() => end.map(|()| Ended::Finished).context("serving failed"),
        () = patience => Ok(Ended::CutOff),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_is_an_error_that_helps() {
        let taken = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let addr = taken.local_addr().unwrap();

        let error = listen(addr).await.unwrap_err().to_string();

        assert!(error.starts_with(&format!("cannot listen on {addr}: the port is in use\n")), "{error}");
        assert!(error.contains("--listen ADDR:PORT"), "{error}");
    }
}
