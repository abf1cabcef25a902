//! The balancer's name and its presence in the registry: claims a name, and has the record stand under it.
//!
//! A leaving instance waits for names, so no two balancers that live may have one. A name is written only on what was seen at
//! its key. The next life of the same HAProxy takes its name over at once. Where another balancer has the name (a cloned
//! host), this one runs as `NAME.2`, `NAME.3`, …: leaves wait for both, and the first is never displaced.

use std::collections::BTreeSet;

use registry::follow::{Entry, Event, Store};
use registry::key::{Key, Prefix};
use registry::lease::{LeaseId, LeaseStatus};
use registry::name::{BalancerName, NAME_LEN_MAX, ServiceName};
use registry::record::{BalancerRecord, parse};

use super::Life;
use crate::view::Source;

/// Most balancers that may be given the same name.
const NAMES_MAX: u32 = 9;
/// Most balancers that are kept in view.
const BALANCERS_MAX: usize = 10_000;

/// What is known of the presence record that was put last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PresenceStatus {
    /// It stands in etcd.
    pub stands: bool,
    /// Another one has its key.
    pub superseded: bool,
    /// etcd's revision of our last write of it.
    pub revision: Option<i64>,
    /// How often etcd was seen to have another history than before.
    pub histories: u64,
}

impl PresenceStatus {
    /// What `lease` says about `key`, which command number `put` wrote last. `None`: `lease` is of before that command.
    #[must_use]
    pub fn of(lease: &LeaseStatus, key: &str, put: u64) -> Option<Self> {
        (lease.seq >= put).then(|| Self {
            stands: lease.standing.contains(key),
            superseded: lease.superseded.contains(key),
            revision: lease.revisions.get(key).copied(),
            histories: lease.histories,
        })
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PresenceAction {
    /// Have this record stand under this name; with `expected`, only on what was seen.
    Put { name: BalancerName, record: BalancerRecord, expected: Option<i64> },
    /// The record stands under this name for the first time: acks may be written under it.
    Confirmed(BalancerName),
    /// Another balancer has the name that is wanted, or had; `None`: and every one that was derived from it.
    Taken { by: Option<BalancerRecord>, runs_as: Option<BalancerName> },
}

/// What stands at the key of a balancer; its record, if it can be read.
#[derive(Clone, Debug)]
struct Seen {
    record: Option<BalancerRecord>,
    lease: LeaseId,
    mod_revision: i64,
}

#[derive(Clone, Debug)]
enum State {
    /// No name is ours. After a claim that was refused, the next one waits for news of the key.
    Unclaimed { after: Option<u64> },
    /// A name is claimed, by a put when `changes` of the names had been seen; ours once it is `confirmed`.
    Claimed { name: BalancerName, confirmed: bool, put: Box<BalancerRecord>, changes: u64 },
}

/// How far the etcd that is seen may be a restored backup.
#[derive(Debug, Default)]
struct Restored {
    source: Option<Source>,
    /// Up to this revision what stands of this HAProxy under another id is an earlier life's.
    until: i64,
    /// Other keys say that the history broke: the next list is of the new one.
    in_doubt: bool,
}

impl Restored {
    fn fold(&mut self, event: &Event) {
        let is_list = matches!(event, Event::Listed { .. });
        if Source::take(&mut self.source, event) || (is_list && std::mem::take(&mut self.in_doubt)) {
            self.until = self.source.map_or(0, |source| source.revision);
        }
    }

    fn history_broke(&mut self) {
        self.in_doubt = true;
        self.until = self.source.map_or(0, |source| source.revision);
    }
}

/// The machine.
#[derive(Debug)]
pub(super) struct Presence {
    life: Life,
    seen: Store<BalancerName, Seen>,
    restored: Restored,
    wanted: Option<BalancerRecord>,
    state: State,
    status: PresenceStatus,
    /// Names that were ours and are another's: they are not fought for.
    lost: BTreeSet<BalancerName>,
    /// A record of this life has stood: what stands from now on is no earlier life's.
    has_stood: bool,
    /// How often a key of one of our names was seen to change, or all of them were listed.
    changes: u64,
    /// Our key was seen to go.
    gone: bool,
    /// All names are taken, and that was reported.
    reported: bool,
}

impl Presence {
    /// Nothing is claimed yet.
    pub(super) fn new(prefix: Prefix, life: Life) -> Self {
        let balancer = |key| if let Key::Balancer(name) = key { Some(name) } else { None };
        Self {
            life,
            seen: Store::new(prefix, BALANCERS_MAX, balancer, seen),
            restored: Restored::default(),
            wanted: None,
            state: State::Unclaimed { after: None },
            status: PresenceStatus::default(),
            lost: BTreeSet::new(),
            has_stood: false,
            changes: 0,
            gone: false,
            reported: false,
        }
    }

    /// This life of lb-sync.
    pub(super) fn life(&self) -> &Life {
        &self.life
    }

    /// The name under which a record of this life stands, or did when etcd was last heard.
    pub(super) fn name(&self) -> Option<&BalancerName> {
        match &self.state {
            State::Claimed { name, confirmed: true, .. } => Some(name),
            State::Claimed { .. } | State::Unclaimed { .. } => None,
        }
    }

    /// Whether a record of this life has stood.
    pub(super) fn has_stood(&self) -> bool {
        self.has_stood
    }

    /// Takes in what was seen below `balancers/`.
    pub(super) fn fold(&mut self, event: Event) {
        self.restored.fold(&event);
        // A list may lack what a claim was refused for, and says nothing of it then.
        self.changes += u64::from(matches!(event, Event::Listed { .. }));
        for (name, before) in self.seen.fold(event) {
            if self.names().any(|ours| ours == name) {
                self.changes += 1;
            }
            if matches!(&self.state, State::Claimed { name: ours, .. } if *ours == name) {
                self.gone = before.is_some() && !self.seen.values().contains_key(&name);
            }
        }
    }

    /// etcd was wiped or restored, as other keys say: what is listed from now on, or was just now, is of another history.
    pub(super) fn history_broke(&mut self) {
        self.restored.history_broke();
    }

    /// Takes in what is known of the record that was put last.
    pub(super) fn status(&mut self, status: PresenceStatus) {
        self.status = status;
    }

    /// What the record is to say in addition to what this life says of itself.
    pub(super) fn want(&mut self, services: Vec<ServiceName>, haproxy_version: String) {
        self.wanted = Some(BalancerRecord { services, haproxy_version, ..self.life.record() });
    }

    /// The next actions. What follows from what was taken in: no event is needed twice.
    pub(super) fn step(&mut self) -> Vec<PresenceAction> {
        let mut actions = Vec::new();
        self.settle(&mut actions);
        match &self.state {
            State::Unclaimed { after } if after.is_none_or(|count| self.changes > count) => {
                self.claim(&mut actions);
            }
            State::Unclaimed { .. } => {}
            State::Claimed { .. } => actions.extend(self.repair()),
        }
        actions
    }

    /// What came of the last put.
    fn settle(&mut self, actions: &mut Vec<PresenceAction>) {
        let State::Claimed { name, confirmed, changes, .. } = &mut self.state else { return };
        if self.status.superseded {
            // An earlier life's last write may have come between the look and the claim: it is looked at again.
            let after = if *confirmed { None } else { Some(*changes) };
            if *confirmed {
                self.lost.insert(name.clone());
            }
            self.state = State::Unclaimed { after };
        } else if self.status.stands && !*confirmed {
            *confirmed = true;
            self.has_stood = true;
            actions.push(PresenceAction::Confirmed(name.clone()));
        }
    }

    /// Claims the first name that is free, or was an earlier life's.
    fn claim(&mut self, actions: &mut Vec<PresenceAction>) {
        let Some(record) = self.wanted.clone().filter(|_| self.seen.is_current()) else { return };
        let chosen = self.choose(&record);
        let is_own = chosen.as_ref().is_some_and(|(name, _)| *name == self.life.name);
        let is_known = chosen.is_none() && std::mem::replace(&mut self.reported, true);
        if !is_own && !is_known {
            let by = self.seen.values().get(&self.life.name).and_then(|seen| seen.record.clone());
            let runs_as = chosen.as_ref().map(|(name, _)| name.clone());
            actions.push(PresenceAction::Taken { by, runs_as });
        }
        let Some((name, expected)) = chosen else { return };
        (self.status, self.gone, self.reported) = (PresenceStatus::default(), false, false);
        let (put, changes) = (Box::new(record.clone()), self.changes);
        self.state = State::Claimed { name: name.clone(), confirmed: false, put, changes };
        actions.push(PresenceAction::Put { name, record, expected: Some(expected) });
    }

    /// The name, and the revision of its key as it was seen; 0: absent. A name under which an earlier life of the same HAProxy
    /// stands comes first.
    fn choose(&self, record: &BalancerRecord) -> Option<(BalancerName, i64)> {
        let ours = |seen: &Seen| {
            let is_own = seen.record.as_ref().is_some_and(|other| other.id == record.id);
            is_own || self.is_of_earlier_life(seen, record)
        };
        // No host is known of an lb-sync of 0.1.0: it is taken for an earlier life, until it is seen to live. What cannot be
        // read is no balancer's.
        let is_vacant = |seen: &Seen| match &seen.record {
            Some(other) => other.id.is_none() && (!self.has_stood || seen.lease == 0),
            None => true,
        };
        let at = |name: &BalancerName| self.seen.values().get(name);
        let is_lost = |name: &BalancerName| {
            self.lost.contains(name) && !at(name).is_some_and(|seen| self.is_of_earlier_life(seen, record))
        };
        let names: Vec<BalancerName> = self.names().filter(|name| !is_lost(name)).collect();
        let earlier = names.iter().find(|name| at(name).is_some_and(ours));
        let vacant = || names.iter().find(|name| at(name).is_none_or(is_vacant));
        let name = earlier.or_else(vacant)?;
        Some((name.clone(), at(name).map_or(0, |seen| seen.mod_revision)))
    }

    /// Whether what stands there is of an earlier life of the same HAProxy: before a record of this life has stood, or in a
    /// backup that etcd was restored from.
    fn is_of_earlier_life(&self, seen: &Seen, record: &BalancerRecord) -> bool {
        let is_earlier = !self.has_stood || seen.mod_revision <= self.restored.until;
        let is_another = |other: &BalancerRecord| {
            other.id.is_some() && other.id != record.id && other.is_same_haproxy(record)
        };
        is_earlier && seen.record.as_ref().is_some_and(is_another)
    }

    /// Puts the record again where it is not what it should be: because that has changed, or because the key was deleted or
    /// written over.
    fn repair(&mut self) -> Option<PresenceAction> {
        let State::Claimed { name, put, .. } = &self.state else { return None };
        let wanted = self.wanted.as_ref()?;
        let expected = if **put != *wanted {
            None
        } else if !self.status.stands || !self.seen.is_current() {
            return None;
        } else if std::mem::take(&mut self.gone) {
            Some(0)
        } else {
            let seen = self.seen.values().get(name)?;
            let is_newer = self.status.revision.is_some_and(|ours| seen.mod_revision > ours);
            if !is_newer || seen.record.as_ref() == Some(wanted) {
                return None;
            }
            // Written by hand, it is put back. Another balancer's is not: the put is refused, which says that the name is lost.
            let by_hand = match &seen.record {
                Some(other) => other.id == wanted.id || (other.id.is_none() && seen.lease == 0),
                None => true,
            };
            if by_hand || self.is_of_earlier_life(seen, wanted) {
                Some(seen.mod_revision)
            } else {
                self.status.revision
            }
        };
        let (name, wanted) = (name.clone(), wanted.clone());
        if let State::Claimed { put, .. } = &mut self.state {
            (**put).clone_from(&wanted);
        }
        self.status.stands = false;
        Some(PresenceAction::Put { name, record: wanted, expected })
    }

    /// The name that is wanted, and those that are taken where it is another's.
    fn names(&self) -> impl Iterator<Item = BalancerName> {
        (1..=NAMES_MAX).filter_map(|number| numbered(&self.life.name, number))
    }
}

#[expect(clippy::unnecessary_wraps, reason = "a store reads values by such a function")]
fn seen(entry: &Entry) -> Option<Seen> {
    let Entry { lease, mod_revision, .. } = *entry;
    Some(Seen { record: parse(&entry.value).ok(), lease, mod_revision })
}

/// `NAME` for 1, `NAME.2` for 2, …. A name of full length is cut, so that the number fits.
pub(crate) fn numbered(name: &BalancerName, number: u32) -> Option<BalancerName> {
    if number == 1 {
        return Some(name.clone());
    }
    let suffix = format!(".{number}");
    let cut = name.as_str().len().min(NAME_LEN_MAX - suffix.len());
    format!("{}{suffix}", name.as_str().get(..cut)?).parse().ok()
}

/// Whether a balancer that was given `name` may run as `other`.
pub(crate) fn may_run_as(name: &BalancerName, other: &str) -> bool {
    (1..=NAMES_MAX).any(|number| numbered(name, number).is_some_and(|name| name.as_str() == other))
}

#[cfg(test)]
#[path = "presence_tests.rs"]
mod tests;
