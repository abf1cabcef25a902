//! `registrar watch`: what changes in the registry, a line each, until it is interrupted.

use std::collections::{BTreeMap, BTreeSet};

use registry::follow::{Change, Event, follow};
use registry::key::{Key, Prefix};
use registry::name::{InstanceId, ServiceName};
use registry::record::{AckRecord, InstanceRecord, OverrideRecord, parse};
use registry::session::Session;
use registry::time::Clock;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::list::{mode, plain, state};
use super::read::Registry;
use super::{CommandError, CommandOutput, ListOptions, Output};

/// Kinds of news, as JSON has them.
const RECORD: &str = "record";
const OVERRIDE: &str = "override";
const ACK: &str = "ack";
/// Events that wait to be printed.
const WAITING_MAX: usize = 64;

/// Says each line to `say`, until that returns false: whoever reads has gone.
pub async fn watch(
    options: ListOptions,
    mut say: impl FnMut(&str) -> bool,
) -> Result<CommandOutput, CommandError> {
    let config = options.look.etcd.checked()?;
    // What cannot be reached is told at once; afterwards it is tried again for as long as it takes.
    Registry::read(&config).await?;
    let (session, end) = (Session::new(config.clone()), CancellationToken::new());
    let _end = end.clone().drop_guard();
    let prefix = config.prefix().clone();
    let (tell, mut events) = mpsc::channel(WAITING_MAX);
    let sides = [(RECORD, prefix.instances()), (OVERRIDE, prefix.overrides()), (ACK, prefix.acks())];
    for (kind, key) in sides {
        let (mut following, task) = follow(session.clone(), key, end.clone());
        tokio::spawn(task);
        let tell = tell.clone();
        tokio::spawn(async move {
            while let Some(event) = following.recv().await {
                if tell.send((kind, event)).await.is_err() {
                    return;
                }
            }
        });
    }
    let mut known = Known::default();
    while let Some((kind, event)) = events.recv().await {
        for news in known.fold(&prefix, kind, event) {
            if options.service.as_ref().is_some_and(|service| *service != news.service) {
                continue;
            }
            let line = match options.look.output {
                Output::Json => news.json.to_string(),
                Output::Text => news.text,
            };
            if !say(&line) {
                return Ok(CommandOutput::done(String::new()));
            }
        }
    }
    Ok(CommandOutput::done(String::new()))
}

/// One thing that is new.
#[derive(Clone, Debug, PartialEq)]
struct News {
    service: ServiceName,
    text: String,
    json: Value,
}

/// What was said last of each key: a list after a break says nothing twice.
#[derive(Debug, Default)]
struct Known(BTreeMap<Vec<u8>, Vec<u8>>);

impl Known {
    fn fold(&mut self, prefix: &Prefix, kind: &str, event: Event) -> Vec<News> {
        let mut news = vec![];
        match event {
            Event::Listed { entries, .. } => {
                // Whatever of this kind is not listed any more has gone meanwhile.
                let there: BTreeSet<&[u8]> = entries.iter().map(|entry| entry.key.as_slice()).collect();
                let gone = self.0.keys().filter(|key| of_kind(prefix, key) == Some(kind));
                let gone: Vec<Vec<u8>> =
                    gone.filter(|key| !there.contains(key.as_slice())).cloned().collect();
                news.extend(gone.iter().filter_map(|key| self.delete(prefix, key)));
                news.extend(entries.iter().filter_map(|entry| self.put(prefix, &entry.key, &entry.value)));
            }
            Event::Changed(changes) => {
                for change in changes {
                    news.extend(match change {
                        Change::Put(entry) => self.put(prefix, &entry.key, &entry.value),
                        Change::Delete { key, .. } => self.delete(prefix, &key),
                    });
                }
            }
            Event::InSync | Event::OutOfSync => {}
        }
        news
    }

    fn put(&mut self, prefix: &Prefix, key: &[u8], value: &[u8]) -> Option<News> {
        let before = self.0.insert(key.to_vec(), value.to_vec());
        let parsed = prefix.parse(key).ok()?;
        let (id, what, said) = say(&parsed, value)?;
        // A record is written anew with nothing in it changed, too.
        let same =
            before.and_then(|before| say(&parsed, &before)).is_some_and(|(_, _, before)| before == said);
        (!same).then(|| news(&id, what, &said))
    }

    fn delete(&mut self, prefix: &Prefix, key: &[u8]) -> Option<News> {
        self.0.remove(key)?;
        match prefix.parse(key).ok()? {
            Key::Instance(id) => Some(news(&id, RECORD, "gone")),
            Key::Override(id) => Some(news(&id, OVERRIDE, "nobody wants anything of it any more")),
            Key::Ack(id, balancer) => Some(news(&id, ACK, &format!("{balancer} has no more to say of it"))),
            Key::Balancer(_) => None,
        }
    }
}

