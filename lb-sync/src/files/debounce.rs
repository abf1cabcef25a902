//! How often something may be done that every change asks for.

use std::time::Duration;

use registry::time::Tick;

/// Done at once after a quiet time, at most once each `every` under churn, and always once more after the last change.
#[derive(Debug)]
pub(super) struct Debounce {
    every: Duration,
    done_at: Option<Tick>,
    dirty: bool,
}

impl Debounce {
    /// Nothing to do yet.
    pub(super) fn new(every: Duration) -> Self {
        Self { every, done_at: None, dirty: false }
    }

    /// Something has changed.
    pub(super) fn mark(&mut self) {
        self.dirty = true;
    }

    /// It is to be done now, whether anything has changed or not.
    pub(super) fn hurry(&mut self) {
        self.dirty = true;
        self.done_at = None;
    }

    /// When it is to be done; `None` if nothing has changed since.
    pub(super) fn due_at(&self) -> Option<Tick> {
        let at = self.done_at.map_or(Tick::default(), |at| at.plus(self.every));
        self.dirty.then_some(at)
    }

    /// Whether it is to be done now. If so, it counts as done.
    pub(super) fn take(&mut self, now: Tick) -> bool {
        let due = self.due_at().is_some_and(|at| now >= at);
        if due {
            self.dirty = false;
            self.done_at = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn churn_is_sdebounced_and_the_last_change_is_never_lost() {
        let at = Tick::from_ms;
        let mut debounce = Debounce::new(Duration::from_secs(1));
        assert!(!debounce.take(at(5_000)) && debounce.due_at().is_none());
        debounce.mark();
        assert!(debounce.take(at(5_000)), "at once after a quiet time");
        let mut done = 0;
        for ms in 5_001..10_000 {
            debounce.mark();
            done += u32::from(debounce.take(at(ms)));
        }
        assert_eq!(done, 4);
        assert_eq!(debounce.due_at(), Some(at(10_000)));
        assert!(debounce.take(at(10_000)) && !debounce.take(at(20_000)));
        debounce.hurry();
        assert!(debounce.take(at(20_000)));
        debounce.hurry();
        assert!(debounce.take(at(20_000)));
    }
}
