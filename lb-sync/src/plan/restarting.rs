//! Whose clients keep their cookie while others serve them: instances that are away, and may be about to return.
//!
//! A client that asks while its instance restarts is served by another one, which would give it another cookie, and with
//! it the client would stay there. HAProxy gives none while the name in the client's own cookie is in the backend's
//! restarting map (see the template). Here is decided who is to be in it.

use std::collections::BTreeMap;
use std::time::Duration;

use registry::name::InstanceId;
use registry::time::Tick;

use super::observed::Observed;

/// Most names that are kept, in all services together. Beyond it clients choose anew, as they would without the map.
const AWAY_MAX: usize = 10_000;

/// How an instance stands, as far as its clients are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AffinityPhase {
    /// They are served by it.
    Serves,
    /// It is being taken out of traffic.
    Goes,
    /// It gets no traffic.
    Away,
    /// It is not expected back, as ordered: its clients choose anew.
    Ended,
}

/// Who is away.
#[derive(Debug)]
pub struct Restarting {
    /// How long an instance may be away; zero for an empty list at all times.
    gap: Duration,
    away: BTreeMap<InstanceId, Tick>,
}

impl Restarting {
    /// No instance is away.
    #[must_use]
    pub fn new(gap: Duration) -> Self {
        Self { gap, away: BTreeMap::new() }
    }

    /// A name that stands in a map and is not known (an earlier lb-sync listed it) gets a whole gap.
    pub fn read_state(&mut self, now: Tick, observed: &Observed) {
        for (service, map) in &observed.restarting {
            for instance in &map.names {
                let id = InstanceId { service: service.clone(), instance: instance.clone() };
                self.away.entry(id).or_insert(now.plus(self.gap));
            }
        }
    }

    /// Whether `id`, which is `listed` or not, is to be, now that it stands like this.
    pub fn step(&mut self, now: Tick, id: &InstanceId, stand: AffinityPhase, listed: bool) -> bool {
        match stand {
            AffinityPhase::Serves | AffinityPhase::Ended => {
                self.away.remove(id);
            }
            // An instance that was listed and goes again before it was back has the rest of its time.
            AffinityPhase::Goes if self.away.len() < AWAY_MAX && !self.gap.is_zero() => {
                self.away.entry(id.clone()).or_insert(now.plus(self.gap));
            }
            AffinityPhase::Goes | AffinityPhase::Away => {}
        }
        let wanted = self.away.get(id).is_some_and(|until| now < *until);
        // Remembered for as long as it is listed: no other record of it exists.
        if !wanted && !listed {
            self.away.remove(id);
        }
        wanted
    }

    /// Until when `id` is to be listed, if it is at `now`.
    #[must_use]
    pub fn until(&self, now: Tick, id: &InstanceId) -> Option<Tick> {
        self.away.get(id).copied().filter(|until| now < *until)
    }

    /// All that are listed.
    pub fn ids(&self) -> impl Iterator<Item = &InstanceId> {
        self.away.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAP: Duration = Duration::from_secs(30);

    fn at(s: u64) -> Tick {
        Tick::from_ms(s * 1_000)
    }

    fn id() -> InstanceId {
        "web/web-1".parse().unwrap()
    }

    #[test]
    fn listed_from_its_going_until_it_serves_again() {
        let mut restarting = Restarting::new(GAP);
        assert!(!restarting.step(at(0), &id(), AffinityPhase::Away, false), "no server was there before");
        assert!(restarting.step(at(0), &id(), AffinityPhase::Goes, false));
        assert!(restarting.step(at(29), &id(), AffinityPhase::Away, true));
        assert!(!restarting.step(at(29), &id(), AffinityPhase::Serves, true));
        assert!(
            !restarting.step(at(29), &id(), AffinityPhase::Away, true),
            "back, and with it the time is over"
        );
    }

    #[test]
    fn the_time_ends_and_does_not_begin_anew() {
        let mut restarting = Restarting::new(GAP);
        restarting.step(at(0), &id(), AffinityPhase::Goes, false);
        assert!(restarting.step(at(20), &id(), AffinityPhase::Goes, false));
        assert!(!restarting.step(at(30), &id(), AffinityPhase::Away, true));
        assert_eq!(
            (restarting.until(at(30), &id()), restarting.ids().count()),
            (None, 1),
            "to be struck off"
        );
        assert!(!restarting.step(at(31), &id(), AffinityPhase::Away, false));
        assert_eq!(restarting.ids().count(), 0);
    }

    #[test]
    fn an_order_ends_it_and_without_a_gap_none_is_listed() {
        let mut restarting = Restarting::new(GAP);
        restarting.step(at(0), &id(), AffinityPhase::Goes, false);
        assert!(!restarting.step(at(1), &id(), AffinityPhase::Ended, true));
        assert!(!Restarting::new(Duration::ZERO).step(at(0), &id(), AffinityPhase::Goes, false));
    }

    #[test]
    fn the_number_of_names_is_bounded() {
        let mut restarting = Restarting::new(GAP);
        for n in 0..=AWAY_MAX {
            restarting.step(at(0), &format!("web/i-{n}").parse().unwrap(), AffinityPhase::Goes, false);
        }
        assert_eq!(restarting.ids().count(), AWAY_MAX);
    }
}