fn of_kind(prefix: &Prefix, key: &[u8]) -> Option<&'static str> {
    match prefix.parse(key).ok()? {
        Key::Instance(_) => Some(RECORD),
        Key::Override(_) => Some(OVERRIDE),
        Key::Ack(..) => Some(ACK),
        Key::Balancer(_) => None,
    }
}

/// Whom it is about, of what kind it is, and what is said.
fn say(key: &Key, value: &[u8]) -> Option<(InstanceId, &'static str, String)> {
    Some(match key {
        Key::Instance(id) => {
            let said = match parse::<InstanceRecord>(value) {
                Ok(record) => {
                    let (is, at, weight) = (state(record.state), record.endpoint(), record.weight.get());
                    format!("{is} at {at}, weight {weight}")
                }
                Err(error) => format!("its record cannot be read: {}", plain(&error.to_string())),
            };
            (id.clone(), RECORD, said)
        }
        Key::Override(id) => {
            let wish: OverrideRecord = parse(value).ok()?;
            let by = if wish.by.is_empty() { "somebody" } else { &wish.by };
            let weight = wish.weight.map(|weight| format!("weight {}", weight.get()));
            let what: Vec<String> =
                wish.mode.map(|it| mode(it).to_owned()).into_iter().chain(weight).collect();
            (
                id.clone(),
                "override",
                format!("{} wants {}: {}", plain(by), what.join(", "), plain(&wish.reason)),
            )
        }
        Key::Ack(id, balancer) => {
            let ack: AckRecord = parse(value).ok()?;
            (id.clone(), ACK, format!("{balancer}: {:?}", ack.state).to_lowercase())
        }
        Key::Balancer(_) => return None,
    })
}

fn news(id: &InstanceId, what: &'static str, said: &str) -> News {
    let at = humantime::format_rfc3339_millis(Clock.time_of_day()).to_string();
    News {
        service: id.service.clone(),
        text: format!("{at}  {id}  {said}"),
        json: json!({
            "at": at, "service": id.service.as_str(), "instance": id.instance.as_str(), "what": what, "said": said,
        }),
    }
}

#[cfg(test)]
mod tests {
    use registry::follow::Entry;

    use super::*;

    fn entry(key: &str, value: &str) -> Entry {
        let (key, value) = (format!("/leasehold/v1/{key}").into_bytes(), value.as_bytes().to_vec());
        Entry { key, value, lease: 0, create_revision: 1, mod_revision: 1 }
    }

    fn said(known: &mut Known, kind: &str, event: Event) -> Vec<String> {
        let news = known.fold(&Prefix::default(), kind, event);
        news.iter().map(|one| one.text.split_once("  ").unwrap().1.to_owned()).collect()
    }

    #[test]
    fn what_is_new_is_said_once_and_what_went_during_a_break_is_said_too() {
        let up = entry("instances/web/a", r#"{"address":"10.0.0.5","port":80}"#);
        let listed = |entries: Vec<Entry>| Event::Listed { cluster: 1, revision: 1, entries };
        let mut known = Known::default();
        assert_eq!(
            said(&mut known, RECORD, listed(vec![up.clone()])),
            ["web/a  up at 10.0.0.5:80, weight 100"]
        );
        assert_eq!(
            said(&mut known, RECORD, Event::Changed(vec![Change::Put(up)])),
            [""; 0],
            "nothing in it is new"
        );
        let ack = entry("acks/web/a/lb", r#"{"owner":"o","state":"serving","at":""}"#);
        assert_eq!(said(&mut known, ACK, Event::Changed(vec![Change::Put(ack)])), ["web/a  lb: serving"]);
        let wish = entry("overrides/web/a", r#"{"mode":"drain","by":"kim","reason":"disk\u001b[2J"}"#);
        assert_eq!(
            said(&mut known, OVERRIDE, Event::Changed(vec![Change::Put(wish)])),
            ["web/a  kim wants drain: disk?[2J"]
        );
        let other = entry("instances/web/b", r#"{"address":"10.0.0.6","port":80}"#);
        let after = said(&mut known, RECORD, listed(vec![other]));
        assert_eq!(after, ["web/a  gone", "web/b  up at 10.0.0.6:80, weight 100"], "acks are another list");
        assert_eq!(
            said(&mut known, ACK, listed(vec![])),
            ["web/a  lb has no more to say of it"],
            "all are gone"
        );
    }
}
