//! Instances whose address another owner has registered as well: whether the lease of the earlier one still beats.
//!
//! An address that was given out anew (a killed container's) is the later one's, as soon as the earlier one's lease has missed
//! a beat. While both beat, neither takes the other out.

use std::collections::BTreeMap;
use std::time::Duration;

use registry::lease::{LeaseId, TimeToLive};
use registry::name::InstanceId;
use registry::time::Tick;

/// Pause between two questions about one lease: etcd counts its time in whole seconds.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// The same after a question that was not answered.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// Instances that are asked about at a time. Of others the end is seen when their lease has run out.
const ASKED_MAX: usize = 100;

/// What is known of the leases of instances that share their address with a later one.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    asked: BTreeMap<InstanceId, Asked>,
}

#[derive(Debug)]
struct Asked {
    lease: LeaseId,
    since: Tick,
    /// When it is asked about next; `None` once it has beaten since it shares its address.
    next: Option<Tick>,
    missed_a_beat: bool,
}

impl Sharing {
    /// `id` shares its address with a later one from now on, if it did not before.
    pub(super) fn begin(&mut self, now: Tick, id: &InstanceId, lease: LeaseId) {
        if self.asked.get(id).is_some_and(|asked| asked.lease == lease) || self.asked.len() >= ASKED_MAX {
            return;
        }
        let asked = Asked { lease, since: now, next: Some(now), missed_a_beat: false };
        self.asked.insert(id.clone(), asked);
    }

    /// It does so no longer, or has just written its record: that is worth a beat.
    pub(super) fn end(&mut self, id: &InstanceId) {
        self.asked.remove(id);
    }

    /// The leases to ask about. Each is handed out once, and again later.
    pub(super) fn due(&mut self, now: Tick) -> Vec<(InstanceId, LeaseId)> {
        let due = self.asked.iter_mut().filter(|(_, asked)| asked.next.is_some_and(|next| now >= next));
        due.map(|(id, asked)| {
            asked.next = Some(now.plus(ASK_AGAIN));
            (id.clone(), asked.lease)
        })
        .collect()
    }

    /// When [`Self::due`] has something.
    pub(super) fn wake_at(&self) -> Option<Tick> {
        self.asked.values().filter_map(|asked| asked.next).min()
    }

    /// What etcd says of a lease that lives. True if that changes who is served.
    pub(super) fn answered(&mut self, now: Tick, id: &InstanceId, lease: LeaseId, ttl: TimeToLive) -> bool {
        let Some(asked) = self.asked.get_mut(id).filter(|asked| asked.lease == lease) else { return false };
        let missed = ttl.has_missed_a_beat();
        // One that misses no beat for the whole of its time has beaten in it.
        let settled = !missed && now.since(asked.since) >= ttl.granted;
        asked.next = (!settled).then(|| now.plus(ASK_EVERY));
        std::mem::replace(&mut asked.missed_a_beat, missed) != missed
    }

    /// Whether the lease of `id` has missed a beat.
    pub(super) fn has_missed_a_beat(&self, id: &InstanceId) -> bool {
        self.asked.get(id).is_some_and(|asked| asked.missed_a_beat)
    }

    /// Whether the lease of `id` has beaten since it shares its address.
    pub(super) fn beats(&self, id: &InstanceId) -> bool {
        self.asked.get(id).is_some_and(|asked| asked.next.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn left(seconds: u64) -> TimeToLive {
        TimeToLive { granted: TTL, left: Duration::from_secs(seconds) }
    }

    fn at(seconds: u64) -> Tick {
        Tick::from_ms(seconds * 1_000)
    }

    fn sharing() -> (Sharing, InstanceId) {
        let (mut sharing, id) = (Sharing::default(), "web/a".parse().unwrap());
        sharing.begin(at(0), &id, 7);
        (sharing, id)
    }

    #[test]
    fn a_lease_that_misses_a_beat_is_found_and_found_again_when_it_beats() {
        let (mut sharing, id) = sharing();
        assert_eq!(sharing.due(at(0)), [(id.clone(), 7)]);
        assert_eq!(sharing.due(at(0)), []);
        assert!(!sharing.answered(at(0), &id, 7, left(6)));
        assert_eq!(sharing.wake_at(), Some(at(1)));
        assert!(!sharing.answered(at(1), &id, 7, left(5)));
        assert!(sharing.answered(at(2), &id, 7, left(4)) && sharing.has_missed_a_beat(&id));
        assert!(sharing.answered(at(3), &id, 7, left(10)) && !sharing.has_missed_a_beat(&id));
    }

    #[test]
    fn one_that_beats_is_not_asked_about_for_ever() {
        let (mut sharing, id) = sharing();
        for second in 0..10 {
            assert_eq!(sharing.due(at(second)).len(), 1);
            sharing.answered(at(second), &id, 7, left(10 - second % 4));
            assert!(!sharing.beats(&id));
        }
        sharing.answered(at(10), &id, 7, left(8));
        assert!(sharing.beats(&id));
        assert_eq!(sharing.wake_at(), None);
    }

    #[test]
    fn what_is_asked_about_is_bounded() {
        let mut sharing = Sharing::default();
        for n in 0..1_000 {
            sharing.begin(at(0), &format!("web/i-{n}").parse().unwrap(), n);
        }
        assert_eq!(sharing.due(at(0)).len(), ASKED_MAX);
    }
}
