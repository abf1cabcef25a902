//! What the options come to, checked: what stands here can be used.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use registry::lease::{TTL_S_MAX, TTL_S_MIN};
use registry::name::{InstanceName, NAME_LEN_MAX, NameError, ServiceName};
use registry::record::{DrainTimes, InstanceRecord, RecordError, parse, to_value};
use registry::session::{EtcdConfig, OptionsError};

use crate::cli::{NamingOption, RunOptions, ServiceOptions};
use crate::file::{File, FileError, SideStart, SideTable};
use crate::probe::{Check, CheckTls, CheckTlsError, Expected, ProbeConfig};
use crate::supervise::ProgramConfig;
use crate::supervise::output::{Form, OutputConfig};
use crate::supervise::program::{Policy, Restart};
use leasehold::member::MemberConfig;
use leasehold::member::claim::DIGITS_MAX;
use leasehold::{AddressChoice, Naming};

/// Bounds of a check's interval and timeout. Below, the checks are the load.
const CHECK_TIME_MIN: Duration = Duration::from_millis(10);
const CHECK_TIME_MAX: Duration = Duration::from_hours(1);
/// Longest wait for acks, and longest grace of the app.
const WAIT_MAX: Duration = Duration::from_hours(24);
/// Checks in a row that may be asked for.
const CHECKS_MAX: u32 = 1_000;
/// Services of one registrar, and processes beside the app.
const SERVICES_MAX: usize = 100;
const SIDES_MAX: usize = 32;
/// What the app is called in logs and metrics.
const APP: &str = "app";
/// Time that a process beside the app has to end after TERM, unless the file says otherwise.
const SIDE_STOP_GRACE: Duration = Duration::from_secs(10);

/// What `registrar run` is to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the app is an instance of; nothing where only processes are to be supervised.
    pub services: Vec<ServiceConfig>,
    /// How long the registration outlives this process.
    pub ttl: Duration,
    /// The app and those beside it, in the order of their start.
    pub programs: Vec<ProgramConfig>,
    /// Which of them is the app; `None` in the sidecar form.
    pub app: Option<usize>,
    /// What becomes of what they print.
    pub output: OutputConfig,
    /// Where health is served.
    pub listen: SocketAddr,
    /// TLS on that port.
    pub listen_tls: daemon::port::PortTlsOptions,
    /// How to reach etcd.
    pub etcd: EtcdConfig,
}

/// The app as an instance of one service.
#[derive(Clone, Debug)]
pub struct ServiceConfig {
    /// Its membership.
    pub member: MemberConfig,
    /// How its health is found out.
    pub probe: ProbeConfig,
}

/// Options that can be read but not used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The host's name is no name for an instance.
    #[error("the host's name cannot be the instance's: {0}\n  give the instance a name with --instance NAME")]
    HostNameIllegal(NameError),
    /// A time out of its range.
    #[error("{flag} is {}; from {} to {} is taken", humantime::format_duration(*.given), humantime::format_duration(*.least), humantime::format_duration(*.most))]
    Time {
        /// The flag.
        flag: &'static str,
        /// What was given.
        given: Duration,
        /// The shortest that is taken.
        least: Duration,
        /// The longest.
        most: Duration,
    },
    /// A time that stands in the record, or in etcd, in seconds.
    #[error("{flag} is {}; it is kept in whole seconds: round it", humantime::format_duration(*.given))]
    Fraction {
        /// The flag.
        flag: &'static str,
        /// What was given.
        given: Duration,
    },
    /// The file.
    #[error("{0}\n  docs/registrar.md lists what may stand in it")]
    File(#[from] FileError),
    /// What the file asks for cannot be.
    #[error("the file of --config: {0}")]
    Table(String),
    /// Nothing is to be done.
    #[error(
        "there is nothing to run: name a service (--service and --port, or [[service]] in the file), or a command"
    )]
    Nothing,
    /// TLS of a check.
    #[error(transparent)]
    CheckTls(#[from] CheckTlsError),
    /// A check that cannot be made as it is asked for.
    #[error("--check {0} needs the CA of the app's certificate: give it with --check-cacert FILE")]
    CheckWithoutCa(Check),
    /// Two services under one name.
    #[error("{0} is given twice: an instance can be registered only once")]
    Twice(String),
    /// Too long for a number after it.
    #[error("the service {0} has too long a name for numbered instances: name this one with --instance NAME")]
    NoRoomForNumber(ServiceName),
    /// A label given twice.
    #[error("--label {0} is given twice")]
    LabelTwice(String),
    /// Balancers would refuse the record.
    #[error(
        "the record would be refused by every balancer: {0}\n  check --address, --label, --sticky, --inflight and --slow-start"
    )]
    Record(RecordError),
    /// The options for etcd.
    #[error(transparent)]
    Etcd(#[from] OptionsError),
}

