//! Kept scripts and drawn schedules: no oracle is broken, and a run is the same every time.

use std::fs;
use std::path::Path;

use sim::run::{run, shrink};
use sim::script::Script;

/// Drawn schedules of one test run; `sim run --seeds` takes as many as are wanted.
const SEEDS: u64 = 150;

/// Each script broke the oracle that its first line names, before it was mended.
#[test]
fn every_regression_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let script: Script = fs::read_to_string(&path).unwrap().parse().unwrap();
        let violation = run(&script, false).violation;
        assert!(violation.is_none(), "{}: {}", path.display(), violation.unwrap());
        count += 1;
    }
    assert!(count >= 13, "{count} scripts");
}

#[test]
fn drawn_schedules_break_no_oracle() {
    for seed in 0..SEEDS {
        let script = Script::draw(seed, None);
        let outcome = run(&script, false);
        if let Some(violation) = &outcome.violation {
            let (script, violation, _) = shrink(&script, violation);
            assert_eq!(None, Some(violation.to_string()), "seed {seed}:\n{script}");
        }
        assert!(outcome.counts.requests > 100, "seed {seed}: clients ask");
    }
}

#[test]
fn the_same_script_gives_the_same_trace() {
    for seed in [3, 117] {
        let script = Script::draw(seed, None);
        let (first, second) = (run(&script, true), run(&script, true));
        assert!(first.trace.len() > 1_000);
        assert_eq!(first.trace, second.trace, "seed {seed}");
    }
}
