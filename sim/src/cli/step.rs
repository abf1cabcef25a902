//! `sim step`: an event at a time, with the state of every machine.

use std::fmt::Write as _;
use std::io::{self, BufRead, Write};
use std::time::Duration;

use registry::time::Tick;

use crate::run;
use crate::script::Script;
use crate::world::World;

const HELP: &str =
    "Enter: the next event; a number: so many events; +MS: so many milliseconds; s: the state; q: the end";

/// Walks through `script`, with commands from `input`; at `from_ms` at first.
pub fn step(script: &Script, from_ms: u64, input: &mut impl BufRead, out: &mut impl Write) -> io::Result<()> {
    let mut world = World::new(script);
    world.trace = Some(Vec::new());
    let end = run::end(script);
    advance(&mut world, Advance::To(Tick::from_ms(1_000 + from_ms)), end);
    world.trace = Some(Vec::new());
    writeln!(out, "{HELP}\n{}", state(&world))?;
    for line in input.lines() {
        let line = line?;
        let how = match line.trim() {
            "q" => return Ok(()),
            "s" => {
                writeln!(out, "{}", state(&world))?;
                continue;
            }
            "" => Advance::Events(1),
            other => {
                let Some(how) = parse(other, world.now) else {
                    writeln!(out, "{HELP}")?;
                    continue;
                };
                how
            }
        };
        let is_over = advance(&mut world, how, end);
        for line in world.trace.replace(Vec::new()).unwrap_or_default() {
            writeln!(out, "{line}")?;
        }
        if let Some(violation) = world.violations.first() {
            return writeln!(out, "{}\n{violation}", state(&world));
        }
        if is_over {
            return writeln!(
                out,
                "{}\nthe end: {}",
                state(&world),
                world.pending().unwrap_or_else(|| "at rest".into())
            );
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
enum Advance {
    Events(u64),
    To(Tick),
}

fn parse(text: &str, now: Tick) -> Option<Advance> {
    match text.strip_prefix('+') {
        Some(ms) => Some(Advance::To(now.plus(Duration::from_millis(ms.parse().ok()?)))),
        None => Some(Advance::Events(text.parse().ok()?)),
    }
}

/// Returns whether the run is over.
fn advance(world: &mut World, how: Advance, end: Tick) -> bool {
    match how {
        Advance::To(at) => {
            world.run_until(at.min(end));
        }
        Advance::Events(count) => {
            for _ in 0..count {
                if !world.violations.is_empty() || world.now >= end || !world.step() {
                    break;
                }
            }
        }
    }
    world.now >= end
}

/// Where everything stands.
fn state(world: &World) -> String {
    let ms = world.now.since(Tick::from_ms(1_000)).as_millis();
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "-- {ms} ms: etcd {} at revision {}",
        if world.etcd.is_up() { "is up" } else { "is away" },
        world.etcd.revision()
    );
    for (key, entry) in world.etcd.below("/") {
        let _ = writeln!(
            text,
            "   {key} (revision {}, lease {}) {}",
            entry.mod_revision,
            entry.lease,
            String::from_utf8_lossy(&entry.value)
        );
    }
    for (at, slot) in world.registrars.iter().enumerate() {
        let _ = match &slot.process {
            Some(process) => {
                writeln!(text, "-- registrar {at} {}: app {:?}, {:?}", slot.name, slot.app, process.member())
            }
            None => writeln!(text, "-- registrar {at} {}: does not run; app {:?}", slot.name, slot.app),
        };
    }
    for (at, slot) in world.balancers.iter().enumerate() {
        let said = slot.process.as_ref().map_or_else(
            || "lb-sync does not run".to_owned(),
            |process| {
                let condition = process.machine().condition(world.now);
                let view = condition.view;
                let suspects: Vec<String> = view.suspects().map(ToString::to_string).collect();
                let sync = if view.in_sync() { "in sync" } else { "out of sync" };
                format!(
                    "{sync} at revision {}, heard {:?}, suspects {suspects:?}",
                    view.revision(),
                    view.heard().map(|heard| world.now.since(heard))
                )
            },
        );
        let _ = writeln!(text, "-- lb-{at}: {said}");
        for (id, worker) in &slot.haproxy.workers {
            let which = if Some(*id) == slot.haproxy.current() { "" } else { ", on its way out" };
            let _ = writeln!(text, "   worker {id}{which}: {} streams", worker.streams.len());
            for ((backend, name), server) in &worker.servers {
                let _ = writeln!(text, "     {backend}/{name} {server:?}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_as_far_as_it_is_told_and_says_where_everything_stands() {
        let script = Script::draw(3, None);
        let mut out = Vec::new();
        step(&script, 7_000, &mut "\n3\n+100\nwhat\ns\nq\n".as_bytes(), &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains("-- 7000 ms: etcd is up"), "{out}");
        assert!(out.contains("/leasehold/v1/instances/web/web-0"), "{out}");
        assert!(out.contains("-- lb-0: in sync"), "{out}");
        assert_eq!(out.matches(HELP).count(), 2);
    }
}
