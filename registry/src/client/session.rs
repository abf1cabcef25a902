//! How we talk to etcd: one client per endpoint, one endpoint at a time, a deadline on every call.
//!
//! The `etcd-client` crate is a stub over the gRPC interface; what makes it dependable is here.

mod error;
mod options;
mod rotation;

use std::future::Future;
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use tokio::sync::Mutex;

pub use error::{Class, EtcdError};
pub use options::{EtcdConfig, EtcdOptions, OptionsError};
pub use rotation::Epoch;
use rotation::Rotation;

/// Longest a call may take. Above an etcd's disk hiccup, below the shortest useful ttl.
pub const CALL_MAX: Duration = Duration::from_secs(3);
/// Longest the TCP and TLS handshakes may take.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// HTTP/2 keepalive: a backstop only. etcd drops clients that ping more often than every 5 s
/// (`embed/config.go`, `DefaultGRPCKeepAliveMinTime`).
const PING_EVERY: Duration = Duration::from_secs(6);
const PING_ANSWER_MAX: Duration = Duration::from_secs(3);
/// Largest answer that is decoded: a page of records, with room for a neighbour's 1.5 MB values.
pub(crate) const ANSWER_LEN_MAX: usize = 16 * 1024 * 1024;

/// A conversation with an etcd cluster. Cheap to clone; all clones share the current endpoint.
#[derive(Clone, Debug)]
pub struct Session {
    shared: Arc<Shared>,
}

struct Shared {
    config: EtcdConfig,
    now: Mutex<Now>,
    /// What is in the way, told once and not by every task at every attempt.
    logged: SyncMutex<Option<LoggedTrouble>>,
}

/// What was logged of a failure: the next one of the same kind is not logged.
#[derive(Clone, Debug, PartialEq, Eq)]
enum LoggedTrouble {
    Unreachable,
    Refused(&'static str, String),
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("endpoints", &self.config.endpoints).finish_non_exhaustive()
    }
}

/// The endpoint in use and the client for it, if one has been made.
struct Now {
    rotation: Rotation,
    client: Option<Client>,
}

/// A client for the endpoint in use, and the epoch to name when it fails.
pub struct Connected {
    /// The client. Its answers are bounded, its calls are not: use [`Session::call`] or a deadline.
    pub client: Client,
    /// Which epoch of the rotation it belongs to.
    pub epoch: Epoch,
    /// The endpoint it talks to, for errors and logs.
    pub endpoint: String,
}

impl Session {
    /// A session for `config`. Nothing is connected yet: with etcd's client, only the first call tells.
    #[must_use]
    pub fn new(config: EtcdConfig) -> Self {
        let rotation = Rotation::new(config.endpoints.len());
        Self {
            shared: Arc::new(Shared {
                config,
                now: Mutex::new(Now { rotation, client: None }),
                logged: SyncMutex::default(),
            }),
        }
    }

    /// The endpoints, as they are tried.
    #[must_use]
    pub fn endpoints(&self) -> &[String] {
        &self.shared.config.endpoints
    }

    /// The client of the endpoint in use; makes it if there is none. Certificates and the password are
    /// read anew each time, so that rotated files are taken up without a restart.
    pub async fn connected(&self) -> Result<Connected, EtcdError> {
        let mut now = self.shared.now.lock().await;
        let epoch = now.rotation.epoch();
        let endpoint = self.shared.config.endpoints[now.rotation.index()].clone();
        if let Some(client) = &now.client {
            return Ok(Connected { client: client.clone(), epoch, endpoint });
        }
        let made = async {
            let options = self.connect_options()?;
            let connecting = Client::connect([endpoint.as_str()], Some(options));
            within(CALL_MAX, "log in", &endpoint, connecting).await
        };
        match made.await {
            Ok(client) => {
                now.client = Some(client.clone());
                Ok(Connected { client, epoch, endpoint })
            }
            Err(error) => {
                now.rotation.failed(epoch);
                self.tell(&error);
                Err(error)
            }
        }
    }

    /// Says that the client of `epoch` failed: the next endpoint is tried, with a new client. Several tasks
    /// may report the same epoch; it moves on once.
    pub async fn failed(&self, epoch: Epoch) {
        let mut now = self.shared.now.lock().await;
        if now.rotation.failed(epoch) {
            now.client = None;
        }
    }

    /// One call, within [`CALL_MAX`]; `what` completes "cannot …" in an error. An endpoint that does not
    /// answer is left for the next one; an etcd that answers "no" is not.
    pub async fn call<T, F, Fut>(&self, what: &'static str, call: F) -> Result<T, EtcdError>
    where
        F: FnOnce(Client) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let Connected { client, epoch, endpoint } = self.connected().await?;
        let answer = within(CALL_MAX, what, &endpoint, call(client)).await;
        match &answer {
            Ok(_) => self.answered(&endpoint),
            Err(error) if error.class == Class::Unreachable => self.gave_up(epoch, error).await,
            Err(error) => self.tell(error),
        }
        answer
    }

    /// A stream of `epoch` could not be opened, or broke, with `error`: its endpoint is left for the next one.
    pub(crate) async fn gave_up(&self, epoch: Epoch, error: &EtcdError) {
        self.tell(error);
        self.failed(epoch).await;
    }

    /// etcd answered at `endpoint`.
    pub(crate) fn answered(&self, endpoint: &str) {
        let mut logged = self.shared.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if *logged == Some(LoggedTrouble::Unreachable) {
            *logged = None;
            tracing::info!(endpoint, "etcd answers again");
        }
    }

    fn tell(&self, error: &EtcdError) {
        let news = match error.class {
            Class::Unreachable => LoggedTrouble::Unreachable,
            Class::Refused => LoggedTrouble::Refused(error.what, error.cause.clone()),
            // What is not there, or too large, is part of the game, and who asked knows what to do.
            Class::NotFound | Class::TooLarge => return,
        };
        let mut logged = self.shared.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.as_ref() == Some(&news) {
            tracing::debug!("{error}");
        } else {
            tracing::warn!("{error}");
            *logged = Some(news);
        }
    }

    fn connect_options(&self) -> Result<ConnectOptions, EtcdError> {
        let config = &self.shared.config;
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_MAX)
            .with_keep_alive(PING_EVERY, PING_ANSWER_MAX)
            .with_keep_alive_while_idle(true)
            // A member cut off from the quorum must say so instead of staying silent.
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        let files = config.read_files().map_err(|error| EtcdError {
            what: "read the credentials for",
            endpoint: config.endpoints.join(","),
            class: Class::Refused,
            cause: error.to_string(),
        })?;
        if let Some(tls) = files.tls {
            options = options.with_tls(tls);
        }
        if let Some((user, password)) = files.login {
            options = options.with_user(user, password);
        }
        Ok(options)
    }
}

/// `call`, ended after `max`.
pub(crate) async fn within<T>(
    max: Duration,
    what: &'static str,
    endpoint: &str,
    call: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T, EtcdError> {
    match tokio::time::timeout(max, call).await {
        Ok(answer) => answer.map_err(|error| EtcdError::new(what, endpoint, &error)),
        Err(_) => Err(EtcdError::silent(what, endpoint, max)),
    }
}

#[cfg(test)]
#[cfg(feature = "cli")]
mod tests;
