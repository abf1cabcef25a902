//! Finds out which changes HAProxy takes, when it does not take all of them together.
//!
//! One service's broken template must not keep the files of all others from being written: what is refused as a whole is
//! tried by halves, upon what was accepted so far.

use std::collections::BTreeSet;

/// Most checks in one bisection; `haproxy -c` takes 5 ms, at 10,000 servers half a second.
const CHECKS_MAX: u32 = 32;

/// A bisection of changes named by `T`.
#[derive(Debug)]
pub(super) struct Bisect<T> {
    accepted: BTreeSet<T>,
    refused: BTreeSet<T>,
    /// To be tried, the last first.
    stack: Vec<Vec<T>>,
    checks: u32,
    /// What is there now is refused as well, without any change of ours.
    baseless: bool,
}

impl<T: Clone + Ord> Bisect<T> {
    /// Begins with all `changes` at once.
    pub(super) fn new(changes: impl IntoIterator<Item = T>) -> Self {
        let all: Vec<T> = changes.into_iter().collect();
        let stack = if all.is_empty() { vec![] } else { vec![all] };
        let (accepted, refused) = (BTreeSet::new(), BTreeSet::new());
        Self { accepted, refused, stack, checks: 0, baseless: false }
    }

    /// Which changes to check together now; none of them for a check of what is there. `None`: it is over.
    pub(super) fn next(&self) -> Option<BTreeSet<T>> {
        let more = self.stack.last().filter(|_| self.checks < CHECKS_MAX)?;
        Some(self.accepted.iter().chain(more).cloned().collect())
    }

    /// Whether HAProxy took them.
    pub(super) fn verdict(&mut self, passed: bool) {
        self.checks += 1;
        let Some(tried) = self.stack.pop() else { return };
        match passed {
            true if tried.is_empty() => {
                // What is there is good, so one of the changes is not: the whole is on the stack still.
                let whole = self.stack.pop().unwrap_or_default();
                self.halve(whole);
            }
            true => self.accepted.extend(tried),
            // Before a section is blamed: is what is there taken, without any change of ours?
            false if self.checks == 1 => self.stack.extend([tried, vec![]]),
            false if tried.is_empty() => {
                self.baseless = true;
                self.stack.clear();
            }
            false => self.halve(tried),
        }
    }

    /// These were refused together.
    fn halve(&mut self, refused: Vec<T>) {
        if refused.len() > 1 {
            let (left, right) = refused.split_at(refused.len() / 2);
            self.stack.extend([right.to_vec(), left.to_vec()]);
        } else {
            self.refused.extend(refused);
        }
    }

    /// What HAProxy took, what it did not, and whether it takes what is there now. Whatever is in neither was not found
    /// out about.
    pub(super) fn outcome(self) -> (BTreeSet<T>, BTreeSet<T>, bool) {
        (self.accepted, self.refused, !self.baseless)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bisect(changes: u32, bad: &[u32]) -> (Vec<u32>, Vec<u32>, u32) {
        let mut bisect = Bisect::new(0..changes);
        while let Some(these) = bisect.next() {
            bisect.verdict(!these.iter().any(|change| bad.contains(change)));
        }
        let checks = bisect.checks;
        let (accepted, refused, good) = bisect.outcome();
        assert!(good);
        (accepted.into_iter().collect(), refused.into_iter().collect(), checks)
    }

    #[test]
    fn the_bad_ones_are_found_and_the_others_taken() {
        assert_eq!(bisect(0, &[]), (vec![], vec![], 0));
        assert_eq!(bisect(100, &[]).2, 1);
        assert_eq!(bisect(1, &[0]), (vec![], vec![0], 2));
        assert_eq!(bisect(4, &[2]), (vec![0, 1, 3], vec![2], 6));
        let (accepted, refused, checks) = bisect(100, &[17, 80]);
        assert_eq!((accepted.len(), refused), (98, vec![17, 80]));
        assert!(checks < CHECKS_MAX, "{checks}");
    }

    #[test]
    fn checks_are_bounded_and_the_rest_is_left_open() {
        let all: Vec<u32> = (0..100).collect();
        let (accepted, refused, checks) = bisect(100, &all);
        assert_eq!((accepted.len(), checks), (0, CHECKS_MAX));
        assert!(refused.len() < 32);
    }

    #[test]
    fn no_section_is_blamed_for_what_is_wrong_without_it() {
        let mut bisect = Bisect::new([1, 2]);
        bisect.verdict(false);
        assert_eq!(bisect.next(), Some(BTreeSet::new()));
        bisect.verdict(false);
        assert_eq!(bisect.next(), None);
        assert_eq!(bisect.outcome(), (BTreeSet::new(), BTreeSet::new(), false));
    }
}
