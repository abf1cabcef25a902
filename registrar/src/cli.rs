//! The command line: what each option is called, and its text in `--help`. What it comes to is [`crate::config`]'s.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use daemon::log::LogOptions;
use registry::name::ServiceName;
use registry::session::EtcdOptions;

use crate::command::{
    DrainOptions, ExplainOptions, ListOptions, ResumeOptions, ShowOptions, WaitOptions, WeightOptions,
};
use crate::supervise::output::LineFormat;
use crate::supervise::program::Restart;

mod service;

pub use service::{NamingOption, ServiceOptions};

/// Holds an app's place in the registry while the app is healthy.
#[derive(Debug, Parser)]
#[command(name = "registrar", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Register an app while it is healthy; with a command after `--`, start and supervise the app too.
    Run(Box<RunOptions>),
    /// Say who is registered, and what the balancers make of it.
    List(ListOptions),
    /// Say what changes, a line each: records, wishes, and what balancers make of them. Ends with Ctrl-C.
    Watch(ListOptions),
    /// Say all that stands in the registry about one instance. Exits with 1 if it is not registered.
    Show(ShowOptions),
    /// Say why an instance gets traffic, or none: its record, operators' wishes, and what every balancer says about it, each
    /// asked by itself.
    Explain(ExplainOptions),
    /// Take an instance out of rotation, by an override: sticky clients may stay their time (`--now`: not even they).
    Drain(DrainOptions),
    /// Take a drain back.
    Resume(ResumeOptions),
    /// Give an instance another weight than its record's, by an override.
    Weight(WeightOptions),
    /// Return once every balancer says that it is so, exactly and without polling; for deploy scripts. Exits with 1 if it
    /// is not in time.
    Wait(WaitOptions),
    /// Ask a running registrar how it is. Exits as `grpc_health_probe` does: 0, 1, 2, 3, 4.
    Probe(ProbeOptions),
    /// Print the script that completes commands and options in a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Print a manual page, for `man -l -`.
    Man {
        /// Of this command; of the whole without.
        command: Option<String>,
    },
}

/// Options of `run`. Each can be given in the environment instead; a flag wins.
#[derive(Args, Clone, Debug)]
pub struct RunOptions {
    /// A TOML file for what flags cannot say: several services, and processes beside the app.
    #[arg(long, env = "LEASEHOLD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The service that the app is an instance of. Those in the file come on top.
    #[arg(
        long,
        env = "LEASEHOLD_SERVICE",
        value_name = "SERVICE",
        required_unless_present = "config",
        requires = "port"
    )]
    pub service: Option<ServiceName>,
    /// The TCP port that the app listens on.
    #[arg(long, env = "LEASEHOLD_PORT", value_parser = port, value_name = "PORT", requires = "service")]
    pub port: Option<NonZeroU16>,
    /// Of the instance, and its check. Services of the file take from here what the file does not say.
    #[command(flatten)]
    pub instance: ServiceOptions,
    /// How long the registration outlives a registrar that dies, in whole seconds.
    #[arg(long, env = "LEASEHOLD_TTL", default_value = "10s", value_name = "TIME", value_parser = daemon::duration::parse)]
    pub ttl: Duration,
    /// When leaving: longest wait for the balancers to say that they are done; then the app is stopped anyway.
    #[arg(long, env = "LEASEHOLD_LEAVE_TIMEOUT", default_value = "60s", value_name = "TIME", value_parser = daemon::duration::parse)]
    pub leave_timeout: Duration,
    /// When leaving: how long a balancer is still waited for that was present and is not (its lb-sync is being upgraded, or is
    /// cut off): its HAProxy may serve on. One and a half ttl unless told otherwise.
    #[arg(long, env = "LEASEHOLD_LINGER", value_name = "TIME", value_parser = daemon::duration::parse)]
    pub linger: Option<Duration>,
    /// Time the app has to end after TERM, before it is killed.
    #[arg(long, env = "LEASEHOLD_STOP_GRACE", default_value = "10s", value_name = "TIME", value_parser = daemon::duration::parse)]
    pub stop_grace: Duration,
    /// When the app is started again after it has ended; not after exit code 125. It keeps its name in the meantime, and gets no
    /// traffic. With `no` the registrar ends as the app did.
    #[arg(long, env = "LEASEHOLD_RESTART", default_value = "no", value_name = "no|on-failure|always")]
    pub restart: Restart,
    /// How many times in a row it is started again, each less than a minute after the last; then the registrar ends.
    #[arg(long, env = "LEASEHOLD_RESTARTS_MAX", default_value_t = 5, value_name = "N")]
    pub restarts_max: u32,
    /// How the app's output, and that of those beside it, is handed on: as they write it, by whole lines, or as a JSON
    /// object a line with service, instance and process [default: inherit, and lines with processes beside the app].
    #[arg(long, env = "LEASEHOLD_APP_OUTPUT", value_enum, value_name = "FORM")]
    pub app_output: Option<LineFormat>,
    /// A FIFO that gets a copy of it, for a log forwarder; made if nothing stands there. It never waits for its reader:
    /// lines that do not fit are dropped, and counted.
    #[arg(long, env = "LEASEHOLD_APP_OUTPUT_COPY", value_name = "FIFO")]
    pub app_output_copy: Option<PathBuf>,
    /// Where to serve gRPC health and `/healthz`; port 0 takes a free one.
    #[arg(long, env = "LEASEHOLD_LISTEN", default_value = "127.0.0.1:7101", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// TLS on that port.
    #[command(flatten)]
    pub listen_tls: daemon::port::PortTlsOptions,
    /// How to reach etcd.
    #[command(flatten)]
    pub etcd: EtcdOptions,
    /// How to log.
    #[command(flatten)]
    pub log: LogOptions,
    /// The app and its arguments. Without it the registrar is a sidecar of an app that is started elsewhere.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Options of `probe`.
