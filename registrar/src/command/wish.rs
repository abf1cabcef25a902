//! `registrar drain`, `resume`, `weight`: an operator's override of one instance.
//!
//! What a command does not speak of stays: a weight does not undo a drain. So an override is read, changed and written in
//! a transaction that holds only while nobody else has written it.

use std::time::Duration;

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use registry::key::Key;
use registry::name::InstanceId;
use registry::record::{OverrideMode, OverrideRecord, parse, to_value};
use registry::session::{EtcdError, EtcdOptions, Session};
use registry::time::Clock;

use super::{
    CommandError, CommandOutput, DrainOptions, ResumeOptions, WeightOptions, WeightWish, WishOptions,
};

/// How often a write is tried that somebody else comes before.
const TRIES_MAX: u32 = 10;

/// Takes an instance out: its sticky clients may stay their time, or `--now` not even they.
pub async fn drain(options: DrainOptions) -> Result<CommandOutput, CommandError> {
    let (mode, done) = if options.now {
        (OverrideMode::Maintenance, "out of rotation at once")
    } else {
        (OverrideMode::Drain, "to be drained")
    };
    let next = "`registrar wait` tells when it is, `registrar resume` takes it back";
    wish(options.wish, |record| record.mode = Some(mode), &format!("{done}; {next}")).await
}

/// Gives it another weight than its record's.
pub async fn weight(options: WeightOptions) -> Result<CommandOutput, CommandError> {
    let (weight, done) = match options.weight {
        WeightWish::Record => (None, "its record's weight again".to_owned()),
        WeightWish::Of(weight) => (Some(weight), format!("weight {}", weight.get())),
    };
    wish(options.wish, |record| record.weight = weight, &done).await
}

/// Takes a drain back; a weight stays.
pub async fn resume(options: ResumeOptions) -> Result<CommandOutput, CommandError> {
    let done = "in rotation again, as far as its operators are concerned";
    write(&options.instance, &options.etcd, None, |record| record.mode = None, done).await
}

async fn wish(
    options: WishOptions,
    change: impl Fn(&mut OverrideRecord),
    done: &str,
) -> Result<CommandOutput, CommandError> {
    let WishOptions { instance, reason, by, lasting, etcd } = options;
    let changed = |record: &mut OverrideRecord| {
        change(record);
        record.reason.clone_from(&reason);
        record.by.clone_from(&by);
    };
    write(&instance, &etcd, lasting, changed, done).await
}

async fn write(
    id: &InstanceId,
    etcd: &EtcdOptions,
    lasting: Option<Duration>,
    change: impl Fn(&mut OverrideRecord),
    done: &str,
) -> Result<CommandOutput, CommandError> {
    let config = etcd.clone().checked()?;
    let session = Session::new(config.clone());
    let key = config.prefix().text(&Key::Override(id.clone()));
    let lease = match lasting {
        Some(time) => Some(grant(&session, time).await?),
        None => None,
    };
    for _ in 0..TRIES_MAX {
        let before = read(&session, &key).await?;
        let mut record = before.record.clone();
        change(&mut record);
        record.at = humantime::format_rfc3339_seconds(Clock.time_of_day()).to_string();
        // One that was to end by itself still does, unless told otherwise.
        let lease = lease.unwrap_or(before.lease);
        let empty = record.mode.is_none() && record.weight.is_none();
        let value = (!empty).then(|| to_value(&record));
        if commit(&session, &key, value, lease, before.mod_revision).await? {
            let ends = lasting.map(|time| format!(" For {}.", humantime::format_duration(time)));
            return Ok(CommandOutput::done(format!("{id}: {done}.{}\n", ends.unwrap_or_default())));
        }
    }
    Err(CommandError::Contested)
}

/// An override as it stands.
struct Before {
    record: OverrideRecord,
    lease: i64,
    /// 0: it does not stand.
    mod_revision: i64,
}

async fn read(session: &Session, key: &str) -> Result<Before, EtcdError> {
    let asked = key.to_owned();
    let answer = session
        .call("read the override in", |mut client| async move { client.get(asked, None).await })
        .await?;
    Ok(match answer.kvs().first() {
        // What is no override is replaced: balancers ignore it as well.
        Some(kv) => Before {
            record: parse(kv.value()).unwrap_or_default(),
            lease: kv.lease(),
            mod_revision: kv.mod_revision(),
        },
        None => Before { record: OverrideRecord::default(), lease: 0, mod_revision: 0 },
    })
}

async fn grant(session: &Session, time: Duration) -> Result<i64, EtcdError> {
    let seconds = i64::try_from(time.as_secs().max(1)).unwrap_or(i64::MAX);
    let granted = session
        .call("get a lease from", |mut client| async move { client.lease_grant(seconds, None).await })
        .await?;
    Ok(granted.id())
}

/// Whether it was still as it was read.
async fn commit(
    session: &Session,
    key: &str,
    value: Option<Vec<u8>>,
    lease: i64,
    mod_revision: i64,
) -> Result<bool, EtcdError> {
    let unchanged = Compare::mod_revision(key, CompareOp::Equal, mod_revision);
    let op = match value {
        Some(value) => TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease))),
        None => TxnOp::delete(key, None),
    };
    let txn = Txn::new().when([unchanged]).and_then([op]);
    let answer =
        session.call("write the override to", |mut client| async move { client.txn(txn).await }).await?;
    Ok(answer.succeeded())
}
