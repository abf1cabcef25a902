//! The commands that look, the program as a whole, on a real etcd and a real HAProxy.
#![expect(clippy::unwrap_used, reason = "a test fails by a panic, helpers included")]

mod check;
mod explain;
mod fixture;
mod notify;
mod plan;
mod suspects;
mod tls;

use std::net::TcpListener;

/// An app as far as HAProxy's check goes: it takes connections.
fn app() -> (TcpListener, u16) {
    let app = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = app.local_addr().unwrap().port();
    (app, port)
}
