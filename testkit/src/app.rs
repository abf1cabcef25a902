//! A webapp on its own: no registrar, it is registered by hand or not at all.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use crate::home::Home;
use crate::port::loopback;
use crate::process::Daemon;
use crate::{http, wait};

/// Longest a start may take.
const START_MAX: Duration = Duration::from_secs(10);

/// A running webapp.
#[derive(Debug)]
pub struct App {
    daemon: Daemon,
    port: u16,
}

impl App {
    /// Starts one that answers with `tag`, and waits until it does.
    pub async fn launch(home: &Arc<Home>, tag: &str, port: u16) -> Result<Self> {
        let program = crate::program::ours("webapp")?;
        let args = ["--listen".into(), loopback(port).to_string(), "--tag".into(), tag.into()];
        let daemon = Daemon::new(home, &format!("app-{tag}"), program, args.map(Into::into).into());
        daemon.start()?;
        wait::until(START_MAX, format_args!("an answer of the app {tag}"), async || {
            match daemon.surprise() {
                Some(surprise) => Err(anyhow::Error::msg(surprise)),
                None => Ok(http::get(port, "/").await.ok()),
            }
        })
        .await?;
        Ok(Self { daemon, port })
    }

    /// The process and its log.
    #[must_use]
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The shortest record of it.
    #[must_use]
    pub fn record(&self) -> serde_json::Value {
        serde_json::json!({ "address": "127.0.0.1", "port": self.port })
    }
}
