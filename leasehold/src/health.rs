//! What a member knows of its app.

use std::net::SocketAddr;

/// What is known of the app.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AppHealth {
    /// Not healthy yet; nothing has been decided.
    #[default]
    Starting,
    /// Not healthy yet, after several checks; why.
    NotYet(String),
    /// Healthy, and listening there.
    Up(SocketAddr),
    /// It was healthy and is not any more; why.
    Down(String),
}
