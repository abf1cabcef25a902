//! Reads etcd and HAProxy once, into what the pass would know.

use std::path::Path;
use std::time::Duration;

use registry::follow::{Entry, Event, Listed, list};
use registry::key::{Key, Prefix};
use registry::name::InstanceId;
use registry::record::{self, InstanceRecord, OverrideRecord};
use registry::session::{Class, EtcdConfig, EtcdError, Session};
use registry::time::Clock;

use crate::balancer::reading::Reading;
use crate::balancer::{BalancerConfig, PassError};
use crate::plan::observed::Observed;
use crate::view::View;
use haproxy::answer::info::Info;
use haproxy::answer::stat::StatRow;
use haproxy::{Command, Dialogue};

/// Longest that HAProxy may take to answer one request, as in the pass.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What the registry says.
#[derive(Debug)]
pub(super) struct Registry {
    pub(super) view: View,
    /// etcd's revision of all of it.
    pub(super) revision: i64,
    /// Keys whose values are not records, and why.
    pub(super) unreadable: Vec<(String, String)>,
}

/// What HAProxy has, and the session to ask for more.
#[derive(Debug)]
pub(super) struct Haproxy {
    pub(super) dialogue: Dialogue,
    pub(super) info: Info,
    pub(super) observed: Observed,
}

/// Reads the registry at one revision. Each endpoint is tried once.
pub(super) async fn registry(etcd: &EtcdConfig, pass: &BalancerConfig) -> Result<Registry, EtcdError> {
    let session = Session::new(etcd.clone());
    let mut left = session.endpoints().len();
    loop {
        left = left.saturating_sub(1);
        match read(&session, pass).await {
            Err(error) if error.class == Class::Unreachable && left > 0 => {}
            read => return read,
        }
    }
}

async fn read(session: &Session, pass: &BalancerConfig) -> Result<Registry, EtcdError> {
    let instances = list(session, &pass.prefix.instances(), 0).await?;
    let revision = instances.revision;
    let overrides = list(session, &pass.prefix.overrides(), revision).await?;
    Ok(fold(pass, instances, overrides))
}

/// As the followers would tell it to the view, with nothing behind.
fn fold(pass: &BalancerConfig, instances: Listed, overrides: Listed) -> Registry {
    let revision = instances.revision;
    let entries = instances.entries.iter().chain(&overrides.entries);
    let unreadable = entries.filter_map(|entry| unreadable(&pass.prefix, entry)).collect();
    let (now, mut view) = (Clock.now(), View::guarded(pass.prefix.clone(), pass.guard));
    view.fold_instances(now, instances.into());
    view.fold_instances(now, Event::InSync);
    view.fold_overrides(now, overrides.into());
    view.fold_overrides(now, Event::InSync);
    Registry { view, revision, unreadable }
}

/// The key of an entry that the view ignores, and why it does.
fn unreadable(prefix: &Prefix, entry: &Entry) -> Option<(String, String)> {
    let why = match prefix.parse(&entry.key) {
        Ok(Key::Instance(_)) => record::parse::<InstanceRecord>(&entry.value).err()?.to_string(),
        Ok(Key::Override(_)) => record::parse::<OverrideRecord>(&entry.value).err()?.to_string(),
        Ok(_) => return None,
        Err(error) => error.to_string(),
    };
    Some((String::from_utf8_lossy(&entry.key).chars().take(200).collect(), why))
}

/// Connects to HAProxy and reads all it has.
pub(super) async fn haproxy(socket: &Path) -> Result<Haproxy, PassError> {
    Haproxy::read_all(Dialogue::connect(socket, ANSWER_MAX).await?).await
}

impl Haproxy {
    /// Reads all that HAProxy has. Fails for a worker on its way out, and for a HAProxy that is too old.
    pub(super) async fn read_all(mut dialogue: Dialogue) -> Result<Self, PassError> {
        let answers = dialogue.ask(&[Command::ShowInfo]).await?;
        let info = Info::parse(answers.first().map_or("", String::as_str))?;
        if info.stopping {
            return Err(PassError::Replaced);
        }
        if !info.version.at_least(2, 6) {
            return Err(PassError::TooOld(info.version));
        }
        let mut haproxy = Self { dialogue, info, observed: Observed::default() };
        let everything = haproxy.read(Reading::everything()).await?;
        haproxy.observed = everything.into_everything().unwrap_or_default();
        Ok(haproxy)
    }

    /// Asks all of `reading`, and folds the answers in.
    pub(super) async fn read(&mut self, mut reading: Reading) -> Result<Reading, PassError> {
        while !reading.is_done() {
            let asked_at = Clock.now();
            let answers = self.dialogue.ask(&reading.request()).await?;
            reading.answers(&mut self.observed, &answers, asked_at)?;
        }
        Ok(reading)
    }

    /// One server's counters; `None` if it is not there (any more).
    pub(super) async fn stat(&mut self, id: &InstanceId) -> Result<Option<StatRow>, PassError> {
        let numbers = (
            self.observed.backends.get(&id.service).and_then(|backend| backend.id),
            self.observed.server(id).map(|server| server.id),
        );
        let (Some(backend), Some(server)) = numbers else {
            return Ok(None);
        };
        let answers = self.dialogue.ask(&[Command::ShowStatServer { backend, id: server }]).await?;
        let row = StatRow::parse(answers.first().map_or("", String::as_str))?;
        // Asked by number: it may be another one's by now.
        Ok(row.filter(|row| row.server.server.as_ref() == id.instance.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, value: &str) -> Entry {
        let (key, value) = (key.as_bytes().to_vec(), value.as_bytes().to_vec());
        Entry { key, value, lease: 0, create_revision: 1, mod_revision: 1 }
    }

    #[test]
    fn what_the_view_ignores_is_named_with_its_reason() {
        let look = |key: &str, value: &str| unreadable(&Prefix::default(), &entry(key, value));
        let good = r#"{"address":"10.0.0.5","port":3000}"#;
        assert_eq!(look("/leasehold/v1/instances/web/web-1", good), None);
        assert_eq!(look("/leasehold/v1/overrides/web/web-1", r#"{"mode":"drain"}"#), None);
        let (key, why) = look("/leasehold/v1/instances/web/web-1", "{}").unwrap();
        assert_eq!(key, "/leasehold/v1/instances/web/web-1");
        assert!(why.contains("missing field `address`"), "{why}");
        let (_, why) = look("/leasehold/v1/instances/web/we b", good).unwrap();
        assert!(why.contains("legal instance name"), "{why}");
        assert!(look("/leasehold/v1/overrides/web/web-1", r#"{"mode":"off"}"#).is_some());
    }
}
