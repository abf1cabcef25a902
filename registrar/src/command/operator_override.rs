//! `registrar drain`, `resume`, `weight`: an operator's override of one instance.
//!
//! A command changes only its own part of the override: a weight does not undo a drain. So the override is read, changed,
//! and written back only if it has not changed in the meantime.

use std::time::Duration;

use registry::cas;
use registry::key::Key;
use registry::name::InstanceId;
use registry::record::{OverrideMode, OverrideRecord, parse, to_value};
use registry::session::{EtcdOptions, Session};
use registry::time::Clock;

use super::names;
use super::read::Registry;
use super::{
    CommandError, CommandOutput, DrainOptions, OverrideOptions, ResumeOptions, WeightOptions, WeightOverride,
};

/// How often a write is tried when another write comes first.
const TRIES_MAX: u32 = 10;

/// Takes an instance out. Sticky clients may stay for `sticky_s`; with `--now` they may not.
pub async fn drain(options: DrainOptions) -> Result<CommandOutput, CommandError> {
    let (mode, done) = if options.now {
        (OverrideMode::Maintenance, "out of rotation at once")
    } else {
        (OverrideMode::Drain, "to be drained")
    };
    let next = "`registrar wait` tells when it is, `registrar resume` takes it back";
    let OverrideOptions { instance, force, etcd, .. } = &options.overriding;
    if !force {
        let registry = Registry::read(&etcd.clone().checked()?).await?;
        names::check_registered(&registry, instance)?;
        names::check_not_last(&registry, instance)?;
    }
    set(options.overriding, |record| record.mode = Some(mode), &format!("{done}; {next}")).await
}

/// Gives it another weight than its record's.
pub async fn weight(options: WeightOptions) -> Result<CommandOutput, CommandError> {
    let (weight, done) = match options.weight {
        WeightOverride::Record => (None, "its record's weight again".to_owned()),
        WeightOverride::Of(weight) => (Some(weight), format!("weight {}", weight.get())),
    };
    let OverrideOptions { instance, force, etcd, .. } = &options.overriding;
    if !force && weight.is_some() {
        names::check_registered(&Registry::read(&etcd.clone().checked()?).await?, instance)?;
    }
    set(options.overriding, |record| record.weight = weight, &done).await
}

/// Takes a drain back; a weight stays.
pub async fn resume(options: ResumeOptions) -> Result<CommandOutput, CommandError> {
    let done = "drain cleared";
    let registry = Registry::read(&options.etcd.clone().checked()?).await?;
    if !registry.overrides.values().contains_key(&options.instance) {
        names::check_registered(&registry, &options.instance)?;
    }
    write(&options.instance, &options.etcd, None, |record| record.mode = None, done).await
}

async fn set(
    options: OverrideOptions,
    change: impl Fn(&mut OverrideRecord),
    done: &str,
) -> Result<CommandOutput, CommandError> {
    let OverrideOptions { instance, reason, by, lasting, etcd, force: _ } = options;
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
        Some(time) => Some(cas::grant(&session, time).await?),
        None => None,
    };
    for _ in 0..TRIES_MAX {
        let before = cas::read(&session, &key).await?;
        // A value that is no override is replaced: balancers ignore it as well.
        let mut record: OverrideRecord =
            before.value.as_deref().and_then(|value| parse(value).ok()).unwrap_or_default();
        change(&mut record);
        record.at = humantime::format_rfc3339_seconds(Clock.time_of_day()).to_string();
        // An override that was to end by itself still does, unless told otherwise.
        let lease = lease.unwrap_or(before.lease);
        let empty = record.mode.is_none() && record.weight.is_none();
        let value = (!empty).then(|| to_value(&record));
        if cas::write(&session, &key, value, lease, before.mod_revision).await? {
            let ends = lasting.map(|time| format!(" For {}.", humantime::format_duration(time)));
            return Ok(CommandOutput::done(format!("{id}: {done}.{}\n", ends.unwrap_or_default())));
        }
    }
    Err(CommandError::Contested)
}
