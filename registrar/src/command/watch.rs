//! `registrar watch`: what changes in the registry, a line each, until it is interrupted.

use registry::follow::{Entry, Event, Store, follow};
use registry::key::{AckKey, Prefix};
use registry::name::{InstanceId, ServiceName};
use registry::record::{AckRecord, InstanceRecord, OverrideRecord, parse};
use registry::session::Session;
use registry::time::Clock;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::list::{acked, mode, plain, state};
use super::read::{self, KEYS_MAX, Registry};
use super::{CommandError, CommandOutput, ListOptions, Output};

/// Kinds of news, as JSON has them.
const RECORD: &str = "record";
const OVERRIDE: &str = "override";
const ACK: &str = "ack";
/// Events that wait to be printed.
const WAITING_MAX: usize = 64;

/// Passes each line to `say` until that returns false: the reader has gone.
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
    let mut known = Known::new(&prefix);
    while let Some((kind, event)) = events.recv().await {
        for news in known.fold(kind, event) {
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
struct Line {
    service: ServiceName,
    text: String,
    json: Value,
}

/// What was last said of each key, by kind: a list after a break of the watch says nothing twice.
struct Known {
    records: Store<InstanceId, String>,
    overrides: Store<InstanceId, String>,
    acks: Store<AckKey, AckRecord>,
}

impl Known {
    fn new(prefix: &Prefix) -> Self {
        Self {
            records: Store::new(prefix.clone(), KEYS_MAX, read::instance, record_text),
            overrides: Store::new(prefix.clone(), KEYS_MAX, read::overridden, override_text),
            acks: Store::new(prefix.clone(), KEYS_MAX, read::acked, |entry| parse(&entry.value).ok()),
        }
    }

    /// What is new in an event of the follower of this `kind`.
    fn fold(&mut self, kind: &'static str, event: Event) -> Vec<Line> {
        match kind {
            RECORD => changed(&mut self.records, event, |id, text| {
                news(id, RECORD, text.map_or("gone", String::as_str))
            }),
            OVERRIDE => changed(&mut self.overrides, event, |id, text| {
                news(id, OVERRIDE, text.map_or("override cleared", String::as_str))
            }),
            _ => self.fold_acks(event),
        }
    }

    /// What an ack is about is said by its key and its record, so that of one that is gone the last record is asked.
    fn fold_acks(&mut self, event: Event) -> Vec<Line> {
        let mut lines = Vec::new();
        for (key, before) in self.acks.fold(event) {
            let now = self.acks.values().get(&key);
            let said = |ack: &AckRecord| (key.meaning(ack), acked(ack.state));
            let (before, now) = (before.as_ref().map(said), now.map(said));
            let differs = before != now;
            let text = now.as_ref().map_or("ack removed", |(_, text)| text);
            if let Some((AckKey { balancer, id }, _)) = now.as_ref().or(before.as_ref()).filter(|_| differs) {
                lines.push(news(id, ACK, &format!("{balancer}: {text}")));
            }
        }
        lines
    }
}

/// What differs from what was last said. A record is written anew with nothing in it changed, too.
fn changed<K: Ord + Clone>(
    store: &mut Store<K, String>,
    event: Event,
    news: impl Fn(&K, Option<&String>) -> Line,
) -> Vec<Line> {
    let concerned = store.fold(event);
    let differs = |(key, before): &(K, Option<String>)| store.values().get(key) != before.as_ref();
    concerned.iter().filter(|one| differs(one)).map(|(key, _)| news(key, store.values().get(key))).collect()
}

#[expect(clippy::unnecessary_wraps, reason = "a store reads values by such a function")]
fn record_text(entry: &Entry) -> Option<String> {
    Some(match parse::<InstanceRecord>(&entry.value) {
        Ok(record) => {
            let (is, at, weight) = (state(record.state), record.endpoint(), record.weight.get());
            format!("{is} at {at}, weight {weight}")
        }
        Err(error) => format!("its record cannot be read: {}", plain(&error.to_string())),
    })
}

fn override_text(entry: &Entry) -> Option<String> {
    let overriding: OverrideRecord = parse(&entry.value).ok()?;
    let by = if overriding.by.is_empty() { "an operator" } else { &overriding.by };
    let weight = overriding.weight.map(|weight| format!("weight {}", weight.get()));
    let what: Vec<String> = overriding.mode.map(|it| mode(it).to_owned()).into_iter().chain(weight).collect();
    Some(format!("{} wants {}: {}", plain(by), what.join(", "), plain(&overriding.reason)))
}

fn news(id: &InstanceId, what: &'static str, said: &str) -> Line {
    let at = humantime::format_rfc3339_millis(Clock.time_of_day()).to_string();
    Line {
        service: id.service.clone(),
        text: format!("{at}  {id}  {said}"),
        json: json!({
            "at": at, "service": id.service.as_str(), "instance": id.instance.as_str(), "what": what, "said": said,
        }),
    }
}

#[cfg(test)]
mod tests {
    use registry::follow::Change;

    use super::*;

    fn entry(key: &str, value: &str) -> Entry {
        let (key, value) = (format!("/leasehold/v1/{key}").into_bytes(), value.as_bytes().to_vec());
        Entry { key, value, lease: 0, create_revision: 1, mod_revision: 1 }
    }

    fn said(known: &mut Known, kind: &'static str, event: Event) -> Vec<String> {
        let news = known.fold(kind, event);
        news.iter().map(|one| one.text.split_once("  ").unwrap().1.to_owned()).collect()
    }

    #[test]
    fn what_is_new_is_said_once_and_what_went_during_a_break_is_said_too() {
        let up = entry("instances/web/a", r#"{"address":"10.0.0.5","port":80}"#);
        let listed = |entries: Vec<Entry>| Event::Listed { cluster: 1, revision: 1, entries };
        let mut known = Known::new(&Prefix::default());
        assert_eq!(
            said(&mut known, RECORD, listed(vec![up.clone()])),
            ["web/a  up at 10.0.0.5:80, weight 100"]
        );
        assert_eq!(
            said(&mut known, RECORD, Event::Changed(vec![Change::Put(up)])),
            [""; 0],
            "nothing in it is new"
        );
        let ack = entry("acks/lb/web/a", r#"{"owner":"o","revision":7,"state":"serving","at":""}"#);
        assert_eq!(said(&mut known, ACK, Event::Changed(vec![Change::Put(ack)])), ["web/a  lb: serving"]);
        let old = entry("acks/web/b/lb", r#"{"owner":"o","state":"serving","at":""}"#);
        let old = Event::Changed(vec![Change::Put(old)]);
        assert_eq!(said(&mut known, ACK, old), ["web/b  lb: serving"], "of an lb-sync of 0.1.0");
        let overriding = entry("overrides/web/a", r#"{"mode":"drain","by":"kim","reason":"disk\u001b[2J"}"#);
        assert_eq!(
            said(&mut known, OVERRIDE, Event::Changed(vec![Change::Put(overriding)])),
            ["web/a  kim wants drain: disk?[2J"]
        );
        let other = entry("instances/web/b", r#"{"address":"10.0.0.6","port":80}"#);
        let after = said(&mut known, RECORD, listed(vec![other]));
        assert_eq!(after, ["web/a  gone", "web/b  up at 10.0.0.6:80, weight 100"], "acks are another list");
        let gone = said(&mut known, ACK, listed(vec![]));
        assert_eq!(gone, ["web/a  lb: ack removed", "web/b  lb: ack removed"], "all are gone");
    }
}
