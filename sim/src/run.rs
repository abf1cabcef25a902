//! One run of a script, and shrinking of one that broke an oracle.

use crate::marks::Marks;
use crate::oracles::Violation;
use crate::script::{Op, Script};
use crate::world::{Counts, World};
use std::time::Duration;

use registry::time::Tick;

/// Most runs of one shrinking.
const SHRINK_RUNS_MAX: u32 = 300;
/// A whole leave must fit before the end.
const LONGEST_LEAVE: Duration = Duration::from_secs(20);
/// When a short run is looked at first, after the last operation is over, and how often from then on.
const LOOK_FIRST: Duration = Duration::from_secs(6);
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// What has come to rest stays so.
const AT_REST: Duration = Duration::from_secs(5);

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The first broken oracle.
    pub violation: Option<Violation>,
    /// What happened.
    pub counts: Counts,
    /// Coverage marks.
    pub marks: Marks,
    /// One line for each event, if wanted.
    pub trace: Vec<String>,
}

/// When everything must have come to rest.
#[must_use]
pub fn end(script: &Script) -> Tick {
    World::rest_at(script.over_at_ms()).plus(LONGEST_LEAVE)
}

/// Runs a script to its end, or to the first broken oracle.
#[must_use]
pub fn run(script: &Script, trace: bool) -> Outcome {
    let mut world = World::new(script);
    world.trace = trace.then(Vec::new);
    if run_to_rest(&mut world, script) {
        match world.pending() {
            Some(pending) => world.violate("liveness", pending),
            None => world.come_to_rest(),
        }
        world.run_until(world.now.plus(AT_REST));
    }
    Outcome {
        violation: world.violations.into_iter().next(),
        counts: world.counts,
        marks: world.marks,
        trace: world.trace.unwrap_or_default(),
    }
}

/// Runs until all has come to rest, at `end` at the latest; a run that is not short has all that time. `false`: something
/// went wrong.
fn run_to_rest(world: &mut World, script: &Script) -> bool {
    let end = end(script);
    let mut look = World::begun().plus(Duration::from_millis(script.quiet_at_ms())).plus(LOOK_FIRST);
    while script.options.short == 1 && look < end {
        if !world.run_until(look) {
            return false;
        }
        if world.is_settled() && world.pending().is_none() {
            return true;
        }
        look = look.plus(LOOK_EVERY);
    }
    world.run_until(end)
}

/// A smaller script that breaks the same oracle, and what it breaks.
#[must_use]
pub fn shrink(script: &Script, violation: &Violation) -> (Script, Violation, u32) {
    let (mut best, mut found, mut runs) = (script.clone(), violation.clone(), 0);
    let mut try_it = |candidate: Script, best: &mut Script, found: &mut Violation| {
        if runs >= SHRINK_RUNS_MAX || candidate == *best {
            return false;
        }
        runs += 1;
        match run(&candidate, false).violation {
            Some(same) if same.oracle == found.oracle => {
                (*best, *found) = (candidate, same);
                true
            }
            _ => false,
        }
    };
    let mut progress = true;
    while progress {
        progress = false;
        let mut at = 0;
        while at < best.ops.len() {
            let mut fewer = best.clone();
            fewer.ops.remove(at);
            if try_it(fewer, &mut best, &mut found) {
                progress = true;
            } else {
                at += 1;
            }
        }
        let smaller: [fn(&mut Script); 4] = [
            |script| script.options.services = 1,
            |script| script.options.instances = (script.options.instances / 2).max(1),
            |script| script.options.balancers = 1,
            |script| script.options.noise = 0,
        ];
        for change in smaller {
            let mut candidate = best.clone();
            change(&mut candidate);
            progress |= try_it(candidate, &mut best, &mut found);
        }
        for at in 0..best.ops.len() {
            while let Some(halved) = best.ops.get(at).and_then(|(_, op): &(u64, Op)| op.halved()) {
                let mut candidate = best.clone();
                candidate.ops[at].1 = halved;
                if !try_it(candidate, &mut best, &mut found) {
                    break;
                }
                progress = true;
            }
        }
    }
    (best, found, runs)
}
