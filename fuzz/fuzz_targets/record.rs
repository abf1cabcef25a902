//! Any user with a login may write anything under `instances/` and `overrides/`. Whatever it is, nothing panics, and what
//! reaches HAProxy's socket is one of our commands for that very server, on one line.
#![no_main]

use haproxy::command::MAX_LINE;
use lb_sync::plan::observed::Observed;
use lb_sync::plan::{FirstCheck, Planner, Policy};
use lb_sync::view::{Scope, View};
use libfuzzer_sys::fuzz_target;
use registry::follow::{Change, Entry, Event};
use registry::key::Prefix;
use registry::time::Tick;

/// All that a plan for a service without servers may begin with.
const VERBS: [&str; 3] = ["add server ", "enable health ", "set server "];

fn put(key: Vec<u8>, value: &[u8], revision: i64) -> Event {
    let value = value.to_vec();
    let entry = Entry { key, value, lease: 7, create_revision: revision, mod_revision: revision };
    Event::Changed(vec![Change::Put(entry)])
}

// The input is a key's end, a newline, a record, a newline, an override.
fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(3, |byte| *byte == b'\n');
    let mut part = || parts.next().unwrap_or_default();
    let (name, record, overriding) = (part(), part(), part());
    let now = Tick::from_ms(1);
    let mut view = View::new(Prefix::default());
    let key = |folder: &str, name: &[u8]| [b"/leasehold/v1/", folder.as_bytes(), name].concat();
    for (name, revision) in [(name, 2), (b"web/web-1".as_slice(), 3)] {
        view.fold_instances(now, put(key("instances/", name), record, revision));
        view.fold_overrides(now, put(key("overrides/", name), overriding, revision));
    }
    view.fold_instances(now, Event::InSync);
    view.fold_overrides(now, Event::InSync);
    let mut observed = Observed::default();
    for id in view.instances().keys() {
        observed.backends.entry(id.service.clone()).or_default();
    }
    let Ok(id_base) = 10_000.try_into() else { return };
    let policy = Policy {
        check: None,
        id_base,
        first_check: FirstCheck::Skip,
        init_state: false,
        restart_gap: std::time::Duration::from_secs(30),
    };
    let plan = Planner::new(policy).plan(now, &view, &observed, &Scope::All);
    for step in plan.steps {
        for command in step.commands {
            let line = command.to_string();
            assert!(
                VERBS.iter().any(|verb| line.starts_with(&format!("{verb}{} ", step.id))
                    || line == format!("{verb}{}", step.id)),
                "{line:?}"
            );
            assert!(
                line.len() <= MAX_LINE && line.bytes().all(|b| b.is_ascii_graphic() || b == b' '),
                "{line:?}"
            );
            assert!(!line.contains([';', '<', '\\']), "{line:?}");
        }
    }
});
