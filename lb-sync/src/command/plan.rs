//! `lb-sync plan`: what would be done now, and why, without doing it.

use std::fmt::Write as _;

use registry::name::InstanceId;
use serde_json::json;

use super::dry_run::{Foreseen, dry_run};
use super::{CommandError, CommandOutput, LookOptions, Output, SOMETHING_TO_DO, read, running};
use crate::config::RunConfig;
use crate::plan::Cause;
use crate::scope::Scope;
use crate::status::Reason;
use haproxy::answer::info::Info;

/// Exit code 0: nothing is to be done; 2: something is. `host` is the host's name.
pub async fn plan(options: LookOptions, host: &str) -> Result<CommandOutput, CommandError> {
    let output = options.output;
    let config = RunConfig::new(options.run, host)?;
    let mut registry = read::registry(&config.etcd, &config.pass).await?;
    let unasked = running::adopt_suspects(&config, &mut registry.view).await.err();
    let mut haproxy = read::haproxy(&config.pass.socket).await?;
    let foreseen = dry_run(&config, &registry.view, &mut haproxy, &Scope::All).await?;
    let code = if foreseen.is_nothing() { 0 } else { SOMETHING_TO_DO };
    Ok(match output {
        Output::Text => CommandOutput { text: text(&foreseen, unasked.as_deref()), code },
        Output::Json => {
            CommandOutput::json(&json(&foreseen, registry.revision, &haproxy.info, unasked.as_deref()), code)
        }
    })
}

/// `unasked`: why the running lb-sync could not be asked for its suspects.
fn text(foreseen: &Foreseen, unasked: Option<&str>) -> String {
    let mut text = String::new();
    for step in &foreseen.steps {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}: {}: {}", step.id, step.why.text(), step.lines().join("; "));
    }
    for (why, commands) in &foreseen.others {
        let lines: Vec<String> = commands.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "{why}: {}", lines.join("; "));
    }
    for id in &foreseen.waiting {
        let _ = writeln!(text, "{id}: on its way out: nothing to do but to wait for what is in flight");
    }
    for id in &foreseen.foreign {
        let _ =
            writeln!(text, "{id}: not served: HAProxy has a server of that name that lb-sync did not make");
    }
    if foreseen.is_nothing() {
        text.push_str("nothing to do\n");
    }
    let gone = foreseen.steps.iter().any(|step| step.why == Cause::Status(Reason::NotRegistered));
    if let Some(why) = unasked.filter(|_| gone) {
        let _ = writeln!(
            text,
            "note: {why}: if a running lb-sync keeps one of those that are not registered as a suspect, it stays"
        );
    }
    text
}

fn json(foreseen: &Foreseen, revision: i64, info: &Info, unasked: Option<&str>) -> serde_json::Value {
    let steps: Vec<_> = foreseen
        .steps
        .iter()
        .map(|step| {
            json!({
                "instance": step.id.to_string(),
                "why": step.why.code(),
                "commands": step.lines(),
            })
        })
        .collect();
    let others: Vec<_> = foreseen
        .others
        .iter()
        .map(|(why, commands)| {
            let commands: Vec<String> = commands.iter().map(ToString::to_string).collect();
            json!({ "why": why, "commands": commands })
        })
        .collect();
    let names = |ids: &[InstanceId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
    json!({
        "revision": revision,
        "haproxy": { "version": info.version.to_string(), "pid": info.pid },
        "steps": steps,
        "unasked": unasked,
        "others": others,
        "waiting": names(&foreseen.waiting),
        "foreign": names(&foreseen.foreign),
    })
}

#[cfg(test)]
mod tests {
    use registry::record::Intent;

    use super::*;
    use crate::plan::Step;
    use haproxy::{Command, ServerState};

    fn foreseen() -> Foreseen {
        let id: InstanceId = "web/web-1".parse().unwrap();
        let server = || crate::plan::names::server_path(&id);
        let commands = vec![
            Command::EnableHealth { server: server() },
            Command::SetState { server: server(), state: ServerState::Ready },
        ];
        let steps = vec![Step { id: id.clone(), why: Cause::wanted(Intent::Serve), commands }];
        Foreseen {
            steps,
            waiting: vec!["web/web-2".parse().unwrap()],
            foreign: vec!["web/old".parse().unwrap()],
            others: vec![],
        }
    }

    #[test]
    fn a_line_for_each_step_says_who_why_and_what() {
        let text = text(&foreseen(), Some("nothing answers"));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "web/web-1: it is registered and up: enable health web/web-1; set server web/web-1 state ready"
        );
        assert!(lines[1].starts_with("web/web-2: on its way out"), "{text}");
        assert!(lines[2].starts_with("web/old: not served"), "{text}");
        assert!(!text.contains("nothing answers"), "no instance is gone: {text}");
        assert_eq!(super::text(&Foreseen::default(), None), "nothing to do\n");
        let mut gone = foreseen();
        gone.steps[0].why = Cause::Status(Reason::NotRegistered);
        assert!(super::text(&gone, Some("nothing answers")).contains("note: nothing answers: if a running"));
    }

    #[test]
    fn machines_get_the_same() {
        let info = Info::parse(
            "Name: HAProxy\nVersion: 2.6.12\nPid: 7\nStopping: 0\nUptime_sec: 1\nStart_time_sec: 1\nnode: b\n",
        );
        let json = json(&foreseen(), 12, &info.unwrap(), None);
        assert_eq!(json["revision"], 12);
        assert_eq!(json["haproxy"]["version"], "2.6.12");
        assert_eq!(json["steps"][0]["why"], "registered");
        assert_eq!(json["steps"][0]["commands"][1], "set server web/web-1 state ready");
        assert_eq!(json["waiting"][0], "web/web-2");
    }
}