#[derive(Args, Clone, Debug)]
pub struct ProbeOptions {
    /// `HOST:PORT` of the registrar.
    #[arg(long, env = "LEASEHOLD_PROBE_ADDR", default_value = "127.0.0.1:7101", value_name = "HOST:PORT")]
    pub addr: String,
    /// A service's name: the app's check. `registry`: whether it is registered. Nothing: should it get traffic.
    #[arg(long, default_value = "", value_name = "NAME")]
    pub service: String,
    /// Longest the probe may take, connecting included.
    #[arg(long, env = "LEASEHOLD_PROBE_TIMEOUT", default_value = "1s", value_name = "TIME", value_parser = daemon::duration::parse)]
    pub timeout: Duration,
    /// TLS.
    #[command(flatten)]
    pub tls: proto::health::ProbeTlsOptions,
}

fn port(text: &str) -> Result<NonZeroU16, String> {
    text.parse().map_err(|_| "a port is a number from 1 to 65535".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(args: &[&str]) -> Result<RunOptions, clap::Error> {
        let line = ["registrar", "run", "--service", "web", "--port", "80"];
        let cli = Cli::try_parse_from(line.iter().chain(args))?;
        match cli.command {
            Command::Run(options) => Ok(*options),
            _ => unreachable!("the line says run"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_documented_defaults_hold() {
        let options = parse(&[]).unwrap();
        assert_eq!(
            (options.instance.interval, options.instance.check_timeout),
            (Duration::from_secs(2), Duration::from_secs(1))
        );
        assert_eq!((options.instance.rise, options.instance.fall), (2, 3));
        assert_eq!((options.ttl, options.restart), (Duration::from_secs(10), Restart::No));
        assert_eq!(
            (options.leave_timeout, options.stop_grace),
            (Duration::from_mins(1), Duration::from_secs(10))
        );
        assert_eq!(
            (options.instance.sticky, options.instance.inflight),
            (Duration::ZERO, Duration::from_secs(30))
        );
        assert_eq!(options.listen, "127.0.0.1:7101".parse().unwrap());
        assert!(options.command.is_empty());
    }

    #[test]
    fn the_command_is_everything_after_the_dashes() {
        let options = parse(&["--label", "zone=a,v=1=2", "--", "sh", "-c", "exit 1"]).unwrap();
        assert_eq!(options.command, ["sh", "-c", "exit 1"]);
        assert_eq!(options.instance.labels, [("zone".into(), "a".into()), ("v".into(), "1=2".into())]);
    }

    #[test]
    fn what_cannot_be_read_says_what_to_write() {
        for (bad, why) in [
            ("--service=a b --port=1", "1 to 64 of the characters"),
            ("--service=web --port=0", "1 to 65535"),
            ("--service=web --port=1 --instance=-x", "1 to 64 of the characters"),
            ("--service=web --port=1 --interval=2", "500ms"),
            ("--service=web --port=1 --label=zone", "KEY=VALUE"),
            ("--service=web --port=1 --check=ping", "http:/PATH"),
            ("--service=web --port=1 --address=10.0.0.0/40", "IP address"),
            ("--service=web --port=1 --weight=0", "1 to 256"),
            ("--service=web", "--port"),
        ] {
            let args = bad.split(" --").map(|arg| format!("--{}", arg.trim_start_matches("--")));
            let line = ["registrar", "run"].map(str::to_owned).into_iter().chain(args);
            let error = Cli::try_parse_from(line).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn every_command_has_a_manual_page_and_every_shell_its_script() {
        for of in [None, Some("run"), Some("probe")] {
            let page = String::from_utf8(daemon::help::manual::<Cli>(of).unwrap().unwrap()).unwrap();
            assert!(page.contains(".TH registrar") && page.contains("\n.SH"), "{of:?}: {page}");
        }
        assert_eq!(daemon::help::manual::<Cli>(Some("nothing")).unwrap(), None);
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(daemon::help::completions::<Cli>(shell, "registrar")).unwrap();
            assert!(script.contains("registrar") && script.contains("etcd-endpoints"), "{shell}");
        }
    }
}
