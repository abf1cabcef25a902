//! What the command line and the file resolve to.

use clap::Parser;

use super::file::File;
use super::*;
use crate::cli::{Cli, Command};
use crate::supervise::output::LineFormat;
use crate::supervise::program::Restart;

fn config(args: &[&str], host: &str) -> Result<Config, String> {
    let line = ["registrar", "run", "--service", "web", "--port", "80"];
    let cli = Cli::try_parse_from(line.iter().chain(args)).map_err(|error| error.to_string())?;
    opened(cli, host)
}

#[test]
fn the_host_is_the_instance_unless_one_is_named() {
    let naming = |args, host| config(args, host).unwrap().services[0].member.naming.clone();
    assert_eq!(naming(&[], "node-7"), Naming::Host("node-7".parse().unwrap()));
    assert_eq!(naming(&["--instance", "a"], "!"), Naming::Is("a".parse().unwrap()));
    assert_eq!(naming(&["--instance", "auto"], "!"), Naming::Auto);
    let error = config(&[], "bad name").unwrap_err();
    assert!(error.contains("--instance NAME") && error.contains("1 to 64"), "{error}");
}

#[test]
fn what_cannot_be_used_is_told_with_its_flag() {
    for (bad, why) in [
        (&["--ttl", "1s"][..], "--ttl is 1s; from 2s"),
        (&["--ttl", "2500ms"], "whole seconds"),
        (&["--sticky", "100ms"], "--sticky"),
        (&["--inflight", "30days"], "a week"),
        (&["--interval", "1ms"], "--interval is 1ms; from 10ms to 1h"),
        (&["--leave-timeout", "2days"], "--leave-timeout"),
        (&["--label", "a=1", "--label", "a=2"], "--label a is given twice"),
        (&["--address", "0.0.0.0"], "reached"),
        (&["--etcd-endpoints", "etcd:2379"], "write http://"),
        (&["--check", "grpcs"], "--check-cacert"),
        (&["--check", "https:/", "--check-cacert", "/no/such"], "/no/such"),
        (&["--config", "/no/such"], "--config /no/such"),
    ] {
        let error = config(bad, "h").unwrap_err();
        assert!(error.contains(why), "{bad:?}: {error}");
    }
}

#[test]
fn the_record_carries_what_was_asked_for() {
    let config =
        config(&["--address", "10.0.0.5", "--weight", "7", "--sticky", "9s", "--label", "zone=a"], "h")
            .unwrap();
    let record = &config.services[0].member.record;
    assert_eq!(record.endpoint(), "10.0.0.5:80".parse().unwrap());
    assert_eq!((record.weight.get(), record.drain.sticky_s, record.drain.inflight_s), (7, 9, 30));
    assert_eq!(record.labels["zone"], "a");
}

fn opened(cli: Cli, host: &str) -> Result<Config, String> {
    let Command::Run(options) = cli.command else { unreachable!("the line says run") };
    let file = options
        .config
        .as_deref()
        .map(File::read)
        .transpose()
        .map_err(|error| ConfigError::from(error).to_string())?;
    let host = || host.parse().map_err(HostNameError);
    let config = Config::resolve(&options, file.unwrap_or_default(), host).and_then(open);
    config.map(|open| open.config).map_err(|error| error.to_string())
}

fn with_file(text: &str, args: &[&str]) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leasehold.toml");
    std::fs::write(&path, text).unwrap();
    let line = ["registrar", "run", "--config", path.to_str().unwrap()];
    let cli = Cli::try_parse_from(line.iter().chain(args)).map_err(|error| error.to_string())?;
    opened(cli, "host")
}

#[test]
fn the_file_adds_services_that_take_from_the_flags_what_they_do_not_say() {
    let text = r#"
        [[service]]
        name = "admin"
        port = 9000
        check = "http:/up"
        check_status = "200"
        labels = { zone = "b" }
        interval = "5s"
    "#;
    let flags = ["--service", "web", "--port", "80", "--weight", "7", "--label", "zone=a", "--rise", "4"];
    let config = with_file(text, &flags).unwrap();
    let [web, admin] = &config.services[..] else { panic!("{config:?}") };
    assert_eq!((web.member.service.as_str(), admin.member.service.as_str()), ("web", "admin"));
    assert_eq!((web.member.record.port.get(), admin.member.record.port.get()), (80, 9_000));
    assert_eq!((admin.member.record.weight.get(), admin.probe.rise), (7, 4));
    assert_eq!(admin.member.record.labels["zone"], "b");
    assert_eq!(admin.probe.check.to_string(), "http:/up");
    assert_eq!((admin.probe.interval, web.probe.interval), (Duration::from_secs(5), Duration::from_secs(2)));
    assert_eq!(admin.member.naming, Naming::Host("host".parse().unwrap()));
}

#[test]
fn processes_stand_in_the_order_of_their_start() {
    let text = r#"
        [[side]]
        name = "late"
        command = ["late"]
        start = "after"
        restart = "on-failure"
        restarts_max = 3

        [[side]]
        name = "forwarder"
        command = ["forward", "--from", "/run/log"]
        env = { TO = "central" }
    "#;
    let config = with_file(text, &["--", "my-app", "-x"]).unwrap();
    let names: Vec<_> = config.programs.iter().map(|one| one.name.as_str()).collect();
    assert_eq!((names, config.app), (vec!["forwarder", "app", "late"], Some(1)));
    assert_eq!(config.output.format, LineFormat::Lines);
    let [forwarder, app, late] = &config.programs[..] else { panic!("three") };
    assert_eq!((forwarder.policy.restart, forwarder.policy.restarts_max), (Restart::Always, None));
    assert_eq!((late.policy.restart, late.policy.restarts_max), (Restart::OnFailure, Some(3)));
    assert_eq!((app.policy.restart, app.args.len()), (Restart::No, 1));
    assert_eq!(forwarder.env, [("TO".into(), "central".into())]);
}

#[test]
fn a_bad_file_is_told_with_what_is_wrong() {
    for (text, why) in [
        ("[[servce]]", "unknown field `servce`"),
        ("[[service]]\nname = \"web\"", "missing field `port`"),
        ("[[service]]\nname = \"a b\"\nport = 1", "1 to 64 of the characters"),
        ("[[service]]\nname = \"web\"\nport = 0", "nonzero"),
        ("[[service]]\nname = \"web\"\nport = 1\ncheck = \"ping\"", "http:/PATH"),
        ("[[service]]\nname = \"web\"\nport = 1\ninterval = \"2\"", "500ms"),
        ("[[service]]\nname = \"web\"\nport = 1\nrise = 0", "rise is 0"),
        (
            "[[service]]\nname = \"web\"\nport = 1\n[[service]]\nname = \"web\"\nport = 2",
            "web/host is given twice",
        ),
        ("[[side]]\nname = \"x\"\ncommand = []", "the command of x is empty"),
        ("[[side]]\nname = \"app\"\ncommand = [\"a\"]", "two processes are called"),
        ("[[side]]\nname = \"x\"\ncommand = [\"a\"]\nrestart = \"never\"", "on-failure"),
        ("", "there is nothing to run"),
    ] {
        let error = with_file(text, &[]).unwrap_err();
        assert!(error.contains(why), "{text:?}: {error}");
    }
}

#[test]
fn a_leave_that_is_cut_short_is_warned_of() {
    assert!(config(&[], "h").unwrap().warnings().is_empty());
    let warnings = config(&["--leave-timeout", "10s"], "h").unwrap().warnings();
    assert!(warnings[0].contains("--leave-timeout (10s) is shorter"), "{warnings:?}");
}