impl Config {
    /// Checks `options` and reads the file they name; `host_name` is asked only where an instance is not named.
    pub fn from_options(options: &RunOptions, host_name: impl Fn() -> String) -> Result<Self, ConfigError> {
        let file = options.config.as_deref().map(File::read).transpose()?.unwrap_or_default();
        for (flag, given) in
            [("--leave-timeout", options.leave_timeout), ("--stop-grace", options.stop_grace)]
        {
            within(flag, given, Duration::ZERO, WAIT_MAX)?;
        }
        whole_seconds("--ttl", options.ttl)?;
        within("--ttl", options.ttl, Duration::from_secs(TTL_S_MIN), Duration::from_secs(TTL_S_MAX))?;
        let (programs, app) = programs(options, file.sides)?;
        let flags = options
            .service
            .clone()
            .zip(options.port)
            .map(|(name, port)| (name, port, options.instance.clone()));
        let tables = file.services.into_iter().map(|table| {
            let (name, port) = (table.name.clone(), table.port);
            (name, port, table.over(&options.instance))
        });
        let services: Vec<_> = flags.into_iter().chain(tables).collect();
        let services = services
            .into_iter()
            .map(|(name, port, of)| service(name, port, &of, options.leave_timeout, &host_name))
            .collect::<Result<Vec<_>, _>>()?;
        once_each(&services)?;
        if services.is_empty() && programs.is_empty() {
            return Err(ConfigError::Nothing);
        }
        let form = if programs.len() > 1 { Form::Lines } else { Form::Inherit };
        Ok(Self {
            services,
            ttl: options.ttl,
            app,
            output: OutputConfig {
                form: options.app_output.unwrap_or(form),
                copy: options.app_output_copy.clone(),
            },
            programs,
            listen: options.listen,
            listen_tls: options.listen_tls.clone(),
            etcd: options.etcd.checked()?,
        })
    }

    /// What can be used but is hardly meant; said once at start.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = vec![];
        for ServiceConfig { member, probe } in &self.services {
            let drain = member.record.drain.sticky().saturating_add(member.record.drain.inflight());
            if member.leave_max < drain {
                warnings.push(format!(
                    "--leave-timeout ({}) is shorter than --sticky and --inflight together ({}): the app may be stopped while it still serves",
                    humantime::format_duration(member.leave_max),
                    humantime::format_duration(drain),
                ));
            }
            if self.app.is_none() && probe.check == Check::None {
                warnings
                    .push("--check none without a command: nothing will notice when the app is gone".into());
            }
        }
        warnings
    }
}

