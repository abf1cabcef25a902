//! The machines that follow keys and hold leases run against the model of etcd as they do against etcd: every action is a
//! call, every answer an input.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use models::etcd::{Error, Etcd, KeepAlive, Op, Span, Txn, WatchId, WatchMessage};
use registry::follow::machine::{Action, Input, Machine};
use registry::follow::page::{Page, Pager};
use registry::follow::{Change, Event};
use registry::lease::{Fence, LeaseId, keeper, ledger, machine as lease};
use registry::time::Tick;

const PREFIX: &str = "/p/";
const TTL: Duration = Duration::from_secs(6);

fn at(ms: u64) -> Tick {
    Tick::from_ms(ms)
}

/// A follower on one member, whose calls take no time.
struct Follower {
    machine: Machine,
    watch: Option<WatchId>,
    view: BTreeMap<Vec<u8>, Vec<u8>>,
    in_sync: bool,
    lists: u64,
}

impl Follower {
    fn new(now: Tick) -> Self {
        let machine = Machine::new(now, 1);
        Self { machine, watch: None, view: BTreeMap::new(), in_sync: false, lists: 0 }
    }

    fn run(&mut self, now: Tick, etcd: &mut Etcd) {
        if self.machine.wake_at().is_some_and(|at| at <= now) {
            self.step(now, etcd, Input::Woke);
        }
        let Some(watch) = self.watch else { return };
        for message in etcd.messages(now, watch) {
            let input = match message {
                WatchMessage::Created { cluster, revision } => Input::Created { cluster, revision },
                WatchMessage::Changes(changes) => Input::Changes(changes),
                WatchMessage::Progress { .. } => Input::Progress,
                WatchMessage::Canceled { .. } => Input::Canceled { compacted: true },
            };
            self.step(now, etcd, input);
        }
        if self.watch == Some(watch) && !etcd.is_open(watch) {
            self.watch = None;
            self.step(now, etcd, Input::Broke { too_large: false });
        }
    }

    fn step(&mut self, now: Tick, etcd: &mut Etcd, input: Input) {
        for action in self.machine.step(now, input) {
            match action {
                Action::List => {
                    self.lists += 1;
                    let listed = list(etcd).unwrap_or(Input::ListFailed);
                    self.step(now, etcd, listed);
                }
                Action::Open { from } => match etcd.watch(now, 0, PREFIX.as_bytes(), from) {
                    Ok(watch) => self.watch = Some(watch),
                    Err(_) => self.step(now, etcd, Input::Broke { too_large: false }),
                },
                Action::AskProgress => etcd.progress(now, self.watch.unwrap()),
                Action::Probe { revision } => {
                    let probed = list(etcd).map_or(Input::ProbeFailed, |listed| probed(&listed, revision));
                    self.step(now, etcd, probed);
                }
                Action::Close | Action::LeaveEndpoint => {
                    if let Some(watch) = self.watch.take() {
                        etcd.cancel(watch);
                    }
                }
                Action::Tell(event) => self.hear(event),
            }
        }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Listed { entries, .. } => {
                self.view = entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
            }
            Event::Changed(changes) => {
                for change in changes {
                    match change {
                        Change::Put(entry) => drop(self.view.insert(entry.key, entry.value)),
                        Change::Delete { key, .. } => drop(self.view.remove(&key)),
                    }
                }
            }
            Event::InSync => self.in_sync = true,
            Event::OutOfSync => self.in_sync = false,
        }
    }
}

fn list(etcd: &Etcd) -> Result<Input, Error> {
    let mut pager = Pager::new(PREFIX, 0);
    // One byte after the prefix's last: the end of the span of all keys below it.
    let end = b"/p0";
    loop {
        let ask = pager.ask();
        let limit = usize::try_from(ask.limit).unwrap();
        let answer = etcd.range(0, Span { from: &ask.from, end }, limit, ask.revision)?;
        let (cluster, revision) = (answer.header.cluster, answer.header.revision);
        let page = Page { cluster, revision, entries: answer.entries, more: answer.more };
        if let Some(listed) = pager.take(page) {
            let (cluster, revision, entries) = (listed.cluster, listed.revision, listed.entries);
            return Ok(Input::Listed { cluster, revision, entries });
        }
    }
}

