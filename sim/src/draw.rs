//! Random draws that do not depend on each other.
//!
//! Each draw is a hash of the run's noise, of what it is for, and of how often that was drawn. So an operation that is
//! taken out of a script does not reshuffle the draws of the others.

use std::collections::BTreeMap;
use std::time::Duration;

/// Draws of one run.
#[derive(Clone, Debug)]
pub struct Draws {
    noise: u64,
    /// For each entity, what was drawn for it: a handful of purposes.
    counters: BTreeMap<u64, Vec<Counter>>,
}

#[derive(Clone, Debug)]
struct Counter {
    purpose: &'static str,
    /// Its hash.
    name: u64,
    /// How often it was drawn.
    count: u64,
}

/// A well-mixed 64-bit hash (the finalizer of `SplitMix64`).
#[must_use]
pub const fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The hash of what a draw is for.
const fn name_of(purpose: &str) -> u64 {
    let (bytes, mut at, mut hash) = (purpose.as_bytes(), 0, 0);
    while at < bytes.len() {
        hash = mix(hash ^ bytes[at] as u64);
        at += 1;
    }
    hash
}

const fn draw(noise: u64, entity: u64, name: u64, count: u64) -> u64 {
    mix(noise ^ mix(entity ^ mix(name ^ mix(count))))
}

impl Draws {
    /// Draws of the run with this noise. 0 makes every latency the same.
    #[must_use]
    pub fn new(noise: u64) -> Self {
        Self { noise, counters: BTreeMap::new() }
    }

    /// A number for `entity`, for this purpose.
    pub fn next(&mut self, entity: u64, purpose: &'static str) -> u64 {
        let counters = self.counters.entry(entity).or_default();
        let at = counters.iter().position(|counter| counter.purpose == purpose).unwrap_or_else(|| {
            counters.push(Counter { purpose, name: name_of(purpose), count: 0 });
            counters.len() - 1
        });
        let counter = &mut counters[at];
        counter.count += 1;
        draw(self.noise, entity, counter.name, counter.count)
    }

    /// The place of event number `event` among those of its instant. Each number is drawn once: it needs no count.
    #[must_use]
    pub fn tie(&self, event: u64) -> u64 {
        const TIE: u64 = name_of("tie");
        draw(self.noise, event, TIE, 1)
    }

    /// A number below `bound`, which is at least 1.
    pub fn below(&mut self, entity: u64, purpose: &'static str, bound: u64) -> u64 {
        self.next(entity, purpose) % bound.max(1)
    }

    /// Whether one of `n` equally likely cases is drawn.
    pub fn one_of(&mut self, entity: u64, purpose: &'static str, n: u64) -> bool {
        self.below(entity, purpose, n) == 0
    }

    /// One way of a message: 0.2 to 1 ms, and one in forty up to 20 ms.
    pub fn latency(&mut self, entity: u64, purpose: &'static str) -> Duration {
        if self.noise == 0 {
            return Duration::from_micros(500);
        }
        let us = match self.next(entity, purpose) {
            tail if tail % 40 == 0 => 1_000 + mix(tail) % 19_000,
            usual => 200 + mix(usual) % 800,
        };
        Duration::from_micros(us)
    }
}