fn service(
    service: ServiceName,
    port: NonZeroU16,
    of: &ServiceOptions,
    leave_max: Duration,
    host_name: &impl Fn() -> String,
) -> Result<ServiceConfig, ConfigError> {
    let naming = match &of.instance {
        Some(NamingOption::Is(name)) => Naming::Is(name.clone()),
        Some(NamingOption::Auto) if service.as_str().len() + 1 + DIGITS_MAX > NAME_LEN_MAX => {
            return Err(ConfigError::NoRoomForNumber(service));
        }
        Some(NamingOption::Auto) => Naming::Auto,
        None => Naming::Is(host_name().parse::<InstanceName>().map_err(ConfigError::HostNameIllegal)?),
    };
    let record = record(port, of)?;
    let member = MemberConfig { service, naming, record, address: of.address.clone(), leave_max };
    Ok(ServiceConfig { member, probe: probe(of)? })
}

fn probe(of: &ServiceOptions) -> Result<ProbeConfig, ConfigError> {
    for (flag, given) in [("--interval", of.interval), ("--check-timeout", of.check_timeout)] {
        within(flag, given, CHECK_TIME_MIN, CHECK_TIME_MAX)?;
    }
    within("--start-grace", of.start_grace, Duration::ZERO, WAIT_MAX)?;
    for (flag, given) in [("rise", of.rise), ("fall", of.fall)] {
        if !(1..=CHECKS_MAX).contains(&given) {
            return Err(ConfigError::Table(format!("{flag} is {given}; from 1 to {CHECKS_MAX} is taken")));
        }
    }
    let tls = match &of.check {
        Check::Grpc { tls: true, .. } if of.check_cacert.is_none() => {
            return Err(ConfigError::CheckWithoutCa(of.check.clone()));
        }
        Check::Http { tls: true, .. } | Check::Grpc { tls: true, .. } => {
            Some(CheckTls::new(of.check_cacert.as_deref(), of.check_name.as_deref())?)
        }
        _ => None,
    };
    Ok(ProbeConfig {
        check: of.check.clone(),
        expected: Expected {
            statuses: of.check_status.clone(),
            headers: of.check_headers.clone(),
            body: of.check_body.clone(),
        },
        tls,
        start_grace: of.start_grace,
        interval: of.interval,
        timeout: of.check_timeout,
        rise: of.rise,
        fall: of.fall,
    })
}

fn once_each(services: &[ServiceConfig]) -> Result<(), ConfigError> {
    if services.len() > SERVICES_MAX {
        return Err(ConfigError::Table(format!("there are more than {SERVICES_MAX} services")));
    }
    let mut seen = BTreeSet::new();
    for ServiceConfig { member, .. } in services {
        if let Naming::Is(name) = &member.naming
            && !seen.insert((&member.service, name))
        {
            return Err(ConfigError::Twice(format!("{}/{name}", member.service)));
        }
    }
    Ok(())
}

/// The app and those beside it in the order of their start, and which is the app.
fn programs(
    options: &RunOptions,
    sides: Vec<SideTable>,
) -> Result<(Vec<ProgramConfig>, Option<usize>), ConfigError> {
    if sides.len() > SIDES_MAX {
        return Err(ConfigError::Table(format!("there are more than {SIDES_MAX} processes beside the app")));
    }
    let mut names = BTreeSet::from([APP.to_owned()]);
    let (mut before, mut after) = (vec![], vec![]);
    for table in sides {
        let start = table.start;
        let side = side(table)?;
        if !names.insert(side.name.clone()) {
            return Err(ConfigError::Table(format!("two processes are called {:?}", side.name)));
        }
        if start == SideStart::Before { before.push(side) } else { after.push(side) }
    }
    let mut command = options.command.iter().cloned();
    let app = command.next().map(|program| ProgramConfig {
        name: APP.into(),
        program,
        args: command.collect(),
        env: vec![],
        policy: Policy {
            restart: options.restart,
            restarts_max: Some(options.restarts_max),
            stop_grace: options.stop_grace,
        },
    });
    let at = app.is_some().then_some(before.len());
    Ok((before.into_iter().chain(app).chain(after).collect(), at))
}