fn probed(listed: &Input, after: i64) -> Input {
    let Input::Listed { cluster, revision, entries } = listed else { unreachable!("a list") };
    let last = entries.iter().map(|entry| entry.mod_revision).max();
    Input::Probed { cluster: *cluster, revision: *revision, newer: last.filter(|last| *last > after) }
}

fn standing(etcd: &Etcd) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let entries = etcd.history().entries_below(PREFIX.as_bytes());
    entries.map(|entry| (entry.key.clone(), entry.value.clone())).collect()
}

fn write(rng: &mut fastrand::Rng, etcd: &mut Etcd, now: Tick) {
    let key = format!("{PREFIX}{}", rng.u32(..8));
    let op = if rng.u32(..3) == 0 { Op::delete(key) } else { Op::put(key, vec![rng.u8(..)], 0) };
    // Refused during an outage.
    let _ = etcd.txn(now, 0, &Txn::of([op]));
}

/// Outages with compactions behind the follower's back, and a member that lags: at the end its view is what stands.
#[test]
fn a_follower_of_the_model_ends_with_what_stands() {
    let (mut lists, seeds) = (0, 50);
    for seed in 0..seeds {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut etcd = Etcd::new(7, 1);
        let mut follower = Follower::new(at(0));
        for step in 0..3_000 {
            let now = at(step * 20);
            match rng.u32(..200) {
                0 => drop(etcd.outage(now)),
                1..4 => etcd.back(now),
                4 => drop(etcd.compact(now, 0, etcd.history().revision())),
                5 => drop(etcd.close_streams(now, 0)),
                6 => etcd.lag(now, 0, Duration::from_millis(rng.u64(..400))),
                7..40 => write(&mut rng, &mut etcd, now),
                _ => etcd.advance(now),
            }
            follower.run(now, &mut etcd);
        }
        etcd.back(at(60_000));
        etcd.lag(at(60_000), 0, Duration::ZERO);
        for ms in (60_000..80_000).step_by(10) {
            follower.run(at(ms), &mut etcd);
        }
        assert!(follower.in_sync, "seed {seed}");
        assert_eq!(follower.view, standing(&etcd), "seed {seed}");
        lists += follower.lists;
    }
    // What was compacted behind its back cannot be had but by a list.
    assert!(lists > 2 * seeds, "{lists} lists");
}

type Fault = fn(&mut Etcd, Tick);

/// A holder of keys, whose calls take no time.
struct Holder {
    machine: lease::Machine,
    next_lease: LeaseId,
}

impl Holder {
    fn new(now: Tick) -> Self {
        Self { machine: lease::Machine::new(now, TTL, [1, 2], Arc::default()), next_lease: 100 }
    }

    fn run(&mut self, now: Tick, etcd: &mut Etcd) {
        if self.machine.wake_at().is_some_and(|at| at <= now) {
            self.step(now, etcd, lease::Input::Woke);
        }
    }

    fn step(&mut self, now: Tick, etcd: &mut Etcd, input: lease::Input) {
        for action in self.machine.step(now, input) {
            let input = match action {
                lease::Action::Verify(lease) => {
                    // The question has no answer here: the next one is due later.
                    self.step(now, etcd, lease::Input::Verified { lease, keys: None });
                    continue;
                }
                lease::Action::Grant(ttl) => self.grant(now, etcd, ttl),
                lease::Action::KeepAlive { lease, .. } => keep_alive(now, etcd, lease),
                lease::Action::Revoke(lease) => match etcd.revoke(now, 0, lease) {
                    Ok(_) | Err(Error::LeaseNotFound) => keeper::Input::Revoked,
                    Err(_) => keeper::Input::RevokeFailed,
                },
                lease::Action::Write(action) => {
                    let answer = write_keys(now, etcd, action);
                    self.step(now, etcd, lease::Input::Write { answer, trouble: None });
                    continue;
                }
            };
            self.step(now, etcd, lease::Input::Lease { answer: input, trouble: None, header: None });
        }
    }

