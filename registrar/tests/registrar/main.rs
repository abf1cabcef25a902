//! The binary, against a real etcd, with real processes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by a panic, helpers included"
)]

mod etcd;
mod leaving;
mod leftovers;
mod library;
mod membership;
mod naming;
mod program;
mod starting;
mod supervising;

use std::time::{Duration, Instant};

/// Longer than anything here takes; a test that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at something that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What `look` gives, once it gives something; `what` completes "waited in vain until".
#[expect(
    clippy::disallowed_methods,
    reason = "a test's patience is real time, and this is the pause between two looks"
)]
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}