fn side(table: SideTable) -> Result<ProgramConfig, ConfigError> {
    // The same rule as for all our names: it stands in logs and labels.
    let name = table.name.parse::<InstanceName>();
    let name = name.map_err(|_| {
        ConfigError::Table(format!(
            "a process beside the app is called {:?}: use 1 to 64 of the characters A-Z a-z 0-9 _ . -",
            table.name
        ))
    })?;
    let mut command = table.command.into_iter().map(Into::into);
    let Some(program) = command.next() else {
        return Err(ConfigError::Table(format!("the command of {name} is empty")));
    };
    let stop_grace = table.stop_grace.unwrap_or(SIDE_STOP_GRACE);
    within("stop_grace", stop_grace, Duration::ZERO, WAIT_MAX)?;
    let restart = table.restart.unwrap_or(Restart::Always);
    let policy = Policy { restart, restarts_max: table.restarts_max, stop_grace };
    Ok(ProgramConfig {
        name: name.to_string(),
        program,
        args: command.collect(),
        env: table.env.into_iter().collect(),
        policy,
    })
}

/// The record, but for what is known only later. It is read back as a balancer will: what that refuses, we refuse here.
fn record(port: NonZeroU16, of: &ServiceOptions) -> Result<InstanceRecord, ConfigError> {
    let address = match of.address {
        AddressChoice::Is(address) => address,
        _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let mut labels = BTreeMap::new();
    for (key, value) in &of.labels {
        if labels.insert(key.clone(), value.clone()).is_some() {
            return Err(ConfigError::LabelTwice(key.clone()));
        }
    }
    let mut record = InstanceRecord::new(address, port);
    record.weight = of.weight;
    record.labels = labels;
    record.slow_start_s = whole_seconds("--slow-start", of.slow_start)?;
    record.drain = DrainTimes {
        sticky_s: whole_seconds("--sticky", of.sticky)?,
        inflight_s: whole_seconds("--inflight", of.inflight)?,
    };
    parse(&to_value(&record)).map_err(ConfigError::Record)
}

fn within(flag: &'static str, given: Duration, least: Duration, most: Duration) -> Result<(), ConfigError> {
    if (least..=most).contains(&given) { Ok(()) } else { Err(ConfigError::Time { flag, given, least, most }) }
}

fn whole_seconds(flag: &'static str, given: Duration) -> Result<u32, ConfigError> {
    if given.subsec_nanos() > 0 {
        return Err(ConfigError::Fraction { flag, given });
    }
    // What is longer is over the record's bound too, and is refused there.
    Ok(u32::try_from(given.as_secs()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn config(args: &[&str], host: &str) -> Result<Config, String> {
        let line = ["registrar", "run", "--service", "web", "--port", "80"];
        let cli = Cli::try_parse_from(line.iter().chain(args)).map_err(|error| error.to_string())?;
        let Command::Run(options) = cli.command else { unreachable!("the line says run") };
        Config::from_options(&options, || host.into()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_host_is_the_instance_unless_one_is_named() {
        let naming = |args, host| config(args, host).unwrap().services[0].member.naming.clone();
        assert_eq!(naming(&[], "node-7"), Naming::Is("node-7".parse().unwrap()));
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

    fn with_file(text: &str, args: &[&str]) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leasehold.toml");
        std::fs::write(&path, text).unwrap();
        let line = ["registrar", "run", "--config", path.to_str().unwrap()];
        let cli = Cli::try_parse_from(line.iter().chain(args)).map_err(|error| error.to_string())?;
        let Command::Run(options) = cli.command else { unreachable!("the line says run") };
        Config::from_options(&options, || "host".into()).map_err(|error| error.to_string())
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
        assert_eq!(
            (admin.probe.interval, web.probe.interval),
            (Duration::from_secs(5), Duration::from_secs(2))
        );
        assert_eq!(admin.member.naming, Naming::Is("host".parse().unwrap()));
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
        assert_eq!(config.output.form, Form::Lines);
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
}