    fn grant(&mut self, now: Tick, etcd: &mut Etcd, ttl: Duration) -> keeper::Input {
        self.next_lease += 1;
        match etcd.grant(now, 0, ttl.as_secs(), self.next_lease) {
            Ok(granted) => keeper::Input::Granted { lease: granted.lease, ttl: granted.ttl, sent: now },
            Err(_) => keeper::Input::GrantFailed,
        }
    }
}

fn keep_alive(now: Tick, etcd: &mut Etcd, lease: LeaseId) -> keeper::Input {
    match etcd.keep_alive(now, 0, lease) {
        Ok(KeepAlive::Renewed { .. }) => keeper::Input::KeptAlive { lease, sent: now },
        Ok(KeepAlive::Gone) => keeper::Input::Gone { lease },
        // The answer would come later; here it never does.
        Ok(KeepAlive::Waits { .. }) | Err(_) => keeper::Input::KeepAliveFailed { lease },
    }
}

fn write_keys(now: Tick, etcd: &mut Etcd, action: ledger::Action) -> ledger::Input {
    let ledger::Action::Write { lease, puts, deletes } = action else {
        panic!("no key is fenced here: {action:?}");
    };
    let puts = puts.into_iter().map(|(key, value)| Op::put(key, value, lease));
    let ops: Vec<Op> = puts.chain(deletes.into_iter().map(Op::delete)).collect();
    match etcd.txn(now, 0, &Txn::of(ops)) {
        Ok(answer) => ledger::Input::Written { revision: answer.header.revision },
        Err(Error::LeaseNotFound) => ledger::Input::LeaseGone,
        Err(_) => ledger::Input::Failed,
    }
}

/// Whatever becomes of the lease, the keys stand again under one that is held.
#[test]
fn a_holder_of_keys_in_the_model_has_them_back_after_each_fault() {
    let faults: [(&str, Fault); 5] = [
        ("every lease is revoked", Etcd::revoke_all),
        ("everything is lost", |etcd, now| drop(etcd.wipe(now))),
        ("an outage", |etcd, now| drop(etcd.outage(now))),
        ("etcd hangs", Etcd::hang),
        ("another leader", Etcd::lead_change),
    ];
    for (name, fault) in faults {
        let mut etcd = Etcd::new(7, 1);
        let mut holder = Holder::new(at(0));
        holder.run(at(0), &mut etcd);
        for key in ["a", "b"] {
            let (key, value) = (format!("{PREFIX}{key}"), b"v".to_vec());
            holder.step(at(1), &mut etcd, lease::Input::Put { key, value, fence: Fence::None });
        }
        let run = |holder: &mut Holder, etcd: &mut Etcd, range: std::ops::Range<u64>| {
            for ms in range.step_by(10) {
                etcd.advance(at(ms));
                holder.run(at(ms), etcd);
            }
        };
        run(&mut holder, &mut etcd, 10..30_000);
        assert_eq!((standing(&etcd).len(), etcd.history().revision()), (2, 3), "kept alive before: {name}");
        fault(&mut etcd, at(30_000));
        run(&mut holder, &mut etcd, 30_000..45_000);
        etcd.back(at(45_000));
        etcd.resume(at(45_000));
        run(&mut holder, &mut etcd, 45_000..60_000);
        let lease = holder.machine.status().lease.unwrap();
        assert!(etcd.has_lease(lease) && holder.machine.status().settled, "{name}");
        let under = etcd.time_to_live(at(60_000), 0, lease).unwrap().unwrap().keys;
        assert_eq!(under, [b"/p/a".to_vec(), b"/p/b".to_vec()], "{name}");
        holder.step(at(60_001), &mut etcd, lease::Input::Release);
        assert!(holder.machine.status().released && standing(&etcd).is_empty(), "{name}");
    }
}
