//! The model of etcd and a real etcd are given the same random script, and must answer alike: revisions, transactions,
//! entries, the messages of each watch, and errors by their text.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod answer;
mod pair;
mod real;
mod script;
mod time;

use crate::pair::Pair;
use crate::real::Real;

/// Scripts.
const SEEDS: u64 = 20;
/// Steps of a script.
const STEPS: usize = 100;

#[tokio::test]
async fn the_model_answers_as_etcd_does() {
    let mut real = Real::launch().await;
    for seed in 1..=SEEDS {
        let mut pair = Pair::begin(&mut real, seed).await;
        for _ in 0..STEPS {
            pair.step().await;
        }
        pair.end().await;
    }
}
