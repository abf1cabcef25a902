//! What runs where, and what to try.

use std::fmt::Write as _;

use anyhow::Result;
use testkit::{PREFIX, program};

use crate::lab::{APPS, Lab, SERVICE, name_of};

/// A free name and place for an app that is started by hand.
const BY_HAND: &str = "by-hand";
/// How long an app that was registered by hand stays, in seconds: its lease is not kept alive.
const BY_HAND_S: u32 = 60;

/// The whole text.
pub(crate) fn of(lab: &Lab) -> Result<String> {
    let mut text = String::from("The lab runs, all of it on 127.0.0.1.\n\n");
    // Writing to a String cannot fail.
    for [what, place, process] in places(lab)? {
        let _ = writeln!(text, "  {what:<12} {place:<42} {process}");
    }
    let _ = writeln!(text, "\nTry, in another terminal (Ctrl-C here ends everything):\n");
    for (what, commands) in ideas(lab)? {
        let _ = writeln!(text, "  # {what}");
        for command in commands {
            let _ = writeln!(text, "  {command}");
        }
    }
    text.push_str("\n  demo --tour (make demo TOUR=1) plays all of it by itself, under load");
    Ok(text)
}

fn places(lab: &Lab) -> Result<Vec<[String; 3]>> {
    let stack = &lab.stack;
    let layout = stack.haproxy().layout();
    let process = |daemon: &testkit::process::Daemon| anyhow::Ok(daemon.process()?.pid().to_string());
    let url = |port: u16, path: &str| format!("http://127.0.0.1:{port}{path}");
    let mut rows = vec![
        ["WHAT".into(), "WHERE".into(), "PROCESS".into()],
        ["traffic".into(), url(layout.traffic_port, "/"), process(stack.haproxy().daemon())?],
        ["stats page".into(), url(layout.stats_port, "/"), "the same".into()],
        ["lb-sync's page".into(), url(stack.lb_sync().port(), "/"), process(stack.lb_sync().daemon())?],
        ["etcd".into(), stack.etcd().endpoint(), process(stack.etcd().daemon())?],
    ];
    for n in 1..=APPS {
        let app = lab.app(n)?;
        let (spec, pids) = (app.spec(), words(&app.app_pids()?));
        let place = format!("{} (registrar {})", url(spec.app_port, "/"), spec.registrar_port);
        let registrar = process(app.registrar())?;
        rows.push([name_of(n), place, format!("registrar {registrar}, app {pids}")]);
    }
    rows.push(["logs".into(), stack.home().join("*.log").display().to_string(), String::new()]);
    Ok(rows)
}

fn ideas(lab: &Lab) -> Result<Vec<(&'static str, Vec<String>)>> {
    let traffic = lab.stack.haproxy().layout().traffic_port;
    let etcdctl = format!("ETCDCTL_API=3 etcdctl --endpoints={}", lab.stack.etcd().endpoint());
    let socket = lab.stack.haproxy().socket().display();
    let webapp = program::ours("webapp")?;
    let registrar = program::ours("registrar")?.display().to_string();
    let etcd = format!("--etcd-endpoints {}", lab.stack.etcd().endpoint());
    let (leaving, dying) = (lab.app(2)?, lab.app(3)?);
    let port = lab.app_port(APPS + 1);
    let key = format!("{PREFIX}/instances/{SERVICE}/{BY_HAND}");
    Ok(vec![
        (
            "who answers: each in turn",
            vec![format!("for i in 1 2 3 4; do curl -s http://127.0.0.1:{traffic}/; echo; done")],
        ),
        ("what is registered, and what the balancer makes of it", vec![format!("{registrar} list {etcd}")]),
        (
            "web-1 is drained until it is taken back: no request fails",
            vec![
                format!("{registrar} drain {SERVICE}/web-1 --reason 'to see it' {etcd}"),
                format!("{registrar} wait {SERVICE}/web-1 --for drained {etcd}"),
                format!("{registrar} resume {SERVICE}/web-1 {etcd}"),
            ],
        ),
        ("what stands in etcd", vec![format!("{etcdctl} get --prefix {PREFIX}/")]),
        ("what HAProxy has", vec![format!("echo 'show servers state' | socat - UNIX-CONNECT:{socket}")]),
        (
            "a fourth app, registered by hand: it leaves when its lease ends, after a minute",
            vec![
                format!("{} --listen 127.0.0.1:{port} --tag {BY_HAND} &", webapp.display()),
                format!("lease=$({etcdctl} lease grant {BY_HAND_S} | cut -d' ' -f2)"),
                format!("{etcdctl} put --lease=$lease {key} '{{\"address\":\"127.0.0.1\",\"port\":{port}}}'"),
            ],
        ),
        (
            "web-2 leaves in order: no request fails",
            vec![format!("kill -TERM {}", leaving.registrar().process()?.pid())],
        ),
        (
            "web-3 dies with its registrar, as if its host were gone: no request fails either",
            vec![format!("kill -9 {} {}", dying.registrar().process()?.pid(), words(&dying.app_pids()?))],
        ),
    ])
}

fn words(pids: &[u32]) -> String {
    let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
    pids.join(" ")
}
