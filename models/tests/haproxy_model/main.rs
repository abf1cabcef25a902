//! The model of HAProxy, compared with a real one: the same random commands go to both, and both must answer the same and
//! come to the same state.
//!
//! The real one is `haproxy` on PATH (Debian 12: 2.6), or what `LEASEHOLD_HAPROXY` names: `scripts/haproxy trixie` and
//! `scripts/haproxy sid` print the folders of 3.0 and 3.2.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod apps;
mod client;
mod compare;
mod crashes;
mod pair;
mod pooled;
mod real;
mod script;
mod timing;

use std::collections::BTreeMap;

use pair::Pair;
use script::{Deed, Script};

/// Writes of one script. Each has one to three commands.
const WRITES: usize = 600;

/// What the scripts have to come across, together.
const MEETS: [&str; 22] = [
    "add_server Ok",
    "add_server AlreadyExists",
    "add_server IdInUse",
    "add_server NoSuchBackend",
    "del_server Ok",
    "del_server NotInMaint",
    "del_server NoSuchServer",
    "set_state Ok",
    "enable_health Ok",
    "enable_health NoCheck",
    "health_down Ok",
    "set_addr Ok",
    "set_weight Ok",
    "shutdown_sessions Ok",
    "request 200",
    "request 503",
    "release, cut false",
    "release, cut true",
    "AdminState(0) Running Some(true)",
    "AdminState(0) Stopped Some(false)",
    "AdminState(8) Running Some(true)",
    "AdminState(1) Stopped unchecked",
];

async fn follow(seed: u64) -> BTreeMap<String, u32> {
    let mut pair = Pair::start().await;
    let mut script = Script::new(seed, pair.version());
    for write in 0..WRITES {
        match script.next_deed() {
            Deed::Ask(commands) => pair.ask(&commands).await,
            Deed::Toggle(app) => pair.toggle(app).await,
            Deed::Request(cookie) => pair.request(cookie).await,
            Deed::Hold(server) => pair.hold(server, "POST", "/hold").await,
            Deed::Release => pair.release(false).await,
        }
        pair.agree(&format!("seed {seed}, write {write}")).await;
    }
    pair.into_met()
}

#[tokio::test]
async fn random_scripts_come_to_the_same_state() {
    let (a, b, c, d) = tokio::join!(follow(1), follow(2), follow(3), follow(4));
    let mut met: BTreeMap<String, u32> = BTreeMap::new();
    for (what, count) in [a, b, c, d].into_iter().flatten() {
        *met.entry(what).or_default() += count;
    }
    let missed: Vec<&str> = MEETS.into_iter().filter(|what| !met.contains_key(*what)).collect();
    assert!(missed.is_empty(), "{missed:?} of {met:#?}");
}
