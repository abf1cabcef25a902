//! What people use today, where it is on `PATH`: each with its exact configuration in `bench/peers`, in which names between
//! `@` stand for what is another on each machine.

mod confd;
mod consul_template;
mod traefik;

use anyhow::Result;
use testkit::Stack;
use testkit::process::Daemon;

use crate::latency::measured::Measured;
use crate::reloading::Master;

/// One of them, running; its processes end with it.
pub(crate) struct Peer {
    daemons: Vec<Daemon>,
    haproxy: Option<Master>,
}

impl Peer {
    /// Why it has ended, if it has.
    pub(crate) fn failure(&self) -> Option<String> {
        let haproxy = self.haproxy.iter().map(Master::daemon);
        self.daemons.iter().chain(haproxy).find_map(Daemon::surprise)
    }
}

/// A peer, and its way.
type Started<'s> = (Peer, Measured<'s>);

/// Starts all that are there.
pub(crate) async fn start(stack: &Stack) -> Result<Vec<Started<'_>>> {
    let confd = confd::start(stack).await?;
    let consul_template = consul_template::start(stack).await?;
    let traefik = traefik::start(stack).await?;
    Ok([confd, consul_template, traefik].into_iter().flatten().collect())
}

/// Puts what this machine has for the names between `@`.
fn fill(text: &str, names: &[(&str, &str)]) -> String {
    names.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("@{name}@"), value))
}
